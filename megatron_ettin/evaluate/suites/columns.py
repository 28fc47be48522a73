"""What tables and pages show of results: a column for each task and set of rules, and what may be chance."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import sqrt
from pathlib import Path
from typing import Any

from megatron_ettin.evaluate.suites.intervals import Z
from megatron_ettin.evaluate.suites.published import AVERAGES, PUBLISHED, WHOLE_SPLITS
from megatron_ettin.evaluate.suites.results import DONE, read_results

READ_APART = ("losses",)
"""Suites whose tasks are another question for each reading: a token is told by both its sides better than by one."""


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
    reading: str = ""
    """What the models of the column read, where that makes it another question."""
    ranked: bool = True
    """Whether one end of the scale is better at all."""
    chance: float | None = None
    """What guessing would give; None where it is not told, or not the same for all."""
    group: str = ""
    """Tasks of one group have means of their own; empty: none."""
    group_size: int = 0
    """How many there are; 0 where it is not fixed."""
    type: str = ""
    """Tasks of one type weigh together in the mean over types."""
    scores: dict[str, Score] = field(default_factory=dict)
    """Model -> score."""

    @property
    def question(self) -> str:
        """Task, and what is read where that is a part of it."""
        return f"{self.task}, {self.reading}" if self.reading else self.task

    def best(self) -> str | None:
        """The model with the best score; None where no end is better, or nothing to compare with."""
        if not self.ranked or len(self.scores) < 2:
            return None
        choose = max if self.higher_is_better else min
        return choose(self.scores, key=lambda name: self.scores[name].value)

    def within(self, name: str) -> bool:
        """Whether the model's distance from the best may be chance: the 95 % interval of the difference holds 0."""
        best = self.best()
        found = None if best in (None, name) else self.difference(str(best), name)
        return found is not None and found[1][0] <= 0 <= found[1][1]

    def difference(self, first: str, second: str) -> tuple[float, tuple[float, float]] | None:
        """How far ``first`` is above ``second``, with its interval; None without errors.

        The two count as independent, though both answered the same examples: the interval is rather too wide.
        """
        one, other = self.scores[first], self.scores[second]
        if one.standard_error is None or other.standard_error is None:
            return None
        value, reach = one.value - other.value, Z * sqrt(one.standard_error**2 + other.standard_error**2)
        return value, (value - reach, value + reach)


@dataclass(frozen=True, kw_only=True)
class Section:
    """What there is to show of one suite."""

    suite: str
    models: Sequence[str]
    """Those that the suite was run on, in order."""
    columns: Sequence[Column]
    published: Mapping[str, Mapping[str, float]]
    """Published model -> task -> percent, of the tasks that ran on the same split."""
    missing: Sequence[str]
    """A line for each reason not to run."""

    def title(self, column: Column) -> str:
        """Question and metric, and a number where rules differ."""
        alike = self._alike(column)
        title = f"{column.question} ({column.metric})"
        return title if len(alike) == 1 else f"{title} rules {alike.index(column) + 1}"

    def figure(self, name: str, column: Column) -> float | None:
        """What a published model has in a column, in percent; None in one of another split or other examples."""
        return self.published[name].get(column.task) if on_published_split(self.suite, column) else None

    def notes(self) -> list[str]:
        """For each column whose task has others: the rules in which they differ."""
        notes = []
        for column in self.columns:
            alike = self._alike(column)
            if len(alike) > 1:
                mine, others = json.loads(column.rules), [json.loads(other.rules) for other in alike]
                differing = [name for name, value in mine.items() if any(other[name] != value for other in others)]
                rules = ", ".join(f"{name} {json.dumps(mine[name])}" for name in differing)
                notes.append(f"{self.title(column)}: {rules}")
        return notes

    def _alike(self, column: Column) -> list[Column]:
        return [other for other in self.columns if other.question == column.question]


def merged(paths: Sequence[Path]) -> dict[str, Any]:
    """Name -> model over all files; of one name and other weights, data or rules, each has its folder's name too."""
    models: dict[str, Any] = {}
    for path in paths:
        folder = (path if path.is_dir() else path.parent).resolve()
        for name, model in read_results(path)["models"].items():
            for suite, tasks in model["suites"].items():
                for task, result in tasks.items():
                    label = next(label for label in _labels(name, folder) if _fits(models, label, model, suite, task))
                    mine = models.setdefault(label, {**model, "suites": {}})["suites"].setdefault(suite, {})
                    if task not in mine or mine[task]["status"] != DONE:
                        mine[task] = result
    return models


def _labels(name: str, folder: Path) -> Iterator[str]:
    """Names for a model that is not the only one of its name: with more and more of its folder, then with a number."""
    yield name
    for parts in range(1, len(folder.parts) + 1):
        yield f"{name} ({'/'.join(folder.parts[-parts:])})"
    for number in count(2):
        yield f"{name} ({number})"


