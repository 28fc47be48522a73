"""Held-out losses as a suite: what ``ettin evaluate`` without suites prints, as tasks with intervals."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from megatron_ettin.config.run import RunConfig
from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluate.losses import MASKED, NEXT, NEXT_SAMPLE, HeldOut, losses
from megatron_ettin.evaluate.scorer import load_scorer
from megatron_ettin.evaluate.suite import held_out_text, require_tokenizer, text_settings
from megatron_ettin.evaluate.suites.intervals import normal
from megatron_ettin.evaluate.suites.subjects import Subject
from megatron_ettin.evaluate.suites.suite import Facts, Measured, NotRunError, RunTask

TASKS = {"masked": MASKED, "next_sample": NEXT_SAMPLE, "next": NEXT}
"""Task -> question."""


@dataclass(frozen=True, kw_only=True)
class HeldOutSettings:
    """Which text is read, and how much of it."""

    run: RunConfig
    """A run that reads the text."""
    rows: int
    sample: int
    """Next tokens that every kind is asked for."""


def held_out_settings(
    subjects: Sequence[Subject], *, data: str, held_out_share: float, row_length: int, mask_share: float, rows: int,
    sample: int,
) -> HeldOutSettings:  # fmt: skip
    """The text of the first subject that is ours. Raises ConfigError when none is."""
    ours = [subject.folder for subject in subjects if subject.ours]
    if not ours:
        raise ConfigError("the losses suite needs a model of ours: its corpus and tokenizer are those of a training")
    run = text_settings(
        ours[0], data=data, held_out_share=held_out_share, row_length=row_length, mask_share=mask_share
    )  # fmt: skip
    return HeldOutSettings(run=run, rows=rows, sample=sample)


@dataclass(frozen=True)
class LossesSuite:
    """Masked and next tokens of held-out text."""

    settings: HeldOutSettings
    name: str = "losses"
    version: str = "1"

    @cached_property
    def _text(self) -> tuple[HeldOut, Path]:
        return held_out_text(self.settings.run, self.settings.rows, self.settings.sample)

    @cached_property
    def _digest(self) -> str:
        pieces = self._text[0].plain
        return hashlib.sha256(b"".join(piece.ids_T.astype("<i4").tobytes() for piece in pieces)).hexdigest()

    def tasks(self) -> Sequence[str]:
        """Both questions, and all next tokens."""
        return list(TASKS)

    def data(self, task: str) -> Facts:
        """The corpus by name, and the digest of its held-out tokens."""
        return {"corpus": self.settings.run.data.data, "ids_sha256": self._digest, "rows": self.settings.rows}

    def protocol(self, task: str, subject: Subject) -> Facts:
        """What is masked or sampled. Raises NotRunError for models that read the text in other tokens."""
        if not subject.ours:
            raise NotRunError("losses a token compare models of one tokenizer of ours", absent=False)
        if task == "next" and not subject.causal:
            raise NotRunError("an encoder needs a pass a token: see next_sample", absent=False)
        reading = "left context" if subject.causal else "both sides" if task == "masked" else "three masks"
        data = self.settings.run.data
        rules = {"mask_share": data.mask_share, "row_length": data.row_length, "sample": self.settings.sample}
        return {"rules": rules, "reading": reading}

    @contextlib.contextmanager
    def opened(self, subject: Subject) -> Iterator[RunTask]:
        """All questions are answered at the first task."""
        text, tokenizer_json = self._text
        require_tokenizer(subject.name, subject.folder, tokenizer_json)
        found = losses(text, load_scorer(subject.folder), subject.name)

        def run(task: str) -> Measured:
            loss = found[TASKS[task]]
            return Measured(
                metric="nats per token", value=loss.nats_per_token, examples=loss.tokens, unit="nats",
                standard_error=loss.standard_error, interval=normal(loss.nats_per_token, loss.standard_error),
                higher_is_better=False,
                others={"nats_per_byte": loss.nats_per_byte, "accuracy": loss.accuracy,
                        "perplexity": float(np.exp(loss.nats_per_token))},
                details=asdict(loss),
            )  # fmt: skip

        yield run
