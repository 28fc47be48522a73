"""Measure the shape of Python code: how long its files and functions are, and what its lines are spent on.

    python tools/measure_code.py megatron_ettin
    python tools/measure_code.py megatron_ettin megatron_ettin/rows OTHER_PROJECT --each

Every folder is measured with all folders below it; `--each` also prints a row for each folder on its own. Every line of
a file is counted once: as blank, import, signature (the head of a function or class), docstring (of a module, class,
function or attribute), statement, or as one of what the table leaves out: decorators, annotated fields of classes, and
comments on lines of their own.
"""

from __future__ import annotations

import argparse
import ast
import io
import statistics
import sys
import tokenize
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

HEADER = (
    "| folder | files | lines | file median / p90 / max | function median / p90 / max | functions per 1,000 lines "
    "| blank | imports | signatures | docstrings | statements | largest folder |"
)
SHOWN = ("blank", "import", "signature", "docstring", "statement")
SKIPPED = {"__pycache__", ".git", ".venv", "node_modules"}
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass
class Measures:
    """What a set of files holds."""

    files: list[int] = field(default_factory=list)
    """Lines of each file."""
    functions: list[int] = field(default_factory=list)
    """Lines of each function, from `def` to its last line, decorators left out."""
    kinds: Counter[str] = field(default_factory=Counter)
    """Lines of each kind."""
    folders: Counter[Path] = field(default_factory=Counter)
    """Files directly in each folder."""

    def add(self, path: Path) -> None:
        """Count one file."""
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text, filename=str(path))
        lines = text.splitlines()
        self.files.append(len(lines))
        self.folders[path.parent] += 1
        self.kinds.update(kinds_of_lines(text, tree, len(lines)))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                self.functions.append(node.end_lineno - node.lineno + 1)

    def row(self, name: str) -> str:
        """One row of the table."""
        lines = sum(self.files)
        shares = [f"{100 * self.kinds[kind] / max(1, lines):.0f} %" for kind in SHOWN]
        folder, most = max(self.folders.items(), key=lambda item: item[1])
        cells = [
            name, f"{len(self.files):,}", f"{lines:,}", three(self.files), three(self.functions),
            f"{1000 * len(self.functions) / max(1, lines):.0f}", *shares, f"{folder}, {most}",
        ]  # fmt: skip
        return f"| {' | '.join(cells)} |"


def three(lengths: list[int]) -> str:
    """Median, 90th percentile and maximum."""
    if not lengths:
        return "-"
    ordered = sorted(lengths)
    return f"{statistics.median(ordered):,.0f} / {ordered[int(0.9 * len(ordered))]:,} / {ordered[-1]:,}"


def kinds_of_lines(text: str, tree: ast.Module, lines: int) -> list[str]:
    """What each line of a file is spent on."""
    kinds = ["statement"] * (lines + 1)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and not token.line[: token.start[1]].strip():
            kinds[token.start[0]] = "comment"

    def mark(first: int, last: int, kind: str) -> None:
        kinds[first : last + 1] = [kind] * (last + 1 - first)

    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            mark(node.lineno, node.end_lineno or node.lineno, "import")
        elif isinstance(node, Definition):
            for decorator in node.decorator_list:
                mark(decorator.lineno, decorator.end_lineno or decorator.lineno, "decorator")
            mark(node.lineno, max(node.lineno, node.body[0].lineno - 1), "signature")
            for member in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(member, ast.AnnAssign):
                    mark(member.lineno, member.end_lineno or member.lineno, "field")
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            mark(node.lineno, node.end_lineno or node.lineno, "docstring")
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            kinds[number] = "blank"
    return kinds[1:]


def python_files(folder: Path) -> list[Path]:
    """Every Python file below a folder, or the file itself."""
    if folder.is_file():
        return [folder]
    return sorted(path for path in folder.rglob("*.py") if not SKIPPED & set(path.relative_to(folder).parts))


def measure(paths: list[Path]) -> Measures:
    """Measure a set of files."""
    measures = Measures()
    for path in paths:
        measures.add(path)
    return measures


def main() -> int:
    """Print the table."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="+", type=Path)
    parser.add_argument("--each", action="store_true", help="also a row for each folder on its own")
    arguments = parser.parse_args()
    print(f"{HEADER}\n|{'---|' * HEADER.count(' |')}")
    for folder in arguments.folder:
        files = python_files(folder)
        if not files:
            print(f"error: {folder}: no Python file there; name a folder of Python code", file=sys.stderr)
            return 2
        print(measure(files).row(str(folder)))
        for parent in sorted({path.parent for path in files}) if arguments.each else []:
            print(measure([path for path in files if path.parent == parent]).row(f"{parent}/*.py"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
