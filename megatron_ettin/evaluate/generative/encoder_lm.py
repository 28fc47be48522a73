"""``ettin_encoder``: an encoder as a model of lm-eval, by three masks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows

from megatron_ettin.errors import CheckpointError, ConfigError
from megatron_ettin.evaluate.generative.engines import Ids
from megatron_ettin.evaluate.generative.three_masks import Continuation, Rows, ThreeMasks, plan
from megatron_ettin.evaluate.suites.models import Models
from megatron_ettin.evaluate.suites.subjects import Subject, opened_subjects
from megatron_ettin.progress import Progress

logger = logging.getLogger(__name__)

LONGEST_ANSWER = 256
"""Tokens that are written where the task names no number, as with lm-eval's other models."""
ONLY_MODEL = "model"


@dataclass(frozen=True, kw_only=True)
class Planned:
    """Requests as the model computes them."""

    continuations: list[Continuation]
    rows: Rows
    """The different rows of them."""
    cut: list[tuple[int, int]]
    """Tokens before and after, of each context that was cut from the left because the model has no room for it."""


class EncoderLM(TemplateLM):  # type: ignore[misc]
    """An encoder that scores and writes continuations.

    The context is [CLS] + its tokens; a continuation is tokenised alone and ends with [SEP], whose probability counts.
    ``pretrained``: anything that ``ettin evaluate`` takes, or a Subject. ``mntp``: predictions stand one position
    earlier; folders of ours say so themselves. ``models`` and ``prepared`` keep what has been loaded, and the tokens
    and rows of requests, for the next model.
    """

    def __init__(
        self,
        pretrained: str | Subject,
        mntp: bool = False,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        *,
        models: Models | None = None,
        prepared: dict[Any, Any] | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            raise ConfigError(f"ettin_encoder has no argument {', '.join(unknown)}; it takes pretrained and mntp")
        self._resources = ExitStack()
        subject = pretrained
        if not isinstance(subject, Subject):
            opened = opened_subjects({ONLY_MODEL: str(pretrained)}, (ONLY_MODEL,) if mntp else ())
            subject = self._resources.enter_context(opened)[0]
        if subject.causal:
            raise CheckpointError(f"{subject.folder} is a decoder; run it with --model ettin_decoder or --model hf")
        self.subject = subject
        models = models or Models()
        self.tokenizer = models.tokenizer(subject)
        self.scorer = ThreeMasks(
            engine=models.engine(subject), mask=self.tokenizer.mask_token_id, separator=self.tokenizer.sep_token_id,
            label_offset=subject.label_offset,
        )  # fmt: skip
        self._prepared = {} if prepared is None else prepared
        self.cut = 0
        """Contexts that were cut from the left, because the model has no room for them."""

    @property
    def eot_token_id(self) -> int:
        """[SEP]."""
        return self.scorer.separator

    @property
    def prefix_token_id(self) -> int:
        """[CLS]: what stands before every text."""
        return int(self.tokenizer.cls_token_id)

    @property
    def tokenizer_name(self) -> str:
        """For lm-eval's cache of requests."""
        return self.subject.source.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Tokens of a text; with specials, [CLS] before them."""
        ids: list[int] = self.tokenizer.encode(string, add_special_tokens=False, verbose=False)
        return ids if add_special_tokens is False else [self.prefix_token_id, *ids]

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(sum of log-probabilities, whether greedy) of each request's continuation."""
        pairs = [request.args for request in requests]
        encoded = [(pair, *self._encode_pair(*pair)) for pair in pairs]
        return self._loglikelihood_tokens(encoded, disable_tqdm=disable_tqdm)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Both sides, spaces at the end of the context given to the continuation. An empty context is [CLS]."""
        key = (id(self.tokenizer), context, continuation)
        if key not in self._prepared:
            stripped = context.rstrip()
            moved = context[len(stripped) :] + continuation
            ids = [*self.tok_encode(moved, add_special_tokens=False), self.eot_token_id]
            self._prepared[key] = (self.tok_encode(stripped), ids)
        found: tuple[list[int], list[int]] = self._prepared[key]
        return found

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        planned = self._planned(requests)  # the last row of each has all tokens but [SEP] before its masks
        self._count(planned.cut)
        rows = len(planned.rows.lengths)
        with Progress("continuations by three masks", 0 if disable_tqdm else rows, " rows") as progress:
            scored = self.scorer.scores(planned.continuations, progress.update, planned.rows)
        answers = [(one.log_probability, one.greedy) for one in scored]
        for (pair, *__), answer in zip(requests, answers, strict=True):
            if pair is not None:
                self.cache_hook.add_partial("loglikelihood", pair, answer)
        return answers

    def _planned(self, requests: Sequence[tuple[Any, list[int], list[int]]]) -> Planned:
        """What to compute for some requests: made once for all models of a tokenizer and a length."""
        pairs = tuple(pair for pair, *_ in requests)
        key = (id(self.tokenizer), self.scorer.room, pairs)
        if None in pairs or key not in self._prepared:
            continuations, cut = [], []
            for __, context, ids in requests:
                fitted, shortened = self.scorer.fitted(np.array(context, dtype=np.int64), len(ids) - 1)
                continuations.append(Continuation(context=fitted, ids=np.array(ids, dtype=np.int64)))
                cut += [(len(context), len(fitted))] if shortened else []
            self._prepared[key] = Planned(continuations=continuations, rows=plan(continuations), cut=cut)
        found: Planned = self._prepared.pop(key) if None in pairs else self._prepared[key]
        return found

    def _count(self, cut: Sequence[tuple[int, int]]) -> None:
        """Count contexts that were cut; the first is told."""
        if cut and not self.cut:
            logger.warning(
                "a context of %d tokens is cut from the left to %d: the model takes %d; later ones are counted only",
                *cut[0], self.scorer.engine.maximum_length,
            )  # fmt: skip
        self.cut += len(cut)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of all tokens of each text, in windows as long as the model; [SEP] is not counted."""
        windows: list[tuple[None, list[int], list[int]]] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            ids = self.tok_encode(request.args[0], add_special_tokens=False)
            for read, predicted in get_rolling_token_windows(ids, self.prefix_token_id, self.scorer.room - 1, 1):
                context = read[: len(read) - len(predicted) + 1]
                begun = context if context[0] == self.prefix_token_id else [self.prefix_token_id, *context]
                windows.append((None, begun, predicted))
                owners.append(number)
        sums = [0.0] * len(requests)
        for number, (value, _) in zip(owners, self._loglikelihood_tokens(windows, disable_tqdm), strict=True):
            sums[number] += value
        for request, value in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, value)
        return sums

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy texts: the first of three masks is filled again and again, until [SEP], a stop string or the limit."""
        drafts = [Draft(self, *request.args) for request in requests]
        with Progress("texts by three masks", 0 if disable_tqdm else len(drafts), " texts") as progress:
            live = [draft for draft in drafts if not draft.finished]
            while live:
                tokens = self.scorer.next_tokens([draft.text() for draft in live])
                for draft, token in zip(live, tokens, strict=True):
                    draft.add(token)
                live = [draft for draft in live if not draft.finished]
                progress.update(len(drafts) - len(live))
        for request, draft in zip(requests, drafts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, draft.written)
        return [draft.written for draft in drafts]


class Draft:
    """A text that grows by a token a pass."""

    def __init__(self, model: EncoderLM, context: str, settings: dict[str, Any]) -> None:
        wanted = normalize_gen_kwargs(settings, LONGEST_ANSWER)
        if wanted.get("do_sample"):
            raise ConfigError("an encoder writes greedily; set do_sample to false in the task or in --gen_kwargs")
        self.model = model
        self.most = int(wanted["max_gen_toks"])
        self.stops = [stop for stop in handle_stop_sequences(list(wanted.get("until") or []), None) if stop]
        whole = np.array(model.tok_encode(context.rstrip()), dtype=np.int64)
        self.context, shortened = model.scorer.fitted(whole, self.most)
        model._count([(len(whole), len(self.context))] if shortened else [])
        self.ids: list[int] = []
        self.finished = self.most == 0

    def text(self) -> Ids:
        """What the next masks stand behind."""
        return np.concatenate([self.context, np.array(self.ids, dtype=np.int64)])

    def add(self, token: int) -> None:
        """The model's next token: kept, or the end."""
        if token == self.model.eot_token_id:
            self.finished = True
            return
        self.ids.append(token)
        whole = self.model.tokenizer.decode(self.ids, skip_special_tokens=True)
        self.finished = len(self.ids) >= self.most or any(stop in whole for stop in self.stops)

    @property
    def written(self) -> str:
        """The text up to the first stop string."""
        whole = self.model.tokenizer.decode(self.ids, skip_special_tokens=True)
        return str(postprocess_generated_text(whole, self.stops, None))
