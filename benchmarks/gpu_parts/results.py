"""The file of results: one line a row as soon as it is finished, and what a killed process leaves is read again."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu_parts.rows import Row

DONE, REFUSED, RUNNING = "done", "refused", "running"
ATTEMPTS = 2
"""A row in which the process ended this often is not tried again."""

Entry = dict[str, Any]


@dataclass
class Results:
    """What has been measured, by the rows' keys. The last line about a row counts."""

    file: Path | None
    environment: dict[str, str]
    rows: dict[str, Entry] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> Results:
        """What a file holds; nothing where there is none."""
        results = cls(file, {})
        for line in lines_of(file):
            if "environment" in line:
                results.environment = line["environment"]
            else:
                results.rows[line.pop("key")] = line
        return results

    @classmethod
    def open(cls, file: Path | None, environment: dict[str, str]) -> Results:
        """Go on with a file, or begin one. Raises SystemExit for a file of another machine."""
        if file is None:
            return cls(None, environment)
        results = cls.read(file)
        before = results.environment.get("device", environment["device"])
        if before != environment["device"]:
            raise SystemExit(
                f"{file} was measured on {before}, and this is {environment['device']}; give another file to --resume"
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        results.environment = environment
        results._append({"environment": environment})
        return results

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

    def begin(self, row: Row, limit: float) -> None:
        """Note that a row is being measured, and after how many seconds it must have ended."""
        attempts = self.rows.get(row.key, {}).get("attempts", 0) + 1
        self._put(row, {"status": RUNNING, "attempts": attempts, "limit_seconds": limit})

    def done(self, row: Row, values: dict[str, Any], seconds: float) -> None:
        """Keep a measurement."""
        self._put(row, {"status": DONE, "values": values, "seconds": seconds})

    def refuse(self, row: Row, reason: str) -> None:
        """Keep why a row cannot be measured here."""
        self._put(row, {"status": REFUSED, "reason": reason})

    def close_lost(self) -> None:
        """Rows in which the process ended too often are refused."""
        for entry in [*self.rows.values()]:
            if entry["status"] == RUNNING and entry["attempts"] >= ATTEMPTS:
                self.refuse(Row(**entry["row"]), f"the process ended in it {ATTEMPTS} times")

    def beside(self, name: str) -> Path | None:
        """A file in the same folder; None without one."""
        return self.file and self.file.parent / name

    def _put(self, row: Row, entry: Entry) -> None:
        self.rows[row.key] = {"row": row.to_dict(), **entry}
        self._append({"key": row.key, **self.rows[row.key]})

    def _append(self, line: Entry) -> None:
        if self.file is not None:
            cut_torn_line(self.file)
            with self.file.open("a") as output:
                output.write(json.dumps(line) + "\n")
                output.flush()
                os.fsync(output.fileno())


def lines_of(file: Path) -> list[Entry]:
    """The lines of a file, without a last one that is being written, or was when its process was killed."""
    text = file.read_bytes() if file.exists() else b""
    return [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]


def cut_torn_line(file: Path) -> None:
    """Remove what a killed process left behind the last whole line."""
    text = file.read_bytes() if file.exists() else b""
    if text and not text.endswith(b"\n"):
        os.truncate(file, text.rfind(b"\n") + 1)
