"""The table of promises names proofs that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest


def promised(root: Path) -> list[tuple[str, str]]:
    """(promise, proof) of every row; a proof is `path::test` or `path`."""
    rows = []
    for line in (root / "tests" / "promises.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and len(cells) == 2 and cells[0] not in ("Promise", "---"):
            rows.extend((cells[0], proof) for proof in re.findall(r"`([^`]+)`", cells[1]))
    return rows


def functions(path: Path) -> set[str]:
    """Names of all functions defined in a Python file."""
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_promise_names_a_proof_that_exists(root: Path) -> None:
    rows = promised(root)
    if not rows:
        pytest.fail("tests/promises.md has no rows")
    for promise, proof in rows:
        path, _, name = proof.partition("::")
        assert (root / path).is_file(), f"{promise}: {path} does not exist"
        if name:
            assert name in functions(root / path), f"{promise}: {path} defines no {name}"


def test_every_row_of_the_table_has_a_proof(root: Path) -> None:
    lines = (root / "tests" / "promises.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("|")][2:]
    assert [row for row in rows if "`" not in row] == []
