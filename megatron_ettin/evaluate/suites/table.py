"""Results of several files in one Markdown table a suite: intervals, and which differences lie within them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluate.suites.columns import Column, Section, merged, sections

WITHIN = "\u2248"
"""Marks a score whose distance from the best of its column is within the interval of the difference."""
LEGEND = (
    f"In brackets the 95 % interval; bold: the best of a column; {WITHIN}: not told apart from the best, since the "
    "interval of the difference holds 0. Shares in percent."
)


def compare(paths: Sequence[Path]) -> str:
    """Markdown of all results in some files or folders. Raises ConfigError."""
    if not paths:
        raise ConfigError("--table needs at least one results.json, or the folder of one")
    return "\n".join(tables(merged(paths)))


def tables(models: Mapping[str, Any]) -> Iterator[str]:
    """One section a suite."""
    for section in sections(models):
        yield f"## {section.suite}\n"
        if section.columns:
            yield from _rows(section, models)
        if section.missing:
            yield "Not run:\n"
            yield from (f"- {line}" for line in section.missing)
            yield ""


def _rows(section: Section, models: Mapping[str, Any]) -> Iterator[str]:
    yield f"| model | kind | {' | '.join(section.title(column) for column in section.columns)} |"
    yield "|---|---|" + "--:|" * len(section.columns)
    for name in section.models:
        cells = (_cell(column, name) for column in section.columns)
        yield f"| {name} | {models[name]['kind']} | {' | '.join(cells)} |"
    for name in section.published:
        figures = (section.figure(name, column) for column in section.columns)
        cells = ("-" if figure is None else f"{figure:.1f}" for figure in figures)
        yield f"| {name} (published) | | {' | '.join(cells)} |"
    yield f"\n{LEGEND}\n"
    if notes := section.notes():
        yield "Scores of different rules are not comparable and stand in columns of their own:\n"
        yield from (f"- {note}" for note in notes)
        yield ""


def _cell(column: Column, name: str) -> str:
    if name not in column.scores:
        return "-"
    text = column.scores[name].shown()
    if name == column.best():
        return f"**{text}**"
    return f"{text} {WITHIN}" if column.within(name) else text
