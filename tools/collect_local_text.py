"""Collect real text that every machine with Python has: its library's documentation and its source code.

Writes OUTPUT/prose.jsonl (docstrings and the reference topics of pydoc) and OUTPUT/code.jsonl (source files, one
document a file), each line {"text": ..., "source": ...}, in a stable order and up to --megabytes each.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path
from pydoc_data import topics

SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__", "pydoc_data"}
SHORTEST_DOCUMENT = 200
"""Characters; shorter docstrings say little."""


def library_files(root: Path) -> Iterator[Path]:
    """Source files of the standard library, sorted by name; tests and bundled tools are left out."""
    for path in sorted(root.rglob("*.py")):
        if not SKIPPED_FOLDERS.intersection(path.relative_to(root).parts):
            yield path


def read_source(path: Path) -> str | None:
    """The text of a source file in its declared encoding; None when it cannot be decoded."""
    try:
        with tokenize.open(path) as stream:
            return stream.read()
    except (SyntaxError, UnicodeDecodeError, OSError):
        return None


def docstrings(source: str) -> str:
    """All docstrings of a module, in order, joined by empty lines; '' when it does not parse."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return ""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))
    return "\n\n".join(text for text in found if text)


def prose(root: Path) -> Iterator[tuple[str, str]]:
    """(source, text) of the documentation: the reference topics, then the docstrings of each module."""
    for name, text in sorted(topics.topics.items()):
        yield f"topic/{name}", text
    for path in library_files(root):
        text = docstrings(read_source(path) or "")
        if len(text) >= SHORTEST_DOCUMENT:
            yield str(path.relative_to(root)), text


def code(root: Path) -> Iterator[tuple[str, str]]:
    """(source, text) of every library module."""
    for path in library_files(root):
        text = read_source(path)
        if text and len(text) >= SHORTEST_DOCUMENT:
            yield str(path.relative_to(root)), text


def write_documents(path: Path, documents: Iterator[tuple[str, str]], limit: int) -> tuple[int, int]:
    """Write documents as JSON lines until ``limit`` bytes of text; returns (documents, bytes)."""
    count = size = 0
    with path.open("w", encoding="utf-8") as stream:
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
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    root = Path(sysconfig.get_paths()["stdlib"])
    for name, documents in (("prose", prose(root)), ("code", code(root))):
        path = options.output / f"{name}.jsonl"
        count, size = write_documents(path, documents, int(options.megabytes * 1e6))
        if count == 0:
            print(f"error: no {name} found under {root}; is this a full Python installation?", file=sys.stderr)
            return 1
        print(f"{path}: {count} documents, {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
