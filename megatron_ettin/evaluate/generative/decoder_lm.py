"""``ettin_decoder``: lm-eval's own model ``hf``, its log-probabilities computed by our engine on packed rows."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from lm_eval.models.huggingface import HFLM

from megatron_ettin.errors import CheckpointError, DataError
from megatron_ettin.evaluate.generative.encoder_lm import ONLY_MODEL
from megatron_ettin.evaluate.generative.engines import Ids, load_any, load_engine, passes
from megatron_ettin.evaluate.suites.subjects import Subject, opened_subjects
from megatron_ettin.evaluate.suites.tokenizers import tokenizer_of
from megatron_ettin.progress import Progress

GENERATED_AT_ONCE = 16


def harness_decoder(subject: Subject) -> HFLM:
    """lm-eval's ``hf`` on a loaded model in float32, with [CLS] before every text as published."""
    return HFLM(
        pretrained=load_any(subject), tokenizer=tokenizer_of(subject), add_bos_token=True, batch_size=GENERATED_AT_ONCE
    )


class DecoderLM(HFLM):  # type: ignore[misc]
    """A decoder of ours: prompts, generation and windows as ``hf`` makes them.

    ``pretrained``: anything that ``ettin evaluate`` takes, or a Subject.
    """

    def __init__(self, pretrained: str | Subject, **options: Any) -> None:
        self._resources = ExitStack()
        subject = pretrained
        if not isinstance(subject, Subject):
            subject = self._resources.enter_context(opened_subjects({ONLY_MODEL: str(pretrained)}))[0]
        if not subject.causal or not subject.ours:
            raise CheckpointError(
                f"{subject.folder} is no decoder of ours; run encoders with --model ettin_encoder and decoders of "
                "other makers with --model hf"
            )
        options = {"add_bos_token": True, "batch_size": GENERATED_AT_ONCE, **options}
        super().__init__(pretrained=load_any(subject), tokenizer=tokenizer_of(subject), **options)
        self.engine = load_engine(subject)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """As ``hf``; equal texts are computed once, and the vocabulary only where it is asked for."""
        numbers: dict[bytes, int] = {}
        texts: list[Ids] = []
        asked: list[tuple[int, int]] = []
        """Request -> (text, tokens of it that answer)."""
        for __, context, continuation in requests:
            if len(continuation) > self.max_length:
                raise DataError(
                    f"a continuation of {len(continuation)} tokens does not fit into a model of {self.max_length}; "
                    "leave the task out, or take a model with longer texts"
                )
            text = np.array([*context, *continuation][-(self.max_length + 1) :][:-1], dtype=np.int64)
            number = numbers.setdefault(text.tobytes(), len(texts))
            if number == len(texts):
                texts.append(text)
            asked.append((number, len(continuation)))
        most = [0] * len(texts)
        for number, wanted in asked:
            most[number] = max(most[number], wanted)
        by_text: list[list[int]] = [[] for __ in texts]
        for request, (number, __) in enumerate(asked):
            by_text[number].append(request)
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        lengths = [len(text) for text in texts]
        with Progress("continuations", 0 if disable_tqdm else len(texts), " texts") as progress:
            done = 0
            for chosen in passes(lengths, most, self.engine.tokens_per_pass):
                positions = [np.arange(lengths[i] - most[i], lengths[i]) for i in chosen]
                logits_LV = self.engine.logits([texts[i] for i in chosen], positions)
                start = 0
                for i in chosen:
                    rows = logits_LV[start : start + most[i]]
                    start += most[i]
                    for request in by_text[i]:
                        answers[request] = _answer(rows, requests[request][2])
                done += len(chosen)
                progress.update(done)
        for (pair, *__), answer in zip(requests, answers, strict=True):
            if pair is not None:
                self.cache_hook.add_partial("loglikelihood", pair, answer)
        return answers


def _answer(logits_LV: Any, continuation: Sequence[int]) -> tuple[float, bool]:  # noqa: ANN401 - a tensor
    rows = logits_LV[-len(continuation) :]
    targets = rows.new_tensor(continuation, dtype=rows.new_zeros(0).long().dtype)
    log_p = rows.gather(1, targets[:, None])[:, 0].double() - rows.logsumexp(-1).double()
    return float(log_p.sum()), bool((rows.argmax(-1) == targets).all())
