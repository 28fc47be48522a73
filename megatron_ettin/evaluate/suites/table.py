"""Results of several files in one Markdown table a suite: intervals, and which differences lie within them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from typing import Any

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluate.suites.intervals import Z
from megatron_ettin.evaluate.suites.published import AVERAGES, PUBLISHED, WHOLE_SPLITS
from megatron_ettin.evaluate.suites.results import DONE, read_results

WITHIN = "\u2248"
"""Marks a score whose distance from the best of its column is within the interval of the difference."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a cell shows."""

    value: float
    standard_error: float | None
    interval: tuple[float, float] | None
    percent: bool

    def shown(self, digits: int = 1) -> str:
        """Value and interval; shares in percent."""
        scale, digits = (100, digits) if self.percent else (1, 3)
        text = f"{scale * self.value:.{digits}f}"
        if self.interval is not None:
            text += " [{:.{d}f}, {:.{d}f}]".format(*(scale * bound for bound in self.interval), d=digits)
        return text


@dataclass(kw_only=True)
class Column:
    """Scores of one task by one set of rules."""

    task: str
    rules: str
    """As JSON; scores of other rules stand in another column."""
    metric: str
    higher_is_better: bool
    examples: int
    scores: dict[str, Score] = field(default_factory=dict)
    """Model -> score."""

    def best(self) -> str:
        """The model with the best score."""
        choose = max if self.higher_is_better else min
        return choose(self.scores, key=lambda name: self.scores[name].value)

    def within(self, name: str) -> bool:
        """Whether the model's distance from the best may be chance: the 95 % interval of the difference holds 0."""
        best, score = self.scores[self.best()], self.scores[name]
        if best is score or best.standard_error is None or score.standard_error is None:
            return False
        return abs(best.value - score.value) <= Z * sqrt(best.standard_error**2 + score.standard_error**2)

    def cell(self, name: str) -> str:
        """Markdown of one model's cell."""
        if name not in self.scores:
            return "-"
        text = self.scores[name].shown()
        if len(self.scores) > 1 and name == self.best():
            return f"**{text}**"
        return f"{text} {WITHIN}" if self.within(name) else text


def compare(paths: Sequence[Path]) -> str:
    """Markdown of all results in some files or folders. Raises ConfigError."""
    if not paths:
        raise ConfigError("--table needs at least one results.json, or the folder of one")
    return "\n".join(tables(merged(paths)))


def merged(paths: Sequence[Path]) -> dict[str, Any]:
    """Name -> model over all files; models of one name and different weights are told apart by their folder."""
    models: dict[str, Any] = {}
    for path in paths:
        for name, model in read_results(path)["models"].items():
            folder = path.name if path.is_dir() else path.parent.name
            label = name
            if name in models and models[name]["fingerprint"] != model["fingerprint"]:
                label = f"{name} ({folder})"
            known = models.setdefault(label, {**model, "suites": {}})
            for suite, tasks in model["suites"].items():
                mine = known["suites"].setdefault(suite, {})
                for task, result in tasks.items():
                    if task not in mine or mine[task]["status"] != DONE:
                        mine[task] = result
                    elif result["status"] == DONE and result["identity"] != mine[task]["identity"]:
                        other = models.setdefault(f"{label} ({folder})", {**model, "suites": {}})
                        other["suites"].setdefault(suite, {})[task] = result
    return models


def tables(models: Mapping[str, Any]) -> Iterator[str]:
    """One section a suite."""
    suites = list(dict.fromkeys(suite for model in models.values() for suite in model["suites"]))
    for suite in suites:
        yield from _section(suite, models)


def _section(suite: str, models: Mapping[str, Any]) -> Iterator[str]:
    results = {name: model["suites"][suite] for name, model in models.items() if suite in model["suites"]}
    columns = list(_columns(results))
    columns += _averages(suite, columns)
    yield f"## {suite}\n"
    if columns:
        titles, notes = _titles(columns)
        yield f"| model | kind | {' | '.join(titles)} |"
        yield "|---|---|" + "--:|" * len(columns)
        for name in results:
            yield f"| {name} | {models[name]['kind']} | {' | '.join(column.cell(name) for column in columns)} |"
        for name, figures in _published(suite, columns).items():
            cells = (f"{figures[column.task]:.1f}" if column.task in figures else "-" for column in columns)
            yield f"| {name} (published) | | {' | '.join(cells)} |"
        yield (
            f"\nIn brackets the 95 % interval; bold: the best of a column; {WITHIN}: not told apart from the best, "
            "since the interval of the difference holds 0. Shares in percent.\n"
        )
        yield from notes
    missing = _missing(results)
    if missing:
        yield "Not run:\n"
        yield from missing
        yield ""


