"""The stdlib suite: classification, retrieval and continuation, without anything from elsewhere."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.errors import DataError
from megatron_ettin.evaluate.stdlib import ranking
from megatron_ettin.evaluate.stdlib.build import FOLDER, build
from megatron_ettin.evaluate.stdlib.choices import log_probabilities
from megatron_ettin.evaluate.stdlib.probe import FOLDS, PENALTIES, chosen_penalty, fit
from megatron_ettin.evaluate.stdlib.states import mean_states
from megatron_ettin.evaluate.stdlib.tasks import CHOICES, CONTINUATION, DOCSTRING, MODULE, TASKS, VERSION
from megatron_ettin.evaluate.suites.intervals import bootstrap, wilson
from megatron_ettin.evaluate.suites.local import file_facts, read_rows, split_file
from megatron_ettin.evaluate.suites.models import Models
from megatron_ettin.evaluate.suites.subjects import Subject
from megatron_ettin.evaluate.suites.suite import Facts, Measured, Options, RunTask

FILES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    MODULE: {"train": ("text", "label"), "test": ("text", "label")},
    DOCSTRING: {"functions": ("function", "text"), "test": ("text", "function")},
    CONTINUATION: {"test": ("context", "choices", "label")},
}
"""Task -> split -> columns."""

POOLED = "mean of the last layer's states over all tokens"
RULES = {
    MODULE: f"logistic regression on states, penalty of {PENALTIES} by {FOLDS} folds of the training rows",
    DOCSTRING: f"no training; cosine of states less the mean of their side; nDCG@{ranking.DEPTH}",
    CONTINUATION: f"{CHOICES} choices, log-probability a character",
}


@dataclass(frozen=True)
class StdlibSuite:
    """Three tasks from functions of Python's standard library."""

    options: Options
    models: Models = field(default_factory=Models)
    name: ClassVar[str] = "stdlib"
    version: ClassVar[str] = "1"

    def tasks(self) -> Sequence[str]:
        """Classification, retrieval, continuation."""
        return TASKS

    @cached_property
    def _folder(self) -> Path:
        """The tasks in the local folder where there are some, else made from this machine's library.

        Those are kept in megatron-ettin in XDG_CACHE_HOME, or in ~/.cache.
        """
        local = self.options.local
        if local is not None and (local / FOLDER).is_dir():
            return local / FOLDER
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return build(cache / "megatron-ettin" / f"tasks-{VERSION}-python-{platform.python_version()}")

    def _files(self, task: str) -> dict[str, Path]:
        return {split: split_file(self._folder / task, split) for split in FILES[task]}

    def data(self, task: str) -> Facts:
        """The task's files with their hashes."""
        return file_facts(self._files(task))

    def protocol(self, task: str, subject: Subject) -> Facts:
        """The same for every kind, but that encoders continue a text by three masks."""
        reading = POOLED
        if task == CONTINUATION:
            reading = "left context from [CLS]" if subject.causal else "three masks, the first is read"
        return {"rules": RULES[task], "reading": reading}

    def _rows(self, task: str, split: str) -> list[dict[str, Any]]:
        """Rows of a split; the limit cuts what is scored, never what is fitted or searched."""
        path = self._files(task)[split]
        rows = list(read_rows(path, FILES[task][split], self.options.limit if split == "test" else None))
        if not rows:
            raise DataError(f"{path} has no rows")
        return rows

    @contextlib.contextmanager
    def opened(self, subject: Subject) -> Iterator[RunTask]:
        """The model is loaded by the task: two of them read its states, the third its predictions."""
        run: dict[str, Callable[[Subject], Measured]] = {
            MODULE: self._classified, DOCSTRING: self._retrieved, CONTINUATION: self._continued,
        }  # fmt: skip
        yield lambda task: run[task](subject)

    def _classified(self, subject: Subject) -> Measured:
        train, test = self._rows(MODULE, "train"), self._rows(MODULE, "test")
        classes = sorted({row["label"] for row in train})
        if unknown := sorted({row["label"] for row in test} - set(classes)):
            raise DataError(f"{self._files(MODULE)['test']}: label {unknown[0]!r} is in no row of train")
        texts = [row["text"] for row in (*train, *test)]
        states = mean_states(self.models, subject, texts, "states of functions")
        labels = np.array([classes.index(row["label"]) for row in (*train, *test)])
        fitted, seen = states[: len(train)], labels[: len(train)]
        penalty = chosen_penalty(fitted, seen, len(classes))
        right = fit(fitted, seen, len(classes), penalty).predict(states[len(train) :]) == labels[len(train) :]
        details = {"chance": 1 / len(classes), "classes": len(classes), "fitted": len(train), "penalty": penalty}
        return share_of(right, "accuracy", {}, details)

    def _retrieved(self, subject: Subject) -> Measured:
        functions, queries = self._rows(DOCSTRING, "functions"), self._rows(DOCSTRING, "test")
        places = {row["function"]: place for place, row in enumerate(functions)}
        for number, query in enumerate(queries, 1):
            if query["function"] not in places:
                raise DataError(
                    f"{self._files(DOCSTRING)['test']}, row {number}: no function {query['function']!r} in "
                    f"{self._files(DOCSTRING)['functions'].name}; remove the row"
                )
        documents, asked = (
            mean_states(self.models, subject, [row["text"] for row in rows], f"states of {title}")
            for rows, title in ((functions, "functions"), (queries, "docstrings"))
        )
        ranks = ranking.ranks_of(asked, documents, np.array([places[row["function"]] for row in queries]))
        gains = ranking.gains(ranks)
        error, interval = bootstrap(lambda drawn: float(gains[drawn].mean()), len(gains))
        return Measured(
            metric=f"nDCG@{ranking.DEPTH}", value=float(gains.mean()), examples=len(gains), standard_error=error,
            interval=interval,
            others={"mean reciprocal rank": float((1 / ranks).mean()), "found first": float((ranks == 1).mean())},
            details={"chance": ranking.chance(len(functions)), "functions": len(functions)},
        )  # fmt: skip

    def _continued(self, subject: Subject) -> Measured:
        rows = self._rows(CONTINUATION, "test")
        for number, row in enumerate(rows, 1):
            if len(row["choices"]) != CHOICES or row["label"] not in range(CHOICES):
                raise DataError(
                    f"{self._files(CONTINUATION)['test']}, row {number}: a row has {CHOICES} choices and a label "
                    f"from 0 to {CHOICES - 1}; mend or remove it"
                )
        pairs = [(row["context"], choice) for row in rows for choice in row["choices"]]
        nats = np.array(log_probabilities(self.models, subject, pairs)).reshape(len(rows), -1)
        characters = np.array([len(choice) for _, choice in pairs]).reshape(nats.shape)
        labels = np.array([row["label"] for row in rows])
        plain = float((nats.argmax(1) == labels).mean())
        right = (nats / characters).argmax(1) == labels
        return share_of(right, "acc_norm", {"acc": plain}, {"chance": 1 / nats.shape[1]})


def share_of(right: NDArray[np.bool_], metric: str, others: dict[str, float], details: Facts) -> Measured:
    """The share of examples that were right, with Wilson's interval."""
    value, count = float(right.mean()), len(right)
    return Measured(
        metric=metric, value=value, examples=count, standard_error=(value * (1 - value) / max(1, count - 1)) ** 0.5,
        interval=wilson(value, count), others=others, details=details,
    )  # fmt: skip
