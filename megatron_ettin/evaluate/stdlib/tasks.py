"""The three tasks as rows: one for each claim of the paper, classification, retrieval and generation."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from megatron_ettin.evaluate.stdlib.functions import Function

VERSION = "1"
"""Changes with anything that changes a row."""

MODULE, DOCSTRING, CONTINUATION = "module_of_function", "function_by_docstring", "right_continuation"
TASKS = (MODULE, DOCSTRING, CONTINUATION)

TEST_SHARE = 0.4
"""Of a module's functions; on the others the probe is fitted."""
LEAST_QUERY = 6
"""Words of a docstring that says which function is meant."""
CHOICES = 4
QUESTIONS = 320
"""Continuations at most: encoders need a pass for each token of each choice."""
CONTEXT_LINES, LEAST_LINE, MOST_LINE = 3, 14, 72
"""The fewest lines before a continuation, and how many characters it has."""
ALIKE = 12
"""Wrong continuations are drawn among so many lines of the module whose length is nearest to the right one's."""

Rows = dict[str, list[dict[str, Any]]]
"""Split -> rows."""
Modules = Sequence[list[Function]]
"""Functions of each module in drawn order."""


def class_rows(modules: Modules) -> Rows:
    """Which module does a function come from: texts with labels, cut into train and test within each module."""
    rows: Rows = {"train": [], "test": []}
    for functions in modules:
        tested = round(TEST_SHARE * len(functions))
        for number, function in enumerate(functions):
            row = {"text": function.code, "label": function.module}
            rows["test" if number < tested else "train"].append(row)
    return {split: shuffled(found) for split, found in rows.items()}


def docstring_rows(modules: Modules) -> Rows:
    """Find a function by its docstring: all functions, and the docstrings that belong to one of them alone."""
    every = [function for functions in modules for function in functions]
    spoken = [function.docstring for function in every]
    queries = [
        {"text": function.docstring, "function": f"{function.module}.{function.name}"}
        for function in every
        if len(function.docstring.split()) >= LEAST_QUERY and spoken.count(function.docstring) == 1
    ]
    names = [f"{function.module}.{function.name}" for function in every]
    return {
        "functions": [
            {"function": name, "text": function.code} for name, function in zip(names, every, strict=True)
        ],
        "test": shuffled([query for query in queries if names.count(query["function"]) == 1]),
    }


def continuation_rows(modules: Modules) -> Rows:
    """Choose the line that goes on: the beginning of a function, its next line and three of other functions."""
    rows: list[dict[str, Any]] = []
    for functions in modules:
        splits = [(function, *split_in_two(function)) for function in functions]
        usable = [(function, context, line) for function, context, line in splits if context]
        for function, context, line in usable:
            indent = line[: len(line) - len(line.lstrip())]
            others = {indent + other.lstrip() for owner, _, other in usable if owner is not function}
            wrong = drawn_lines(sorted(others - {line}), line, function)
            if len(wrong) == CHOICES - 1:
                label = int(drawn_key(function.name + context)[:8], 16) % CHOICES
                choices = [f"\n{choice}" for choice in (*wrong[:label], line, *wrong[label:])]
                rows.append({"context": context, "choices": choices, "label": label})
    return {"test": sorted(rows, key=lambda row: drawn_key(row["context"]))[:QUESTIONS]}


def split_in_two(function: Function) -> tuple[str, str]:
    """The first half of the function and its next line; both empty where there is no line of a fitting length."""
    lines = function.code.split("\n")
    for place in range(max(CONTEXT_LINES, len(lines) // 2), len(lines)):
        if LEAST_LINE <= len(lines[place].strip()) <= MOST_LINE and lines[place - 1]:
            return "\n".join(lines[:place]), lines[place]
    return "", ""


def drawn_lines(others: Sequence[str], line: str, function: Function) -> list[str]:
    """Wrong continuations, of about the length of the right one and not in the function itself."""
    written = {known.strip() for known in function.code.split("\n")}
    fitting = [other for other in others if other.strip() not in written]
    alike = sorted(fitting, key=lambda other: abs(len(other) - len(line)))[:ALIKE]
    return sorted(alike, key=lambda other: drawn_key(function.name + line + other))[: CHOICES - 1]


def shuffled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in drawn order: the first of them are from all modules."""
    return sorted(rows, key=lambda row: drawn_key(row["text"]))


def drawn_key(text: str) -> str:
    """As good as random, and the same everywhere."""
    return sha256(f"{VERSION} {text}".encode()).hexdigest()
