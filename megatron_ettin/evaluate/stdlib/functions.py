"""Functions of Python's standard library as it lies on this machine."""

from __future__ import annotations

import ast
import sysconfig
import textwrap
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__", "pydoc_data"}

LEAST_CHARACTERS, MOST_CHARACTERS = 160, 1_400
"""Of a function's code: less says little, more does not fit into 512 tokens."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, kw_only=True)
class Function:
    """One function or method."""

    module: str
    name: str
    """With its classes: ``Path.read_text``."""
    docstring: str
    """Its first paragraph on one line; empty without one."""
    code: str
    """Source from ``def`` on, dedented, without decorators and docstring."""


def library_root() -> Path:
    """The folder of the standard library's source."""
    return Path(sysconfig.get_paths()["stdlib"])


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


def module_name(path: Path, root: Path) -> str:
    """``email/message.py`` is ``email.message``, ``json/__init__.py`` is ``json``."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def functions_of(source: str, module: str) -> list[Function]:
    """All functions and methods of a fitting length, in order; none of a text that does not parse."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    lines, found = source.splitlines(), []
    for node, name in definitions(tree, ""):
        kept = list(range(node.lineno - 1, node.end_lineno or node.lineno))
        docstring = ast.get_docstring(node) or ""
        if docstring:  # it is cut out of the code
            first = node.body[0]
            spoken = range(first.lineno - 1, first.end_lineno or first.lineno)
            kept = [line for line in kept if line not in spoken]
        code = textwrap.dedent("\n".join(lines[line].rstrip() for line in kept)).strip()
        if LEAST_CHARACTERS <= len(code) <= MOST_CHARACTERS:
            paragraph = " ".join(docstring.strip().split("\n\n")[0].split())
            found.append(Function(module=module, name=name, docstring=paragraph, code=code))
    return found


def definitions(tree: ast.AST, prefix: str) -> Iterator[tuple[Definition, str]]:
    """Functions with their names, also those in classes; not those inside other functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Definition):
            yield node, prefix + node.name
        elif isinstance(node, ast.ClassDef):
            yield from definitions(node, f"{prefix}{node.name}.")
        elif isinstance(node, (ast.If, ast.Try)):
            yield from definitions(node, prefix)
