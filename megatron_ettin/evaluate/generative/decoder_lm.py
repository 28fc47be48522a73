"""``ettin_decoder``: lm-eval's own model ``hf``, its log-probabilities computed by our engine on packed rows."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lm_eval.models.huggingface import HFLM

from megatron_ettin.errors import CheckpointError, DataError
from megatron_ettin.evaluate.generative.encoder_lm import ONLY_MODEL
from megatron_ettin.evaluate.generative.engines import Ids, Probabilities
from megatron_ettin.evaluate.scorer import passes
from megatron_ettin.evaluate.suites.models import Models
from megatron_ettin.evaluate.suites.subjects import Subject, opened_subjects
from megatron_ettin.progress import Progress

GENERATED_AT_ONCE = 16


def harness_decoder(subject: Subject, models: Models | None = None) -> HFLM:
    """lm-eval's ``hf`` on a loaded model in float32, with [CLS] before every text as published."""
    models = models or Models()
    return HFLM(
        pretrained=models.plain(subject), tokenizer=models.tokenizer(subject), add_bos_token=True,
        batch_size=GENERATED_AT_ONCE,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The different texts of some requests, and the passes that they are computed in."""

    ids: list[Ids]
    requests: list[list[int]]
    """Text -> the requests that it answers."""
    most: list[int]
    """Text -> positions at its end that somebody asks for."""
    passes: list[list[int]]


class DecoderLM(HFLM):  # type: ignore[misc]
    """A decoder of ours: prompts, generation and windows as ``hf`` makes them.

    ``pretrained``: anything that ``ettin evaluate`` takes, or a Subject. ``models`` and ``prepared`` keep what has been
    loaded, and the tokens and passes of requests, for the next model.
    """

    def __init__(
        self, pretrained: str | Subject, *, models: Models | None = None, prepared: dict[Any, Any] | None = None,
        **options: Any,
    ) -> None:  # fmt: skip
        self._resources = ExitStack()
        subject = pretrained
        if not isinstance(subject, Subject):
            subject = self._resources.enter_context(opened_subjects({ONLY_MODEL: str(pretrained)}))[0]
        if not subject.causal or not subject.ours:
            raise CheckpointError(
                f"{subject.folder} is no decoder of ours; run encoders with --model ettin_encoder and decoders of "
                "other makers with --model hf"
            )
        models = models or Models()
        options = {"add_bos_token": True, "batch_size": GENERATED_AT_ONCE, **options}
        super().__init__(pretrained=models.plain(subject), tokenizer=models.tokenizer(subject), **options)
        self.engine = models.engine(subject)
        self._prepared = {} if prepared is None else prepared

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """As ``hf``; kept."""
        key = (id(self.tokenizer), context, continuation)
        if key not in self._prepared:
            self._prepared[key] = super()._encode_pair(context, continuation)
        found: tuple[list[int], list[int]] = self._prepared[key]
        return found

    def _texts(self, requests: Sequence[tuple[Any, list[int], list[int]]]) -> Texts:
        """What to compute for some requests: made once for all models of a tokenizer and a length."""
        pairs = tuple(pair for pair, *_ in requests)
        key = (id(self.tokenizer), self.max_length, pairs)
        if None not in pairs and key in self._prepared:
            found: Texts = self._prepared[key]
            return found
        numbers: dict[bytes, int] = {}
        made = Texts(ids=[], requests=[], most=[], passes=[])
        for request, (__, context, continuation) in enumerate(requests):
            if len(continuation) > self.max_length:
                raise DataError(
                    f"a continuation of {len(continuation)} tokens does not fit into a model of {self.max_length}; "
                    "leave the task out, or take a model with longer texts"
                )
            text = np.array([*context, *continuation][-(self.max_length + 1) :][:-1], dtype=np.int64)
            number = numbers.setdefault(text.tobytes(), len(made.ids))
            if number == len(made.ids):
                made.ids.append(text)
                made.requests.append([])
                made.most.append(0)
            made.requests[number].append(request)
            made.most[number] = max(made.most[number], len(continuation))
        made.passes.extend(passes([len(text) for text in made.ids], made.most, self.engine.tokens_per_pass))
        if None not in pairs:
            self._prepared[key] = made
        return made

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """As ``hf``; equal texts are computed once, and the vocabulary only where it is asked for."""
        texts = self._texts(requests)
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        with Progress("continuations", 0 if disable_tqdm else len(texts.ids), " texts") as progress:
            done = 0
            for chosen in texts.passes:
                positions = [np.arange(len(texts.ids[i]) - texts.most[i], len(texts.ids[i])) for i in chosen]
                logits_LV = self.engine.logits([texts.ids[i] for i in chosen], positions)
                for i, rows_LV in zip(chosen, torch.split(logits_LV, [texts.most[i] for i in chosen]), strict=True):
                    for request in texts.requests[i]:
                        targets_L = torch.tensor(requests[request][2])
                        found = Probabilities.of(rows_LV[-len(targets_L) :], targets_L)
                        answers[request] = float(found.logarithms_L.sum()), bool(found.first_L.all())
                done += len(chosen)
                progress.update(done)
        for (pair, *__), answer in zip(requests, answers, strict=True):
            if pair is not None:
                self.cache_hook.add_partial("loglikelihood", pair, answer)
        return answers