def _columns(results: Mapping[str, Mapping[str, Any]]) -> Iterable[Column]:
    columns: dict[tuple[str, str], Column] = {}
    for name, tasks in results.items():
        for task, result in tasks.items():
            if result["status"] != DONE:
                continue
            key = (task, json.dumps(rules_of(result), sort_keys=True))
            column = columns.setdefault(
                key,
                Column(
                    task=task, rules=key[1], metric=result["metric"], higher_is_better=result["higher_is_better"],
                    examples=result["examples"],
                ),
            )  # fmt: skip
            interval = result["interval"]
            column.scores[name] = Score(
                value=result["value"], standard_error=result["standard_error"],
                interval=None if interval is None else (interval[0], interval[1]), percent=result["unit"] == "share",
            )  # fmt: skip
    order = list(dict.fromkeys(task for tasks in results.values() for task in tasks))
    return sorted(columns.values(), key=lambda column: order.index(column.task))


def rules_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """What must be equal for two scores to share a column."""
    identity = result["identity"]
    return {
        "version": identity["version"], "rules": identity["protocol"]["rules"], "data": identity["data"],
        "limit": identity["limit"], "seeds": identity["seeds"], "metric": result["metric"],
        "examples": result["examples"],
    }  # fmt: skip


def _averages(suite: str, columns: Sequence[Column]) -> list[Column]:
    """The paper's plain mean, for models that have all of its tasks by one set of rules each."""
    wanted = AVERAGES.get(suite, ())
    by_task = {task: [column for column in columns if column.task == task] for task in wanted}
    if not wanted or any(len(found) != 1 for found in by_task.values()):
        return []
    parts = [found[0] for found in by_task.values()]
    mean = Column(task="mean", rules="", metric=f"mean of {len(parts)}", higher_is_better=True, examples=0)
    for name in parts[0].scores:
        scores = [part.scores[name] for part in parts if name in part.scores]
        if len(scores) < len(parts):
            continue
        value = sum(score.value for score in scores) / len(scores)
        errors = [score.standard_error for score in scores if score.standard_error is not None]
        error = sqrt(sum(e * e for e in errors)) / len(scores) if len(errors) == len(scores) else None
        interval = None if error is None else (value - Z * error, value + Z * error)
        mean.scores[name] = Score(value=value, standard_error=error, interval=interval, percent=True)
    return [mean] if mean.scores else []


def _titles(columns: Sequence[Column]) -> tuple[list[str], list[str]]:
    """Headings, and a note for each task that has columns of different rules."""
    titles, notes = [], []
    for column in columns:
        alike = [other for other in columns if other.task == column.task]
        title = f"{column.task} ({column.metric})"
        if len(alike) > 1:
            title += f" rules {alike.index(column) + 1}"
            notes.append(f"- {title}: {_differing(column, alike)}")
        titles.append(title)
    if notes:
        notes = ["Scores of different rules are not comparable and stand in columns of their own:\n", *notes, ""]
    return titles, notes


def _differing(column: Column, alike: Sequence[Column]) -> str:
    mine, others = json.loads(column.rules), [json.loads(other.rules) for other in alike]
    return ", ".join(
        f"{key} {json.dumps(value)}" for key, value in mine.items() if any(other[key] != value for other in others)
    )


def _published(suite: str, columns: Sequence[Column]) -> dict[str, dict[str, float]]:
    """Published figures of the tasks that ran on the same split."""
    whole = WHOLE_SPLITS.get(suite, {})
    same = {column.task for column in columns if column.examples == whole.get(column.task)}
    found = {
        name: {task: figure for task, figure in figures.items() if task in same}
        for name, figures in PUBLISHED.get(suite, {}).items()
    }
    return {name: figures for name, figures in found.items() if figures}


def _missing(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line a reason, with the tasks and models that it stands for."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for name, tasks in results.items():
        for task, result in tasks.items():
            if result["status"] != DONE:
                reasons.setdefault((task, result["reason"]), []).append(name)
    return [f"- {task} ({', '.join(names)}): {reason}" for (task, reason), names in reasons.items()]
