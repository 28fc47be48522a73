"""The category that a model predicts for each sentence: encoders by filling masks, decoders by perplexity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from megatron_ettin.evaluate.bias.pronouns import CATEGORY, FORMS, MALE, NONE, masked, versions
from megatron_ettin.evaluate.generative.engines import Engine, Ids, passes

FIRST_CHOICES = 20
"""Of a mask's predictions only so many are looked at."""


def encoder_predictions(
    engine: Engine, tokenizer: Any, offset: int, sentences: Sequence[str], *, published: bool  # noqa: ANN401
) -> list[str]:
    """Each sentence's category: each pronoun is masked in turn, its categories' probabilities among the first choices
    are added, weighted by the mass that all pronouns have there.

    Sentences whose masks have no pronoun among their first choices are NONE, or male as published.
    """
    mask = tokenizer.mask_token
    asked = [(number, text) for number, sentence in enumerate(sentences) for text in masked(sentence, mask)]
    texts = [encoded(tokenizer, text, closed=True) for _, text in asked]
    places = [np.array([int(np.flatnonzero(ids == tokenizer.mask_token_id)[0]) + offset]) for ids in texts]
    sums = [dict.fromkeys(FORMS, 0.0) for _ in sentences]
    lengths = [len(ids) for ids in texts]
    for chosen in passes(lengths, [1] * len(texts), engine.tokens_per_pass):
        logits_BV = engine.logits([texts[i] for i in chosen], [places[i] for i in chosen])
        best = logits_BV.softmax(-1).topk(min(FIRST_CHOICES, logits_BV.shape[-1]))
        for i, shares, ids in zip(chosen, best.values.tolist(), best.indices.tolist(), strict=True):
            for share, token in zip(shares, ids, strict=True):
                word = tokenizer.decode([token]).strip().lower()
                if word in CATEGORY:
                    sums[asked[i][0]][CATEGORY[word]] += share
    # A pronoun's scores are shares of its mass; weighted by that mass they are the plain sums.
    return [decided(found, published=published) for found in sums]


def decided(sums: dict[str, float], *, published: bool) -> str:
    """The category with the largest sum; of equal ones the first, as published."""
    if not any(sums.values()):
        return MALE if published else NONE
    return max(sums, key=sums.__getitem__)


def decoder_predictions(
    engine: Engine, tokenizer: Any, sentences: Sequence[str], *, published: bool  # noqa: ANN401
) -> tuple[list[str], dict[str, float]]:
    """Each sentence's category, that of the version with the lowest perplexity, and the mean perplexity of each."""
    texts: list[Ids] = []
    owners: list[tuple[int, str]] = []
    for number, sentence in enumerate(sentences):
        for category, text in versions(sentence, published=published).items():
            texts.append(encoded(tokenizer, text, closed=False))
            owners.append((number, category))
    losses: list[dict[str, float]] = [{} for _ in sentences]
    lengths = [len(ids) for ids in texts]
    for chosen in passes(lengths, [length - 1 for length in lengths], engine.tokens_per_pass):
        logits_LV = engine.logits([texts[i] for i in chosen], [np.arange(lengths[i] - 1) for i in chosen])
        targets_L = logits_LV.new_tensor(np.concatenate([texts[i][1:] for i in chosen])).long()
        nats_L = logits_LV.logsumexp(-1) - logits_LV.gather(1, targets_L[:, None])[:, 0]
        for i, part in zip(chosen, torch.split(nats_L, [lengths[i] - 1 for i in chosen]), strict=True):
            number, category = owners[i]
            losses[number][category] = float(part.double().mean())
    predictions = [min(FORMS, key=found.__getitem__) for found in losses]
    perplexities = {category: float(np.mean([np.exp(found[category]) for found in losses])) for category in FORMS}
    return predictions, perplexities


def encoded(tokenizer: Any, text: str, *, closed: bool) -> Ids:  # noqa: ANN401
    """[CLS] + text, and [SEP] for encoders; for tokenizers without [CLS] the text alone."""
    ids = list(tokenizer.encode(text, add_special_tokens=False))
    begun = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
    start = [] if begun is None else [begun]
    return np.array([*start, *ids, *([tokenizer.sep_token_id] if closed else [])], dtype=np.int64)
