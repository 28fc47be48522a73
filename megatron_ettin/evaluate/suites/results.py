"""Results on disk: every finished task a file of its own, and results.json put together from them."""

from __future__ import annotations

import functools
import json
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluate.suites.suite import Facts, Measured
from megatron_ettin.publish import write_atomically
from megatron_ettin.typed_json import parse_json

SCHEMA = "ettin-evaluation/1"
"""Changes when a reader of results.json must change."""
FILE, PARTS = "results.json", "parts"
DONE, NOT_RUN = "done", "not run"
LIBRARIES = ("torch", "transformers", "tokenizers", "lm_eval", "mteb", "sentence-transformers", "datasets",
             "scikit-learn", "scipy", "numpy")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Part:
    """One task of one model."""

    model: str
    suite: str
    task: str
    place: Sequence[int]
    """Of model, suite and task on the command line: the order of tables."""
    identity: Facts
    """What decides the outcome: model fingerprint, suite version, protocol, data, limit, seeds."""
    about: Facts
    """Model, environment and command, for the reader."""
    result: Facts
    """{"status": "done", metric, value, ...} or {"status": "not run", "reason"}."""

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        return bool(self.result["status"] == DONE)


def done(measured: Measured, seconds: float) -> Facts:
    """The result of a finished task."""
    return {"status": DONE, **asdict(measured), "seconds": round(seconds, 3)}


def not_run(reason: str) -> Facts:
    """The result of a task that could not run."""
    return {"status": NOT_RUN, "reason": reason}


def part_path(folder: Path, model: str, suite: str, task: str) -> Path:
    """Where a task's outcome is kept."""
    words = (re.sub(r"[^\w.+-]", "_", word) for word in (model, suite, task))
    return folder / PARTS / ("--".join(words) + ".json")


def write_part(folder: Path, part: Part) -> None:
    """Keep one outcome; it is whole or not there."""
    path = part_path(folder, part.model, part.suite, part.task)
    write_atomically(path, json.dumps(asdict(part), indent=2, allow_nan=False) + "\n")


def read_part(path: Path) -> Part:
    """An outcome; raises ConfigError when the file is none."""
    try:
        return Part(**parse_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} is no result of a task: {error}; remove it, and the task is run again") from error


def assemble(folder: Path) -> Facts:
    """Write results.json from all parts and return it.

    Several processes may do so at once: whoever writes looks again for parts that have come in the meantime, so the
    last file holds them all.
    """
    while True:
        paths = _parts(folder)
        content = together([read_part(path) for path in paths])
        write_atomically(folder / FILE, json.dumps(content, indent=2) + "\n")
        if _parts(folder) == paths:
            return content


def _parts(folder: Path) -> list[Path]:
    return sorted((folder / PARTS).glob("*.json"), key=lambda path: path.name)


def together(parts: Sequence[Part]) -> Facts:
    """results.json: models -> suites -> tasks, in the order of the command line."""
    models: dict[str, Any] = {}
    for part in sorted(parts, key=lambda part: list(part.place)):
        model = models.setdefault(part.model, {**part.about["model"], "suites": {}})
        suite = model["suites"].setdefault(part.suite, {})
        suite[part.task] = {
            **part.result, "identity": part.identity, "environment": part.about["environment"],
            "command": part.about["command"],
        }  # fmt: skip
    return {"schema": SCHEMA, "models": models}


def read_results(path: Path) -> Facts:
    """A results.json, or that of a folder; raises ConfigError for another schema."""
    path = path / FILE if path.is_dir() else path
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; give a results.json of `ettin evaluate --suite`") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise ConfigError(
            f"{path} has schema {schema!r}, and {SCHEMA!r} is read; make it again with `ettin evaluate --suite`"
        )
    found: Facts = content
    return found


def environment() -> Facts:
    """What the numbers were made with."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "python": platform.python_version(), "platform": platform.platform(), "device": device,
        "threads": torch.get_num_threads(), "libraries": dict(_versions()),
    }  # fmt: skip


@functools.cache
def _versions() -> tuple[tuple[str, str], ...]:
    found = []
    for library in LIBRARIES:
        try:
            found.append((library, metadata.version(library)))
        except metadata.PackageNotFoundError:
            continue
    return tuple(found)
