"""Held-out losses as a suite: what ``ettin evaluate`` without suites prints, as tasks with intervals."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from megatron_ettin.config.run import RunConfig
from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluate.generative.engines import Engine
from megatron_ettin.evaluate.losses import MASKED, NEXT, NEXT_SAMPLE, HeldOut, losses, questions
from megatron_ettin.evaluate.scorer import Answers, Request, passes
from megatron_ettin.evaluate.suite import held_out_text, require_tokenizer, text_settings
from megatron_ettin.evaluate.suites.intervals import normal
from megatron_ettin.evaluate.suites.models import Models, tokenizer_digest
from megatron_ettin.evaluate.suites.subjects import Subject
from megatron_ettin.evaluate.suites.suite import Facts, Measured, NotRunError, RunTask
from megatron_ettin.export.huggingface import objective_of, read_folder_config

OTHER = -1
"""Stands for a first choice that is not the token that was asked for."""
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


def answered(engine: Engine, requests: Sequence[Request], told: Callable[[int], None]) -> Answers:
    """An engine's answers in the order of the requests, in passes of texts of like length; ``told`` as in Scorer."""
    lengths = [len(request.ids_T) for request in requests]
    sizes = [len(request.positions_L) for request in requests]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    log_probabilities_L, first_choices_L = np.zeros(starts[-1]), np.zeros(starts[-1], dtype=np.int64)
    done = 0
    for chosen in passes(lengths, sizes, engine.tokens_per_pass):
        asked = [requests[i] for i in chosen]
        targets = [request.targets_L for request in asked]
        found = engine.probabilities(
            [request.ids_T for request in asked], [request.positions_L for request in asked], targets
        )
        places = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in chosen])
        log_probabilities_L[places] = found.logarithms_L.numpy()
        first_choices_L[places] = np.where(found.first_L.numpy(), np.concatenate(targets), OTHER)
        done += len(chosen)
        told(done)
    return Answers(log_probabilities_L=log_probabilities_L, first_choices_L=first_choices_L)


@dataclass(frozen=True)
class LossesSuite:
    """Masked and next tokens of held-out text."""

    settings: HeldOutSettings
    models: Models = field(default_factory=Models)
    name: ClassVar[str] = "losses"
    version: ClassVar[str] = "1"
    _asked: dict[str, dict[str, list[Request]]] = field(default_factory=dict)
    """Objective -> questions, which are made once."""
    _tokenizers: set[str] = field(default_factory=set)
    """Digests of the tokenizers that were found to be the text's."""

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
        digest = tokenizer_digest(subject.folder)
        if digest not in self._tokenizers:
            require_tokenizer(subject.name, subject.folder, tokenizer_json)
            self._tokenizers.add(digest)
        objective = objective_of(read_folder_config(subject.folder))
        if objective.name not in self._asked:
            self._asked[objective.name] = questions(text, objective)
        asked, engine = self._asked[objective.name], self.models.engine(subject)
        lengths = [*(len(piece.ids_T) for piece in text.masked), *(len(piece.ids_T) for piece in text.plain)]
        longest = max(lengths)
        if longest > engine.maximum_length:  # three masks behind the longest piece are no more than rotary angles
            raise NotRunError(
                f"the text has pieces of {longest} tokens, and {subject.name} takes {engine.maximum_length}; give "
                f"--row-length {engine.maximum_length}",
                absent=False,
            )
        found = losses(text, objective, partial(answered, engine), subject.name, asked)

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
