"""metrics.jsonl: one JSON object a line, reading it back, and finding single records in a long file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, BinaryIO

from megatron_ettin.errors import DataError
from megatron_ettin.publish import write_atomically
from megatron_ettin.run_folder import METRICS, repeated_records, rewound_steps
from megatron_ettin.typed_json import parse_json

MetricsRecord = dict[str, Any]
"""``kind`` is ``step``, ``evaluation`` or ``fp8``; every record has ``step`` (steps finished) and ``tokens`` (seen)."""
TAIL_BYTES = 1 << 16
"""A part of metrics.jsonl that holds some whole records."""
NOTHING_UPDATED = "nothing updated"
"""What the note of a step says whose update was refused."""


def finite(value: Any) -> Any:  # noqa: ANN401
    """The value with None in place of every number that is not finite."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_records(run: Path, kind: str | None = None) -> list[MetricsRecord]:
    """The records of a run folder in order; a last line that a crash has cut off is left out.

    Raises DataError when there is no such file or a line inside it is not a record.
    """
    path = Path(run) / METRICS
    if not path.is_file():
        raise DataError(f"{path}: no such file; give the folder of a run that has made a step")
    lines = path.read_text(encoding="utf-8").split("\n")
    records = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            record = parse_json(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}: line {number} is not JSON ({error.msg}); remove that line") from error
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise DataError(f"{path}: line {number} is not a metrics record; remove that line")
        records.append(record)
    return [record for record in records if kind is None or record.get("kind") == kind]


def keep_until(run: Path, step: int) -> None:
    """Keep each record up to ``step`` once. The others, which a resumed run makes again, go to a file beside it.

    So do lines that are no records. Raises OSError when the records cannot be read; then nothing is changed.
    """
    path = Path(run) / METRICS
    if not path.is_file():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept: dict[tuple[str, int], bytes] = {}
    for line in lines:
        record = _whole_record(line)
        if record is not None and record["step"] <= step:
            kept[str(record.get("kind")), record["step"]] = line
    wanted = set(kept.values())
    if repeated := [line for line in lines if line not in wanted]:
        numbers = (number for number in range(1, 10_000) if not repeated_records(run, number).exists())
        write_atomically(repeated_records(run, next(numbers)), b"".join(repeated))
    if len(kept) != len(lines):
        write_atomically(path, b"".join(kept.values()))


def recorded_step(run: Path, step: int) -> MetricsRecord | None:
    """The record that metrics.jsonl holds for a step, or None. O(log size): steps ascend in the file."""
    path = Path(run) / METRICS
    if not path.is_file():
        return None
    with path.open("rb") as file:
        record = _record_after(file, _offset_of(file, step))
        while record is not None and record["step"] == step:
            if isinstance(record.get("batch"), str):
                return record
            record = _record_after(file, file.tell())
    return None


def refused_updates(run: Path, first: int, last: int) -> dict[int, str]:
    """The steps ``first`` to ``last`` whose updates were or will be refused, and why, as far as the run's records tell.

    Looks through the records from step ``first`` on.
    """
    rewound = sorted(step for step in rewound_steps(run) if first <= step <= last)
    refused = dict.fromkeys(rewound, "a rewind names it")
    path = Path(run) / METRICS
    if not path.is_file():
        return refused
    with path.open("rb") as file:
        file.seek(_offset_of(file, first))
        for line in file:
            record = _whole_record(line) if NOTHING_UPDATED.encode() in line else None
            if record is not None and record["step"] <= last:
                refused[record["step"]] = str(record.get("note", ""))
    return dict(sorted(refused.items()))


def last_records(run: Path) -> list[MetricsRecord]:
    """The whole records near the end of a run's metrics.jsonl, oldest first; none where there is no such file.

    Reads the last TAIL_BYTES only. Raises OSError when they cannot be read.
    """
    path = Path(run) / METRICS
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - TAIL_BYTES, 0))
        return [record for line in file.readlines() if (record := _whole_record(line)) is not None]


def has_evaluation(run: Path, step: int) -> bool:
    """Whether the records end with an evaluation of ``step``, as those of a finished run do."""
    return any((record.get("kind"), record["step"]) == ("evaluation", step) for record in last_records(run))


def last_recorded_step(run: Path) -> int:
    """The step of the last whole record, or 0. Reads the end of the file only."""
    records = last_records(run)
    return int(records[-1]["step"]) if records else 0


def _offset_of(file: BinaryIO, step: int) -> int:
    """A place in the file behind the records before ``step`` and not behind the first one of it."""
    low, high = 0, file.seek(0, 2)
    while low < high:
        middle = (low + high) // 2
        record = _record_after(file, middle)
        low, high = (middle + 1, high) if record is not None and record["step"] < step else (low, middle)
    return low


def _record_after(file: BinaryIO, offset: int) -> MetricsRecord | None:
    """The first whole record that starts at or after ``offset``, None at the end; the file stands behind it."""
    file.seek(max(offset - 1, 0))
    if offset > 0:
        file.readline()
    while line := file.readline():
        if (record := _whole_record(line)) is not None:
            return record
    return None


def _whole_record(line: bytes) -> MetricsRecord | None:
    """The record in a line; None where it is none, such as one that a crash has cut off."""
    try:
        record = parse_json(line)
    except ValueError:
        return None
    whole = line.endswith(b"\n") and isinstance(record, dict) and isinstance(record.get("step"), int)
    return record if whole else None
