"""The category that a model predicts for each sentence: encoders by filling masks, decoders by perplexity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from megatron_ettin.evaluate.bias.pronouns import CATEGORY, FORMS, MALE, NONE, masked, versions
from megatron_ettin.evaluate.generative.engines import Engine, Ids
from megatron_ettin.evaluate.scorer import passes

FIRST_CHOICES = 20
"""Of a mask's predictions only so many are looked at."""


@dataclass
class Masked:
    """Sentences in the tokens of one tokenizer, each with one of its pronouns masked: made once, asked of any model."""

    tokenizer: Any
    sentences: int
    owners: list[int] = field(default_factory=list)
    """Text -> sentence."""
    texts: list[Ids] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    """Text -> its mask."""
    categories: dict[int, str | None] = field(default_factory=dict)
    """Token -> category of the pronoun that it is, for the tokens that came up."""

    @classmethod
    def of(cls, tokenizer: Any, sentences: Sequence[str]) -> Masked:  # noqa: ANN401
        """The texts of some sentences."""
        made = cls(tokenizer=tokenizer, sentences=len(sentences))
        for number, sentence in enumerate(sentences):
            for text in masked(sentence, tokenizer.mask_token):
                ids = encoded(tokenizer, text, closed=True)
                made.owners.append(number)
                made.texts.append(ids)
                made.places.append(int(np.flatnonzero(ids == tokenizer.mask_token_id)[0]))
        return made

    def category(self, token: int) -> str | None:
        """The category of a token that is a pronoun."""
        if token not in self.categories:
            self.categories[token] = CATEGORY.get(self.tokenizer.decode([token]).strip().lower())
        return self.categories[token]


def encoder_predictions(engine: Engine, asked: Masked, offset: int, *, published: bool) -> list[str]:
    """Each sentence's category: each pronoun is masked in turn, its categories' probabilities among the first choices
    are added, weighted by the mass that all pronouns have there.

    Sentences whose masks have no pronoun among their first choices are NONE, or male as published.
    """
    sums = [dict.fromkeys(FORMS, 0.0) for _ in range(asked.sentences)]
    lengths = [len(ids) for ids in asked.texts]
    for chosen in passes(lengths, [1] * len(lengths), engine.tokens_per_pass):
        logits_BV = engine.logits(
            [asked.texts[i] for i in chosen], [np.array([asked.places[i] + offset]) for i in chosen]
        )
        best = logits_BV.softmax(-1).topk(min(FIRST_CHOICES, logits_BV.shape[-1]))
        for i, shares, ids in zip(chosen, best.values.tolist(), best.indices.tolist(), strict=True):
            for share, token in zip(shares, ids, strict=True):
                if category := asked.category(token):
                    sums[asked.owners[i]][category] += share
    # A pronoun's scores are shares of its mass; weighted by that mass they are the plain sums.
    return [decided(found, published=published) for found in sums]


def decided(sums: dict[str, float], *, published: bool) -> str:
    """The category with the largest sum; of equal ones the first, as published."""
    if not any(sums.values()):
        return MALE if published else NONE
    return max(sums, key=sums.__getitem__)


@dataclass
class Versions:
    """Sentences in the tokens of one tokenizer, each with the pronouns of every category."""

    sentences: int
    owners: list[int] = field(default_factory=list)
    """Text -> sentence."""
    texts: list[Ids] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)
    """Text -> category of its pronouns."""

    @classmethod
    def of(cls, tokenizer: Any, sentences: Sequence[str], *, published: bool) -> Versions:  # noqa: ANN401
        """The texts of some sentences."""
        made = cls(sentences=len(sentences))
        for number, sentence in enumerate(sentences):
            for category, text in versions(sentence, published=published).items():
                made.texts.append(encoded(tokenizer, text, closed=False))
                made.owners.append(number)
                made.categories.append(category)
        return made


def decoder_predictions(engine: Engine, asked: Versions) -> tuple[list[str], dict[str, float]]:
    """Each sentence's category, that of the version with the lowest perplexity, and the mean perplexity of each."""
    losses: list[dict[str, float]] = [{} for _ in range(asked.sentences)]
    lengths = [len(ids) for ids in asked.texts]
    for chosen in passes(lengths, [length - 1 for length in lengths], engine.tokens_per_pass):
        texts = [asked.texts[i] for i in chosen]
        found = engine.probabilities(texts, [np.arange(len(ids) - 1) for ids in texts], [ids[1:] for ids in texts])
        parts = torch.split(-found.logarithms_L, [len(ids) - 1 for ids in texts])
        for i, nats_L in zip(chosen, parts, strict=True):
            losses[asked.owners[i]][asked.categories[i]] = float(nats_L.mean())
    predictions = [min(FORMS, key=found.__getitem__) for found in losses]
    perplexities = {category: float(np.mean([np.exp(found[category]) for found in losses])) for category in FORMS}
    return predictions, perplexities


def encoded(tokenizer: Any, text: str, *, closed: bool) -> Ids:  # noqa: ANN401
    """[CLS] + text, and [SEP] for encoders; for tokenizers without [CLS] the text alone."""
    ids = list(tokenizer.encode(text, add_special_tokens=False, verbose=False))
    begun = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
    start = [] if begun is None else [begun]
    return np.array([*start, *ids, *([tokenizer.sep_token_id] if closed else [])], dtype=np.int64)
