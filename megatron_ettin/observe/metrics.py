"""The digests that a run recorded for its steps, found without reading the whole of metrics.jsonl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, BinaryIO

from megatron_ettin.run_folder import METRICS

TAIL_BYTES = 1 << 16
"""A part of metrics.jsonl that holds some whole records."""


def recorded_digest(run: Path, step: int) -> str | None:
    """The digest that metrics.jsonl holds for a step, or None. O(log size): steps ascend in the file."""
    path = Path(run) / METRICS
    if not path.is_file():
        return None
    with path.open("rb") as file:
        low, high = 0, path.stat().st_size
        while low < high:
            middle = (low + high) // 2
            _, found, _ = _record_after(file, middle)
            low, high = (middle + 1, high) if found is not None and found < step else (low, middle)
        _, found, record = _record_after(file, low)
        while found is not None and found == step:
            if isinstance(record.get("batch"), str):
                return str(record["batch"])
            _, found, record = _record_after(file, file.tell())
    return None


def _record_after(file: BinaryIO, offset: int) -> tuple[int, int | None, dict[str, Any]]:
    """(offset, step, record) of the first whole record that starts at or after ``offset``; step None at the end."""
    file.seek(max(offset - 1, 0))
    if offset > 0:
        file.readline()
    while line := file.readline():
        record = _record(line)
        if isinstance(record.get("step"), int):
            return file.tell() - len(line), record["step"], record
    return file.tell(), None, {}


def _record(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        return {}  # a line that a crash has cut off
    return record if isinstance(record, dict) else {}


def last_recorded_step(run: Path) -> int:
    """The step of the last whole record, or 0. Reads the end of the file only."""
    path, last = Path(run) / METRICS, 0
    if path.is_file():
        with path.open("rb") as file:
            offset = max(path.stat().st_size - TAIL_BYTES, 0)
            while (found := _record_after(file, offset))[1] is not None:
                last, offset = found[1] or last, file.tell()
    return last
