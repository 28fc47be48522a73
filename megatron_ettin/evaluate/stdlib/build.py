"""The suite's tasks as files: ``python -m megatron_ettin.evaluate.stdlib.build FOLDER`` makes FOLDER/stdlib.

Whole modules are kept for the tasks: training text is to leave their files out, and functions that occur in any other
file of the library are no part of a task. The outcome is a function of the library's source alone.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from pydoc_data import topics
from typing import Any

from megatron_ettin.errors import ConfigError, DataError, EttinError
from megatron_ettin.evaluate.stdlib.functions import (
    Function,
    functions_of,
    library_files,
    library_root,
    module_name,
    read_source,
)
from megatron_ettin.evaluate.stdlib.overlap import RUN, shared_texts
from megatron_ettin.evaluate.stdlib.tasks import (
    TASKS,
    VERSION,
    class_rows,
    continuation_rows,
    docstring_rows,
    drawn_key,
)
from megatron_ettin.evaluate.suites.local import hashed, read_rows
from megatron_ettin.publish import publish
from megatron_ettin.typed_json import parse_json

FOLDER, MANIFEST = "stdlib", "tasks.json"

MODULES = 20
"""Files that are kept for the tasks."""
CANDIDATE = 45
"""Functions of a fitting length that a module must have to be drawn."""
LEAST, MOST = 30, 50
"""Functions of a module in the tasks; one with fewer is left out of them."""


def build(folder: Path) -> Path:
    """FOLDER/stdlib, made from this machine's library; returns it, also when it is there already.

    Takes about ten seconds. Raises DataError for a Python without its source.
    """
    target = folder / FOLDER
    if (target / MANIFEST).exists():
        return target
    root = library_root()
    sources = {path: text for path in library_files(root) if (text := read_source(path))}
    functions = {path: functions_of(text, module_name(path, root)) for path, text in sources.items()}
    kept = sorted((path for path in sources if len(functions[path]) >= CANDIDATE),
                  key=lambda path: drawn_key(module_name(path, root)))[:MODULES]  # fmt: skip
    others = [text for path, text in sources.items() if path not in kept] + list(topics.topics.values())
    chosen, dropped = without_overlap([functions[path] for path in kept], others)
    if len(chosen) < 2:
        raise DataError(f"{root} holds no library to make tasks from; use a Python with its source files")
    manifest = {
        "version": VERSION, "python": platform.python_version(),
        "left_out": {path.relative_to(root).as_posix(): hashed(path) for path in sorted(kept)},
        "modules": {one[0].module: len(one) for one in chosen},
        "overlap": {"words": RUN, "texts": len(others), "functions_dropped": dropped},
    }  # fmt: skip
    try:
        with publish(target) as staging:
            write_tasks(staging, chosen, manifest)
    except ConfigError:  # another process was faster
        if not (target / MANIFEST).exists():
            raise
    return target


def without_overlap(modules: Sequence[list[Function]], others: Sequence[str]) -> tuple[list[list[Function]], int]:
    """Modules by name with what occurs nowhere else, each function once; and how many functions were dropped.

    Each module has MOST functions at most, in drawn order.
    """
    every = list({function.code: function for one in modules for function in one}.values())
    shared = shared_texts([f"{function.docstring}\n{function.code}" for function in every], others)
    left = [function for number, function in enumerate(every) if number not in shared]
    by_module: dict[str, list[Function]] = {}
    for function in sorted(left, key=lambda function: drawn_key(f"{function.module} {function.name} {function.code}")):
        by_module.setdefault(function.module, []).append(function)
    chosen = [by_module[module][:MOST] for module in sorted(by_module) if len(by_module[module]) >= LEAST]
    return chosen, len(shared)


def write_tasks(staging: Path, modules: Sequence[list[Function]], manifest: dict[str, Any]) -> None:
    """All files of all tasks, and the manifest with their hashes."""
    for task, rows_of in zip(TASKS, (class_rows, docstring_rows, continuation_rows), strict=True):
        for split, rows in rows_of(modules).items():
            path = staging / task / f"{split}.jsonl"
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            manifest.setdefault("files", {})[f"{task}/{path.name}"] = {"rows": len(rows), "sha256": hashed(path)}
    (staging / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def texts_of(folder: Path) -> list[str]:
    """Every text of the tasks in FOLDER/stdlib, in the order of its files. Raises DataError."""
    manifest = read_manifest(folder)
    found: dict[str, None] = {}
    for name in manifest["files"]:
        for row in read_rows(folder / FOLDER / name, ()):
            found[row["text"] if "text" in row else row["context"] + row["choices"][row["label"]]] = None
    return list(found)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the tasks in FOLDER/stdlib were made of. Raises DataError."""
    path = folder / FOLDER / MANIFEST
    try:
        content: dict[str, Any] = parse_json(path.read_text(encoding="utf-8"))
        content["left_out"], content["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is no manifest of tasks ({error}); make them: "
            f"python -m megatron_ettin.evaluate.stdlib.build {folder}"
        ) from error
    return content


def main(arguments: Sequence[str]) -> int:
    """Make the tasks and say what is in them."""
    if len(arguments) != 1:
        print(f"error: give one folder\n{__doc__}", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    try:
        target = build(folder)
        manifest = read_manifest(folder)
    except EttinError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, file in manifest["files"].items():
        print(f"{target / name}: {file['rows']:,} rows")
    dropped = manifest["overlap"]["functions_dropped"]
    print(f"from {len(manifest['modules'])} modules of Python {manifest['python']}; {dropped:,} functions that occur "
          "elsewhere in its library are left out")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
