"""What a model writes: a filled mask and a continuation, both for every kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from megatron_ettin.evaluate.questions import MASKS
from megatron_ettin.evaluate.scorer import Scorer
from megatron_ettin.tokenizer.special_tokens import MASK


@dataclass(frozen=True, kw_only=True)
class FilledMask:
    """A text with one gap, and what a model would put there."""

    text: str
    """With [MASK] where the gap is."""
    choices: tuple[tuple[str, float], ...]
    """Most probable tokens with their probabilities."""


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """A beginning and how a model goes on."""

    text: str
    continuation: str


def fill_mask(scorer: Scorer, tokenizer: Any, text: str, choices: int = 5) -> FilledMask:  # noqa: ANN401
    """The most probable tokens for the [MASK] in ``text``; a decoder sees only what is to its left."""
    ids = torch.tensor([tokenizer(text.replace(MASK, tokenizer.mask_token))["input_ids"]], device=scorer.device)
    position = (ids[0] == tokenizer.mask_token_id).nonzero()[0] + scorer.objective.label_offset
    rows = torch.zeros_like(position)
    probabilities = scorer.logits(ids, torch.ones_like(ids), rows, position)[0].softmax(-1)
    best = probabilities.topk(choices)
    words = [(tokenizer.decode([i]), p) for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)]
    return FilledMask(text=text, choices=tuple(words))


@torch.no_grad()
def go_on(scorer: Scorer, tokenizer: Any, text: str, tokens: int = 24) -> Continuation:  # noqa: ANN401
    """Greedy continuation: by the cache of a decoder; by an encoder one token a pass through three masks."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    prompt = [tokenizer.cls_token_id, *ids]
    if scorer.objective.causal:
        prompt_BT = torch.tensor([prompt], device=scorer.device)
        attended_BT = torch.ones_like(prompt_BT)
        out_BT = scorer.model.generate(prompt_BT, attention_mask=attended_BT, max_new_tokens=tokens, do_sample=False)
        written = out_BT[0, len(prompt) :].tolist()
        return Continuation(text=text, continuation=tokenizer.decode(written, skip_special_tokens=True))
    mask, separator = tokenizer.mask_token_id, scorer.model.config.sep_token_id
    written = []
    for _ in range(tokens):
        prefix = prompt + written
        row = torch.tensor([[*prefix, *[mask] * MASKS, separator]], device=scorer.device)
        position = torch.tensor([len(prefix) + scorer.objective.label_offset], device=scorer.device)
        chosen = int(scorer.logits(row, torch.ones_like(row), torch.zeros_like(position), position).argmax())
        if chosen == separator:
            break
        written.append(chosen)
    return Continuation(text=text, continuation=tokenizer.decode(written, skip_special_tokens=True))


def gap_in(text: str, seed: int = 0) -> str:
    """``text`` with one of its inner words replaced by [MASK]."""
    words = text.split()
    place = 1 + int(np.random.Generator(np.random.Philox(seed)).integers(max(1, len(words) - 2)))
    return " ".join([*words[:place], "[MASK]", *words[place + 1 :]])
