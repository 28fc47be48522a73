"""metrics.jsonl: one JSON object a line, and reading it back."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from megatron_ettin.errors import DataError
from megatron_ettin.publish import write_atomically
from megatron_ettin.run_folder import METRICS

Record = dict[str, Any]
"""``kind`` is ``step`` or ``evaluation``; every record has ``step`` (steps finished) and ``tokens`` (seen so far)."""


def to_line(record: Record) -> str:
    """One line of JSON. A number that is not finite becomes null and its name is listed under ``not_finite``."""
    wild = [name for name, value in record.items() if finite(value) != value]
    plain = {name: finite(value) for name, value in record.items()} | ({"not_finite": wild} if wild else {})
    return json.dumps(plain, allow_nan=False) + "\n"


def finite(value: Any) -> Any:  # noqa: ANN401
    """The value with None in place of every number that is not finite."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_records(run: Path, kind: str | None = None) -> list[Record]:
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
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}: line {number} is not JSON ({error.msg}); remove that line") from error
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise DataError(f"{path}: line {number} is not a metrics record; remove that line")
        records.append(record)
    return [record for record in records if kind is None or record.get("kind") == kind]


def keep_until(run: Path, step: int) -> None:
    """Drop the records of steps after ``step``, which a resumed run will make again, and a cut-off last line."""
    path = Path(run) / METRICS
    if path.is_file():
        kept = [to_line(record) for record in read_records(run) if record["step"] <= step]
        write_atomically(path, "".join(kept))
