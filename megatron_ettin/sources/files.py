"""Which files a corpus is built from: names, globs and folders become a list of sources in a stable order."""

from __future__ import annotations

import errno
import glob
import os
import shlex
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from megatron_ettin.errors import DataError
from megatron_ettin.regular_files import KINDS
from megatron_ettin.sources.listed import MDS_INDEX, SAVED_INFO, SAVED_STATE, listed_folder
from megatron_ettin.sources.members import ZSTD_MAGIC, skippable_bytes
from megatron_ettin.sources.remote.address import RemoteFile, is_remote

FORMATS = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".txt": "txt", ".text": "txt", ".md": "txt",
    ".parquet": "parquet", ".mds": "mds", ".csv": "csv", ".tsv": "tsv", ".arrow": "arrow", ".arrows": "arrow",
    ".feather": "arrow",
}  # fmt: skip
"""Format by the end of the name, before a compression suffix."""
COMPRESSIONS = {".gz": "gz", ".zst": "zst", ".zstd": "zst"}
FORMAT_NAMES = ("jsonl", "txt", "csv", "tsv", "parquet", "arrow", "mds")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One input file, or the part of it that belongs to this shard."""

    path: Path
    format: str
    """One of FORMAT_NAMES."""
    compression: str | None
    size: int
    """Bytes of the whole file."""
    modified: int
    """Time of the last change, in nanoseconds; a resumed build checks it."""
    inode: int
    """Number of the file; with size and time of change it tells whether it is the same when it has been read."""
    begin: int = 0
    """First byte of the part; ``cuts`` says where a file may be cut."""
    end: int = 0
    """One past the last byte of the part."""
    remote: RemoteFile | None = None
    """Where the file lies when it is not on this machine; ``path`` is then where it is staged."""

    @property
    def name(self) -> str:
        """What manifests and messages call the file."""
        return str(self.remote or self.path)

    @property
    def kind(self) -> str:
        """Format and compression, as the manifest names them."""
        return f"{self.format}.{self.compression}" if self.compression else self.format

    @property
    def splits(self) -> bool:
        """Whether the file can be cut at any byte: plain lines."""
        return self.format == "jsonl" and self.compression is None

    @property
    def bytes(self) -> int:
        """Bytes of the part."""
        return self.end - self.begin


def detect(path: PurePath, wanted: str) -> tuple[str, str | None] | None:
    """Format and compression of a file by its name; None when the name says nothing and ``wanted`` is auto."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compression = COMPRESSIONS.get(suffixes[-1]) if suffixes else None
    if compression:
        suffixes.pop()
    if wanted != "auto":
        return wanted, compression
    format = FORMATS.get(suffixes[-1]) if suffixes else None
    return (format, compression) if format else None


@dataclass
class Inputs:
    """The files found, and what of the folders and globs was left out."""

    files: list[tuple[Path | RemoteFile, str, str | None]]
    left_out: dict[str, list[Path | RemoteFile | str]]
    """By reason: files and folders that are not read."""


HIDDEN, NAMELESS, DOUBLED = "hidden", "the name says no format", "named twice, read once"
DESCRIPTION = "describes a dataset"
BESIDE_DATA = "text beside data files; name each file to read it, or say the format of all"


def _refused(path: Path, error: OSError) -> DataError:
    """The error for a file or folder that is there and cannot be read."""
    if error.errno == errno.ENOENT and path.is_symlink():
        return DataError(f"{path}: a link to {os.readlink(path)}, which is not there; restore that or remove the link")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return DataError(f"{path}: no such file or folder")
    return DataError(
        f"{path}: cannot be read ({error.strerror}); repair that, or leave it out by naming the other inputs"
    )


def _status(path: Path) -> os.stat_result:
    """Of the file that a name leads to. Raises DataError."""
    try:
        return path.stat()
    except OSError as error:
        raise _refused(path, error) from error


def _is_folder(path: Path) -> bool:
    """Whether a name leads to a folder. Raises DataError when that cannot be told."""
    return not _dangles(path) and stat.S_ISDIR(_status(path).st_mode)