def _fits(models: Mapping[str, Any], label: str, model: Mapping[str, Any], suite: str, task: str) -> bool:
    """Whether the outcome of a task can stand under a label: nothing else of other weights or rules does."""
    if label not in models:
        return True
    if models[label]["fingerprint"] != model["fingerprint"]:
        return False
    known, result = models[label]["suites"].get(suite, {}).get(task), model["suites"][suite][task]
    if known is None or not known["status"] == result["status"] == DONE:
        return True
    return bool(known["identity"] == result["identity"])


def sections(models: Mapping[str, Any]) -> Iterator[Section]:
    """One a suite, in the order of the results."""
    for suite in dict.fromkeys(suite for model in models.values() for suite in model["suites"]):
        results = {name: model["suites"][suite] for name, model in models.items() if suite in model["suites"]}
        columns = _columns(results, apart=suite in READ_APART)
        columns += _averages(suite, columns)
        yield Section(
            suite=suite, models=list(results), columns=columns, published=_published(suite, columns),
            missing=_missing(results),
        )  # fmt: skip


def _columns(results: Mapping[str, Mapping[str, Any]], *, apart: bool) -> list[Column]:
    """``apart``: models that read a task differently have columns of their own."""
    columns: dict[tuple[str, str, str], Column] = {}
    for name, tasks in results.items():
        for task, result in tasks.items():
            if result["status"] != DONE:
                continue
            reading = result["identity"]["protocol"].get("reading", "") if apart else ""
            key = (task, reading, json.dumps(rules_of(result), sort_keys=True))
            details = result.get("details", {})
            column = columns.setdefault(
                key,
                Column(
                    task=task, reading=reading, rules=key[2], metric=result["metric"],
                    higher_is_better=result["higher_is_better"],
                    examples=result["examples"], ranked=result.get("ranked", True),
                    chance=details.get("chance"), group=details.get("group", ""),
                    group_size=details.get("group_size", 0), type=details.get("type", ""),
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
    """The mean that the paper shows of a suite, and two for each group that results name: over tasks and over types.

    A task counts that has one column, so one set of rules; a model counts that has all of a mean's tasks.
    """
    tasks = [column.task for column in columns]
    single = {column.task: column for column in columns if tasks.count(column.task) == 1}
    found = []
    parts = [single[task] for task in AVERAGES.get(suite, ()) if task in single]
    if parts and len(parts) == len(AVERAGES[suite]):
        found.append(_mean("mean", f"mean of {len(parts)}", parts, [1 / len(parts)] * len(parts)))
    for group in dict.fromkeys(column.group for column in single.values() if column.group):
        parts = [column for column in single.values() if column.group == group]
        if len(parts) < 2:
            continue
        types = [part.type for part in parts]  # one of many tasks weighs no more than one of few
        by_type = [1 / (len(set(types)) * types.count(kind)) for kind in types]
        size = max(part.group_size for part in parts)
        counted = f"{len(parts)} of {size}" if size else f"{len(parts)}"
        found += [
            _mean(f"{group}, over tasks", f"mean of {counted}", parts, [1 / len(parts)] * len(parts)),
            _mean(f"{group}, over types", f"mean of {len(set(types))}", parts, by_type),
        ]
    return [column for column in found if column.scores]


def _mean(task: str, metric: str, parts: Sequence[Column], weights: Sequence[float]) -> Column:
    mean = Column(task=task, rules="", metric=metric, higher_is_better=True, examples=0)
    for name in parts[0].scores:
        scores = [part.scores[name] for part in parts if name in part.scores]
        if len(scores) < len(parts):
            continue
        value = sum(weight * score.value for weight, score in zip(weights, scores, strict=True))
        errors = [score.standard_error for score in scores if score.standard_error is not None]
        error = None
        if len(errors) == len(scores):
            error = sqrt(sum((weight * one) ** 2 for weight, one in zip(weights, errors, strict=True)))
        interval = None if error is None else (value - Z * error, value + Z * error)
        mean.scores[name] = Score(value=value, standard_error=error, interval=interval, percent=True)
    return mean


def on_published_split(suite: str, column: Column) -> bool:
    """Whether a column's scores are of the split that published figures were made on, after training on all of theirs.

    Both must be whole.
    """
    if column.examples != WHOLE_SPLITS.get(suite, {}).get(column.task):
        return False
    return bool(json.loads(column.rules)["rules"].get("training_examples", "all") == "all")


def _published(suite: str, columns: Sequence[Column]) -> dict[str, dict[str, float]]:
    """Published figures of the tasks that ran on the same split."""
    same = {column.task for column in columns if on_published_split(suite, column)}
    found = {
        name: {task: figure for task, figure in figures.items() if task in same}
        for name, figures in PUBLISHED.get(suite, {}).items()
    }
    return {name: figures for name, figures in found.items() if figures}


def _missing(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for each reason and set of models, with the tasks that it stands for."""
    models: dict[tuple[str, str], list[str]] = {}
    for name, tasks in results.items():
        for task, result in tasks.items():
            if result["status"] != DONE:
                models.setdefault((task, result["reason"]), []).append(name)
    found: dict[tuple[str, str], list[str]] = {}
    for (task, reason), names in models.items():
        found.setdefault((reason, ", ".join(names)), []).append(task)
    return [f"{', '.join(tasks)} ({names}): {reason}" for (reason, names), tasks in found.items()]
