"""Local data in the hub's columns: JSON lines, plain or compressed, or parquet, one file a split."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from megatron_ettin.errors import DataError
from megatron_ettin.evaluate.suites.suite import NotRunError
from megatron_ettin.typed_json import parse_json

ENDINGS = (".jsonl.gz", ".jsonl", ".json.gz", ".json", ".parquet")


def split_file(folder: Path, split: str) -> Path:
    """The file of a split in a task's folder; raises NotRunError with what was looked for."""
    for ending in ENDINGS:
        path = folder / f"{split}{ending}"
        if path.is_file():
            return path
    if not folder.is_dir():
        raise NotRunError(f"no folder {folder}")
    raise NotRunError(f"{folder} has no {split}{ENDINGS[0]} (or {', '.join(ENDINGS[1:])})")


def read_rows(path: Path, columns: Sequence[str], limit: int | None = None) -> Iterator[dict[str, Any]]:
    """Rows of a split, each with all ``columns``. Raises DataError with file, row (from 1), rule and remedy."""
    for number, row in enumerate(_rows(path), 1):
        if limit is not None and number > limit:
            return
        if not isinstance(row, dict):
            raise DataError(f"{path}, row {number}: a row is a JSON object; write one object a line")
        missing = [column for column in columns if column not in row]
        if missing:
            raise DataError(
                f"{path}, row {number}: no column {', '.join(missing)}; it has {', '.join(row) or 'none'}. "
                f"The columns are those of the hub's data set: {', '.join(columns)}"
            )
        yield row


def _rows(path: Path) -> Iterator[Any]:
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        try:
            yield from pyarrow.parquet.read_table(path).to_pylist()
        except (OSError, pyarrow.ArrowException) as error:
            raise DataError(f"{path} cannot be read as parquet: {error}; fetch it again") from error
        return
    line_number = 1
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for line in file:
                yield parse_json(line)
                line_number += 1
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path}, row {line_number}: {error}; each line holds one JSON object") from error


def hashed(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_facts(paths: dict[str, Path]) -> dict[str, Any]:
    """Split -> file -> name and hash, for results."""
    return {
        split: {"file": "/".join(path.parts[-3:]), "sha256": hashed(path), "bytes": path.stat().st_size}
        for split, path in paths.items()
    }