def _dangles(path: Path) -> bool:
    """Whether a name is a link to what is not there."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return path.is_symlink()
    except OSError as error:
        raise _refused(path, error) from error
    return False


def _names(folder: Path) -> list[str]:
    """Of what is in a folder, sorted. Raises DataError."""
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise _refused(folder, error) from error


class _Finder:
    """Collects the files of all inputs, each once."""

    def __init__(self, wanted: str, remedy: str) -> None:
        self.wanted, self._remedy = wanted, remedy
        self.found = Inputs([], {})
        self._seen: set[tuple[object, ...]] = set()

    def leave_out(self, path: Path | RemoteFile | str, reason: str) -> None:
        """Note what is not read, and why."""
        self.found.left_out.setdefault(reason, []).append(path)

    def add_named(self, path: Path) -> None:
        """A file that was named, which must be one that can be read."""
        kind = KINDS.get(stat.S_IFMT(_status(path).st_mode))
        if kind is not None:
            raise DataError(
                f"{path}: {kind}, which can be read only once, but a build that is interrupted reads again; write what "
                "it gives to a file (`... > FILE.jsonl`) and name that"
            )
        if not self._add(path):
            known = ", ".join(FORMATS)
            raise DataError(f"{path}: the name says no format ({known}, each also with .gz or .zst); {self._remedy}")

    def add_all(self, paths: Iterable[Path]) -> None:
        """Files that a folder or a glob gave: those whose names say a format; text only where there is no data."""
        mark = len(self.found.files)
        for path in paths:
            kind = None if _dangles(path) else KINDS.get(stat.S_IFMT(_status(path).st_mode))
            if kind is not None:
                self.leave_out(path, kind)
            elif path.name == SAVED_INFO:
                self.leave_out(path, DESCRIPTION)
            elif not self._add(path):
                self.leave_out(path, NAMELESS)
        given = self.found.files[mark:]
        if self.wanted == "auto" and {format for _, format, _ in given} > {"txt"}:
            self.found.files[mark:] = [file for file in given if file[1] != "txt"]
            for text, format, _ in given:
                if format == "txt":
                    self.leave_out(text, BESIDE_DATA)

    def _add(self, path: Path) -> bool:
        """Whether the file says a format; it is read unless it is among the inputs already."""
        listed = listed_folder(path.parent) if path.name in (MDS_INDEX, SAVED_STATE) else None
        if listed is not None and listed.index == path:
            kinds = listed.files
        elif (kind := detect(path, self.wanted)) is not None:
            kinds = [(path, *kind)]
        else:
            return False
        for local in kinds:
            status = _status(local[0])
            # some network file systems give several files one number: size and time must agree as well
            number = status.st_ino or os.path.realpath(local[0])
            self._take(*local, key=(status.st_dev, number, status.st_size, status.st_mtime_ns))
        return True

    def _take(self, path: Path | RemoteFile, format: str, compression: str | None, key: tuple[object, ...]) -> None:
        """Add a file unless one of this key is among the inputs already."""
        if key in self._seen:
            self.leave_out(path, DOUBLED)
        else:
            self._seen.add(key)
            self.found.files.append((path, format, compression))

    def add_remote(self, item: str) -> None:
        """The files of an address, each once."""
        from megatron_ettin.sources.remote.listing import find_remote

        files, left_out = find_remote(item, self.wanted, self._remedy)
        for reason, names in left_out.items():
            for name in names:
                self.leave_out(name, reason)
        for remote, format, compression in files:
            self._take(remote, format, compression, key=(remote.name,))

    def walk(self, folder: Path, above: tuple[tuple[int, int], ...] = ()) -> Iterator[Path]:
        """The files below a folder, in order. Links to folders are followed, but never into a folder above them."""
        if (listed := listed_folder(folder)) is not None:
            named = listed.known | {path.name for path, _, _ in listed.files}
            for name in _names(listed.index.parent):
                if name not in named:
                    self.leave_out(listed.index.parent / name, f"not named by the {listed.called} beside it")
            yield listed.index
            return
        status = _status(folder)
        here = (status.st_dev, status.st_ino)
        if here in above:
            self.leave_out(folder, "a link to a folder above it")
            return
        folders = []
        for name in _names(folder):
            path = folder / name
            if name.startswith("."):
                self.leave_out(path, HIDDEN)
            elif _is_folder(path):
                folders.append(path)
            else:
                yield path
        for path in folders:
            yield from self.walk(path, (*above, here))

    def expand(self, pattern: str) -> Iterator[Path]:
        """The files of a glob, in order."""
        parts = Path(pattern).parts
        for count in range(1, len(parts)):  # glob passes over folders that cannot be read
            for name in glob.glob(str(Path(*parts[:count])), recursive=True):
                if _is_folder(Path(name)):
                    _names(Path(name))
        for name in sorted(glob.glob(pattern, recursive=True)):
            if not _is_folder(Path(name)):
                yield Path(name)
            elif "**" not in pattern:
                self.leave_out(Path(name), "a folder among the files of a glob; name it to read what is in it")


def find_inputs(inputs: Sequence[str | Path], wanted: str = "auto", *, remedy: str = "rename it") -> Inputs:
    """Resolve names, globs, folders and addresses. Globs and folders are sorted; the order of the arguments is kept.

    A file that is named or found twice, also by links, is read once. In a folder or glob that holds data (any
    other format), text files are left out. ``remedy`` is for a named file whose name says no format. Raises DataError
    for it, for a name that is not there, a pipe, what cannot be read, a glob or folder without a usable file.
    """
    finder = _Finder(wanted, remedy)
    for item in inputs:
        if is_remote(item):
            finder.add_remote(str(item))
            continue
        path, before = Path(item), len(finder.found.files)
        doubled = len(finder.found.left_out.get(DOUBLED, ()))
        if os.path.lexists(path) and _is_folder(path):
            finder.add_all(finder.walk(path))
        elif os.path.lexists(path) or not glob.has_magic(str(item)):
            finder.add_named(path)
        else:
            finder.add_all(finder.expand(str(item)))
        if len(finder.found.files) == before and doubled == len(finder.found.left_out.get(DOUBLED, ())):
            raise DataError(f"{item}: no input file there ({', '.join(FORMATS)}, each also with .gz or .zst)")
    return finder.found


def make_sources(files: Iterable[tuple[Path | RemoteFile, str, str | None]]) -> list[Source]:
    """Sources that hold each file whole, with size and time of change. Raises DataError for an unreadable one."""
    sources = []
    for path, format, compression in files:
        if isinstance(path, RemoteFile):
            sources.append(
                Source(
                    path=Path(path.name), format=format, compression=compression, size=path.size, modified=0, inode=0,
                    end=path.size, remote=path,
                )
            )  # fmt: skip
            continue
        status = _status(path)
        sources.append(
            Source(
                path=path, format=format, compression=compression, size=status.st_size,
                modified=status.st_mtime_ns, inode=status.st_ino, begin=0, end=status.st_size,
            )
        )  # fmt: skip
    return sources


HEAD_BYTES = 64
GZIP, ZSTD = b"\x1f\x8b", ZSTD_MAGIC.to_bytes(4, "little")
MAGIC = {"parquet": b"PAR1", "arrow": b"ARROW1"}
"""What files of a format start with; a stream of arrow, which has none, is told by who reads it."""
FEATHER_1 = b"FEA1"


def require_kind(source: Source) -> None:
    """Look at the first bytes of a file. Raises DataError when they are not of the kind that its name says."""
    try:
        with open(source.path, "rb") as stream:
            head = stream.read(HEAD_BYTES)
    except OSError as error:
        raise _refused(source.path, error) from error
    if source.format == "mds" or not head:
        return
    packed = "gz" if head[:2] == GZIP else "zst" if head[:4] == ZSTD or skippable_bytes(head) is not None else None
    starts_so = {"gz": GZIP, "zst": ZSTD}.get(source.compression or "", b"").startswith(head)  # it is cut off there
    if source.compression and packed != source.compression and not starts_so:
        names = {"gz": "gzip", "zst": "zstd"}
        raise DataError(
            f"{source.path}: not {names[source.compression]} data, which the end of its name says"
            f"{f' (it is {names[packed]} data)' if packed else ''}; give it the right name, or fetch it again"
        )
    if packed and not source.compression:
        raise DataError(f"{source.path}: holds compressed data; give it a name that ends in .{packed}")
    for format, magic in MAGIC.items():
        if source.format != format and head.startswith(magic):
            raise DataError(f"{source.path}: holds {format} data; give it a name that ends in .{format}")
    if source.format == "arrow" and head.startswith(FEATHER_1):
        raise DataError(f"{source.path}: is feather of version 1, which is not read; write it again as version 2")
    if source.splits and head.lstrip().startswith(b"["):
        raise DataError(
            f"{source.path}: holds a JSON array, but one JSON object a line is read; convert it by `python -c 'import "
            f"json, sys; [print(json.dumps(item)) for item in json.load(sys.stdin)]' < {shlex.quote(str(source.path))} "
            "> LINES.jsonl`"
        )


def require_unchanged(sources: Iterable[Source]) -> None:
    """Compare files with what they were when they became sources. Raises DataError for one that changed.

    Those that lie elsewhere were compared when they had been fetched.
    """
    for source in sources:
        if source.remote is not None:
            continue
        status = _status(source.path)
        pairs = {
            "size": (source.size, status.st_size),
            "time of change": (source.modified, status.st_mtime_ns),
            "file number": (source.inode, status.st_ino),
        }
        changes = [f"{name} {before} -> {after}" for name, (before, after) in pairs.items() if before != after]
        if changes:
            raise DataError(
                f"{source.path}: changed while it was read ({', '.join(changes)}): what was built may hold part of the "
                "old and part of the new text; once nothing writes to it, add --restart to build from it anew"
            )
