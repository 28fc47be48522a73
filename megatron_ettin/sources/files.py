"""Which files a corpus is built from: names, globs and folders become a list of sources in a stable order."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from megatron_ettin.errors import DataError

FORMATS = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".txt": "txt", ".text": "txt", ".md": "txt",
    ".parquet": "parquet", ".mds": "mds",
}  # fmt: skip
"""Format by the end of the name, before a compression suffix."""
COMPRESSIONS = {".gz": "gz", ".zst": "zst", ".zstd": "zst"}
FORMAT_NAMES = ("jsonl", "txt", "parquet", "mds")
MDS_INDEX = "index.json"


@dataclass(frozen=True, kw_only=True)
class Source:
    """One input file, or the part of it that belongs to this shard."""

    path: Path
    format: str
    """jsonl, txt, parquet or mds."""
    compression: str | None
    size: int
    """Bytes of the whole file."""
    modified: int
    """Time of the last change, in nanoseconds; a resumed build checks it."""
    begin: int = 0
    """First byte of the part; other formats than plain jsonl are taken whole or not at all."""
    end: int = 0
    """One past the last byte of the part."""

    @property
    def kind(self) -> str:
        """Format and compression, as the manifest names them."""
        return f"{self.format}.{self.compression}" if self.compression else self.format

    @property
    def splits(self) -> bool:
        """Whether a shard may hold a part of this file."""
        return self.format == "jsonl" and self.compression is None

    @property
    def bytes(self) -> int:
        """Bytes of the part."""
        return self.end - self.begin


def detect(path: Path, wanted: str) -> tuple[str, str | None] | None:
    """Format and compression of a file by its name; None when the name says nothing and ``wanted`` is auto."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compression = COMPRESSIONS.get(suffixes[-1]) if suffixes else None
    if compression:
        suffixes.pop()
    if wanted != "auto":
        return wanted, compression
    format = FORMATS.get(suffixes[-1]) if suffixes else None
    return (format, compression) if format else None


def _is_mds_folder(folder: Path) -> bool:
    try:
        content = json.loads((folder / MDS_INDEX).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "shards" in content


def mds_shards(folder: Path) -> list[Path]:
    """The shard files that an MDS index names, in its order: as they lie there, compressed or not. Raises DataError."""
    index = folder / MDS_INDEX
    try:
        shards = json.loads(index.read_bytes())["shards"]
        names = [(shard["raw_data"]["basename"], (shard.get("zip_data") or {}).get("basename")) for shard in shards]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{index}: not the index of an MDS folder ({error!r})") from error
    paths = []
    for raw, zipped in names:
        choices = [folder / Path(name).name for name in (raw, zipped) if name]
        found = next((path for path in choices if path.is_file()), None)
        if found is None:
            raise DataError(f"{index}: names the shard {raw}, which is not there; fetch it, or repair the index")
        paths.append(found)
    return paths


@dataclass
class Inputs:
    """The files found, and how many were left out because their names say nothing."""

    files: list[tuple[Path, str, str | None]]
    ignored: list[Path]


def _walk(folder: Path) -> Iterable[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if _is_mds_folder(Path(parent)):
            yield Path(parent, MDS_INDEX)
            continue
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))


def _add_file(path: Path, wanted: str, found: Inputs, *, named: bool) -> None:
    if path.name == MDS_INDEX and _is_mds_folder(path.parent):
        for shard in mds_shards(path.parent):
            found.files.append((shard, "mds", "zst" if shard.suffix in (".zstd", ".zst") else None))
        return
    kind = detect(path, wanted)
    if kind is not None:
        found.files.append((path, *kind))
    elif named:
        raise DataError(
            f"{path}: the name says no format ({', '.join(FORMATS)}, each also with .gz or .zst); "
            f"say --input-format {'|'.join(FORMAT_NAMES)}"
        )
    else:
        found.ignored.append(path)


def find_inputs(inputs: Sequence[str | Path], wanted: str = "auto") -> Inputs:
    """Resolve names, globs and folders. Globs and folders are sorted; the order of the arguments is kept.

    Raises DataError for a name that is not there, a glob or folder without a usable file, or an unknown format.
    """
    found = Inputs([], [])
    for item in inputs:
        path, before = Path(item), len(found.files)
        if path.is_dir():
            for file in _walk(path):
                _add_file(file, wanted, found, named=False)
        elif path.exists():
            _add_file(path, wanted, found, named=True)
        elif glob.has_magic(str(item)):
            for name in sorted(glob.glob(str(item), recursive=True)):
                if not Path(name).is_dir():
                    _add_file(Path(name), wanted, found, named=True)
        else:
            raise DataError(f"{item}: no such file or folder")
        if len(found.files) == before:
            raise DataError(f"{item}: no input file there ({', '.join(FORMATS)}, each also with .gz or .zst)")
    return found


def make_sources(files: Iterable[tuple[Path, str, str | None]]) -> list[Source]:
    """Sources that hold each file whole, with size and time of change. Raises DataError for an unreadable one."""
    sources = []
    for path, format, compression in files:
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        sources.append(
            Source(
                path=path, format=format, compression=compression, size=status.st_size,
                modified=status.st_mtime_ns, begin=0, end=status.st_size,
            )
        )  # fmt: skip
    return sources


def shard_of(sources: Sequence[Source], index: int, count: int) -> list[Source]:
    """The part ``index`` of ``count`` equal parts of all bytes. The parts in order are the whole.

    A plain jsonl file is cut anywhere: a line belongs to the part that holds its first byte. Any other file belongs
    whole to the part that holds its first byte.
    """
    total = sum(source.size for source in sources)
    first, last = total * index // count, total * (index + 1) // count
    chosen, start = [], 0
    for source in sources:
        holds_start = first <= start < last or (index == count - 1 and start == total)
        if source.splits and source.size:
            begin, end = max(first - start, 0), min(last - start, source.size)
        else:
            begin, end = 0, source.size
        if begin < end if source.splits and source.size else holds_start:
            chosen.append(replace(source, begin=begin, end=end))
        start += source.size
    return chosen
