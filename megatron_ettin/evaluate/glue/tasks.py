"""The eight tasks, and their examples in the hub's columns."""

# N examples of a split

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.errors import DataError
from megatron_ettin.evaluate.glue.settings import Setting
from megatron_ettin.evaluate.suites.local import file_facts, read_rows, split_file
from megatron_ettin.evaluate.suites.optional import hub_rows
from megatron_ettin.evaluate.suites.suite import Facts, NotRunError

HUB = "nyu-mll/glue"
EXTRA = "eval-glue"
TRAIN = "train"
HIGHEST_SIMILARITY = 5.0
"""Labels of a regression lie between 0 and this."""
UNKNOWN = -1
"""The label of test splits."""


@dataclass(frozen=True, kw_only=True)
class Examples:
    """One split."""

    firsts: Sequence[str]
    seconds: Sequence[str] | None
    """The other text of each pair; None for single texts."""
    labels_N: NDArray[np.float64]
    """A class, or a similarity."""
    where: str
    """File or data set, for messages; rows count from 1."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task."""

    name: str
    columns: tuple[str, ...]
    """Of its one or two texts."""
    metric: str
    """The published one."""
    setting: Setting
    """The one setting."""
    sweep_epochs: tuple[int, ...]
    classes: int = 2
    """1: a similarity is predicted."""
    staged: bool = False
    """Begins with the model that has been fine-tuned on MNLI."""
    split: str = "validation"
    """What the metric is of."""
    further: str = ""
    """Another split, whose score stands beside it where the split is there."""

    def files(self, local: Path) -> dict[str, Path]:
        """Split -> file. Raises NotRunError when training or validation is absent."""
        folder = local / "glue" / self.name
        found = {split: split_file(folder, split) for split in (TRAIN, self.split)}
        if self.further:
            with contextlib.suppress(NotRunError):
                found[self.further] = split_file(folder, self.further)
        return found

    def facts(self, local: Path | None) -> Facts:
        """Where the examples come from. Raises NotRunError."""
        if local is None:
            return {"hub": HUB, "config": self.name, "splits": self.splits(None)}
        return file_facts(self.files(local))

    def splits(self, local: Path | None) -> list[str]:
        """Those that are there, training first. Raises NotRunError."""
        if local is None:
            return [TRAIN, self.split, *([self.further] if self.further else [])]
        return list(self.files(local))

    def read(self, local: Path | None, split: str, limit: int | None) -> Examples:
        """The first ``limit`` examples of a split. Raises DataError with file, row, rule and remedy."""
        if local is None:
            return self.checked(islice(hub_rows(HUB, self.name, split, EXTRA), limit), f"{HUB} {self.name} {split}")
        path = self.files(local)[split]
        return self.checked(read_rows(path, (*self.columns, "label"), limit), str(path))

    def checked(self, rows: Iterable[Mapping[str, Any]], where: str) -> Examples:
        """The rows as examples. Raises DataError for a text that is none, and for a label outside of the task's."""
        texts: list[list[str]] = [[] for _ in self.columns]
        labels = []
        for number, row in enumerate(rows, 1):
            if missing := [column for column in (*self.columns, "label") if column not in row]:
                raise DataError(f"{where}, row {number}: no column {', '.join(missing)}; it has {', '.join(row)}")
            for column, into in zip(self.columns, texts, strict=True):
                if not isinstance(row[column], str):
                    raise DataError(f"{where}, row {number}: {column} is {row[column]!r}; it is a text, in quotes")
                into.append(row[column])
            labels.append(self._label(row["label"], f"{where}, row {number}"))
        if not labels:
            raise DataError(f"{where} has no rows; fetch it again")
        seconds = texts[1] if len(texts) > 1 else None
        return Examples(firsts=texts[0], seconds=seconds, labels_N=np.array(labels, np.float64), where=where)

    def _label(self, label: Any, place: str) -> float:  # noqa: ANN401 - whatever JSON holds
        if label == UNKNOWN:
            raise DataError(
                f"{place}: label -1 marks a test split, whose answers are not public; give a split with answers"
            )
        if self.classes == 1:
            known = f"a number from 0 to {HIGHEST_SIMILARITY:g}"
            right = isinstance(label, int | float) and not isinstance(label, bool) and 0 <= label <= HIGHEST_SIMILARITY
        else:
            known = f"one of the classes {', '.join(map(str, range(self.classes)))}"
            right = isinstance(label, int) and not isinstance(label, bool) and 0 <= label < self.classes
        if not right:
            raise DataError(f"{place}: label is {label!r}; in {self.name} it is {known}. Mend or remove the row")
        return float(label)


LONG, SHORT = (2, 5, 10, 12), (1, 2, 3, 4)
_PAIR = ("sentence1", "sentence2")

TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task(name="cola", columns=("sentence",), metric="matthews", sweep_epochs=LONG,
             setting=Setting(rate=1e-4, decay=1e-6, batch=32, epochs=10)),
        Task(name="sst2", columns=("sentence",), metric="accuracy", sweep_epochs=SHORT,
             setting=Setting(rate=8e-5, decay=1e-5, batch=32, epochs=3)),
        Task(name="mrpc", columns=_PAIR, metric="accuracy", sweep_epochs=LONG, staged=True,
             setting=Setting(rate=5e-5, decay=5e-6, batch=32, epochs=10)),
        Task(name="stsb", columns=_PAIR, metric="spearman", sweep_epochs=LONG, staged=True, classes=1,
             setting=Setting(rate=8e-5, decay=5e-6, batch=32, epochs=10)),
        Task(name="qqp", columns=("question1", "question2"), metric="accuracy", sweep_epochs=LONG,
             setting=Setting(rate=5e-5, decay=5e-6, batch=32, epochs=10)),
        Task(name="mnli", columns=("premise", "hypothesis"), metric="accuracy", sweep_epochs=SHORT, classes=3,
             split="validation_matched", further="validation_mismatched",
             setting=Setting(rate=8e-5, decay=1e-6, batch=32, epochs=1)),
        Task(name="qnli", columns=("question", "sentence"), metric="accuracy", sweep_epochs=LONG,
             setting=Setting(rate=8e-5, decay=1e-6, batch=32, epochs=2)),
        Task(name="rte", columns=_PAIR, metric="accuracy", sweep_epochs=SHORT, staged=True,
             setting=Setting(rate=5e-5, decay=5e-6, batch=32, epochs=3)),
    )
}  # fmt: skip
"""In the paper's order. Settings: the best known ones of the 150M encoder (CoLA, SST-2, QQP, MNLI, QNLI), moved onto
the grid of the sweep; for the others its middle."""
