"""The file of results: every finished row, written whole after each one, and the table of what it holds."""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_parts.limits import LIMIT_H200, PUBLISHED_H100
from benchmarks.gpu_parts.rows import Row

DONE, REFUSED, RUNNING = "done", "refused", "running"
ATTEMPTS = 2
"""A row in which the process ended this often is not tried again."""

Entry = dict[str, Any]


@dataclass
class Results:
    """What has been measured, by the rows' keys."""

    file: Path | None
    environment: dict[str, str]
    rows: dict[str, Entry] = field(default_factory=dict)

    @classmethod
    def open(cls, file: Path | None, environment: dict[str, str]) -> Results:
        """Go on with a file, or begin one. Raises SystemExit for a file of another machine."""
        if file is None or not file.exists():
            return cls(file, environment)
        stored = json.loads(file.read_text())
        if stored["environment"]["device"] != environment["device"]:
            raise SystemExit(
                f"{file} was measured on {stored['environment']['device']}, and this is {environment['device']}; "
                "give another file to --resume"
            )
        return cls(file, environment, stored["rows"])

    def finished(self, row: Row) -> bool:
        """Whether a row needs no further try."""
        entry = self.rows.get(row.key)
        if entry is None:
            return False
        return entry["status"] != RUNNING or entry["attempts"] >= ATTEMPTS

    def seconds(self, row: Row) -> float:
        """What a row will take: the longest of its kind, size and compilation so far, else what is expected."""
        alike = [
            entry["seconds"]
            for entry in self.rows.values()
            if entry["status"] == DONE
            and all(entry["row"][name] == getattr(row, name) for name in ("kind", "size", "compile"))
        ]
        return max(alike) if alike else row.seconds

    def begin(self, row: Row) -> None:
        """Note that a row is being measured, in case the process ends in it."""
        attempts = self.rows.get(row.key, {}).get("attempts", 0) + 1
        self._put(row, {"status": RUNNING, "attempts": attempts})

    def done(self, row: Row, values: dict[str, Any], seconds: float) -> None:
        """Keep a measurement."""
        self._put(row, {"status": DONE, "values": values, "seconds": seconds})

    def refuse(self, row: Row, reason: str) -> None:
        """Keep why a row cannot be measured here."""
        self._put(row, {"status": REFUSED, "reason": reason})

    def close_lost(self) -> None:
        """Rows in which the process ended too often are refused."""
        for entry in self.rows.values():
            if entry["status"] == RUNNING and entry["attempts"] >= ATTEMPTS:
                entry |= {"status": REFUSED, "reason": f"the process ended in it {ATTEMPTS} times"}
        self._write()

    def _put(self, row: Row, entry: Entry) -> None:
        self.rows[row.key] = {"row": row.to_dict(), **entry}
        self._write()

    def _write(self) -> None:
        if self.file is None:
            return
        staging = self.file.with_name(self.file.name + ".part")
        with staging.open("w") as output:
            json.dump({"environment": self.environment, "rows": self.rows}, output, indent=1)
            output.flush()
            os.fsync(output.fileno())
        staging.replace(self.file)


def environment(device: str, command: list[str]) -> dict[str, str]:
    """What the figures depend on."""
    return {
        "device": device,
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "none",
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": " ".join(command),
    }


COLUMNS = (
    ("tokens/s", "tokens_per_second", ",.0f"),
    ("MFU %", "mfu", ".1%"),
    ("roofline %", "roofline_share", ".1%"),
    ("GiB", "peak_gibibytes", ".1f"),
    ("estimate", "estimated_gibibytes", ".1f"),
    ("waits", "host_waits", "d"),
)


def table(results: Results) -> list[str]:
    """Lines for people: speed with what was published and what is possible, checks, and what was refused."""
    head = f"{'row':<72} " + " ".join(f"{name:>11}" for name, _, _ in COLUMNS) + f" {'published':>11} {'limit':>11}"
    lines = [head]
    for key, entry in results.rows.items():
        if entry["status"] == DONE and "tokens_per_second" in entry["values"]:
            values = entry["values"]
            cells = [_cell(values.get(name), form) for _, name, form in COLUMNS]
            known = [_cell(source[entry["row"]["size"]], ",.0f") for source in (PUBLISHED_H100, LIMIT_H200)]
            lines.append(f"{key:<72} " + " ".join(f"{cell:>11}" for cell in [*cells, *known]))
    lines += [_check(key, entry["values"]) for key, entry in results.rows.items() if _is_check(entry)]
    lines += [f"{key}: refused, {entry['reason']}" for key, entry in results.rows.items() if "reason" in entry]
    return lines


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _is_check(entry: Entry) -> bool:
    return entry["status"] == DONE and "tokens_per_second" not in entry["values"]


def _check(key: str, values: dict[str, Any]) -> str:
    plain = {name: value for name, value in values.items() if isinstance(value, int | float | bool | str)}
    parts = [f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in plain.items()]
    return f"{key}: {', '.join(parts)}"
