"""Collect real text that every machine with Python has: its library's documentation and its source code.

Writes OUTPUT/prose.jsonl (docstrings and the reference topics of pydoc) and OUTPUT/code.jsonl (source files, one
document a file), each line {"text": ..., "source": ...}, in a stable order and up to --megabytes each. With --leave-out
the files that tasks of the stdlib suite were made from are left out.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from pydoc_data import topics

from megatron_ettin.errors import EttinError
from megatron_ettin.evaluate.stdlib.build import read_manifest
from megatron_ettin.evaluate.stdlib.functions import library_files, library_root, read_source
from megatron_ettin.publish import publish_file

SHORTEST_DOCUMENT = 200
"""Characters; shorter docstrings say little."""


def docstrings(source: str) -> str:
    """All docstrings of a module, in order, joined by empty lines; '' when it does not parse."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return ""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))
    return "\n\n".join(text for text in found if text)


def kept_files(root: Path, left_out: Collection[str]) -> Iterator[tuple[str, Path]]:
    """(name, path) of the library's files, without those that are left out by name."""
    for path in library_files(root):
        name = path.relative_to(root).as_posix()
        if name not in left_out:
            yield name, path


def prose(root: Path, left_out: Collection[str]) -> Iterator[tuple[str, str]]:
    """(source, text) of the documentation: the reference topics, then the docstrings of each module."""
    for name, text in sorted(topics.topics.items()):
        yield f"topic/{name}", text
    for name, path in kept_files(root, left_out):
        text = docstrings(read_source(path) or "")
        if len(text) >= SHORTEST_DOCUMENT:
            yield name, text


def code(root: Path, left_out: Collection[str]) -> Iterator[tuple[str, str]]:
    """(source, text) of every library module."""
    for name, path in kept_files(root, left_out):
        text = read_source(path)
        if text and len(text) >= SHORTEST_DOCUMENT:
            yield name, text


def write_documents(path: Path, documents: Iterator[tuple[str, str]], limit: int) -> tuple[int, int]:
    """Write documents as JSON lines until ``limit`` bytes of text, a whole file or none; returns (documents, bytes)."""
    count = size = 0
    with publish_file(path) as staging, staging.open("w", encoding="utf-8") as stream:
        for source, text in documents:
            length = len(text.encode("utf-8", "surrogatepass"))
            if size + length > limit:
                break
            stream.write(json.dumps({"text": text, "source": source}) + "\n")
            count, size = count + 1, size + length
    return count, size


def main() -> int:
    """Write both files and say what is in them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder to write prose.jsonl and code.jsonl to")
    parser.add_argument("--megabytes", type=float, default=6.0, help="most megabytes of text a file (default 6)")
    parser.add_argument("--leave-out", type=Path, metavar="TASKS",
                        help="folder of tasks, as megatron_ettin.evaluate.stdlib.build makes it")  # fmt: skip
    options = parser.parse_args()
    try:
        left_out = read_manifest(options.leave_out)["left_out"] if options.leave_out else {}
    except EttinError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    options.output.mkdir(parents=True, exist_ok=True)
    root = library_root()
    for name, documents in (("prose", prose(root, left_out)), ("code", code(root, left_out))):
        path = options.output / f"{name}.jsonl"
        count, size = write_documents(path, documents, int(options.megabytes * 1e6))
        if count == 0:
            print(f"error: no {name} found under {root}; is this a full Python installation?", file=sys.stderr)
            return 1
        print(f"{path}: {count} documents, {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
