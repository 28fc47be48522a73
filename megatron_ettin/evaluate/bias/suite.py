"""The bias suite: shares of the three categories among a model's predictions."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from megatron_ettin.errors import DataError
from megatron_ettin.evaluate.bias.predictions import Masked, Versions, decoder_predictions, encoder_predictions
from megatron_ettin.evaluate.bias.pronouns import FORMS, NONE, category_in
from megatron_ettin.evaluate.suites.intervals import wilson
from megatron_ettin.evaluate.suites.local import file_facts, read_rows, split_file
from megatron_ettin.evaluate.suites.models import Models
from megatron_ettin.evaluate.suites.optional import hub_rows
from megatron_ettin.evaluate.suites.subjects import Subject
from megatron_ettin.evaluate.suites.suite import Facts, Measured, Options, RunTask

HUB = ("oskarvanderwal/winogender", "gotcha", "test")
COLUMNS = ("sentence", "gender")
CATEGORIES = (*FORMS, NONE)
TASKS = {f"winogender_{category}": category for category in CATEGORIES} | {"winogender_gotcha": "gotcha"}
"""Task -> the category whose share it is; gotcha: the share of sentences whose own pronoun is predicted."""


@dataclass(frozen=True)
class BiasSuite:
    """WinoGender's gotcha sentences: the pronoun is of the sex that is rarer in the occupation."""

    options: Options
    models: Models = field(default_factory=Models)
    name: ClassVar[str] = "bias"
    version: ClassVar[str] = "1"
    _texts: dict[tuple[int, bool], Masked | Versions] = field(default_factory=dict)

    def tasks(self) -> Sequence[str]:
        """A share each."""
        return list(TASKS)

    def data(self, task: str) -> Facts:
        """The local file with its hash, or the hub's data set."""
        if self.options.local is None:
            path, config, split = HUB
            return {"hub": path, "config": config, "split": split}
        return file_facts({"gotcha": self._file})

    def protocol(self, task: str, subject: Subject) -> Facts:
        """Published or corrected."""
        if self.options.published:
            rules = "published: no pronoun among the first 20 counts as male, every 'her' becomes possessive"
        else:
            rules = "corrected: no pronoun among the first 20 counts as none, 'her' becomes him or his by what follows"
        reading = "perplexity of three versions" if subject.causal else "masked pronouns, first 20 choices"
        return {"rules": {"three categories": rules}, "reading": reading}

    @cached_property
    def _file(self) -> Path:
        """The local one; without a folder of local data, what stands for it in messages."""
        local = self.options.local
        return Path(HUB[0]) if local is None else split_file(local / "bias" / "winogender", "gotcha")

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        """Rows with a pronoun. Raises DataError for one without."""
        where = self._file
        if self.options.local is None:
            rows = list(hub_rows(*HUB, "eval-lm"))[: self.options.limit]
        else:
            rows = list(read_rows(self._file, COLUMNS, self.options.limit))
        for number, row in enumerate(rows, 1):
            if category_in(str(row["sentence"])) is None:
                raise DataError(f"{where}, row {number}: the sentence has no pronoun; remove the row")
            if row["gender"] not in FORMS:
                raise DataError(f"{where}, row {number}: gender is {row['gender']!r}; it is one of {', '.join(FORMS)}")
        if not rows:
            raise DataError(f"{where} has no rows")
        return rows

    def _asked(self, subject: Subject) -> Masked | Versions:
        """The sentences in the subject's tokens: made once for all models of a tokenizer and kind."""
        tokenizer = self.models.tokenizer(subject)
        key = (id(tokenizer), subject.causal)
        if key not in self._texts:
            sentences = [str(row["sentence"]) for row in self._rows]
            self._texts[key] = (
                Versions.of(tokenizer, sentences, published=self.options.published)
                if subject.causal
                else Masked.of(tokenizer, sentences)
            )
        return self._texts[key]

    @contextlib.contextmanager
    def opened(self, subject: Subject) -> Iterator[RunTask]:
        """All sentences are answered at once."""
        asked, engine = self._asked(subject), self.models.engine(subject)
        tokens, longest = max((len(ids), text) for text, ids in enumerate(asked.texts))
        if tokens > engine.maximum_length:
            raise DataError(
                f"{self._file}, row {asked.owners[longest] + 1}: the sentence has {tokens} tokens, and "
                f"{subject.name} takes {engine.maximum_length}; remove the row, or take a model with longer texts"
            )
        details: Facts = {}
        if isinstance(asked, Versions):
            predicted, details["perplexities"] = decoder_predictions(engine, asked)
        else:
            predicted = encoder_predictions(engine, asked, subject.label_offset, published=self.options.published)
        yield lambda task: share(TASKS[task], predicted, [str(row["gender"]) for row in self._rows], details)


def share(category: str, predicted: Sequence[str], genders: Sequence[str], details: Facts) -> Measured:
    """The share of sentences predicted as ``category``, or as their own gender for "gotcha"."""
    count = len(predicted)
    own = Counter(gender for gender, guess in zip(genders, predicted, strict=True) if gender == guess)
    hits = sum(own.values()) if category == "gotcha" else predicted.count(category)
    classes = Counter(genders)
    value = hits / count
    facts = {
        "predictions": dict(Counter(predicted)),
        "own gender by gender": {gender: own[gender] / number for gender, number in classes.items()},
        "expected by chance": {
            "one of three": 1 / len(FORMS),
            "by class shares": sum((number / count) ** 2 for number in classes.values()),
        },
    }  # fmt: skip
    return Measured(
        metric="own pronoun" if category == "gotcha" else "share", value=value, examples=count,
        standard_error=(value * (1 - value) / max(1, count - 1)) ** 0.5, interval=wilson(value, count), ranked=False,
        details={**facts, **details},
    )  # fmt: skip
