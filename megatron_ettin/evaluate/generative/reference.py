"""The three-mask method written out literally, one row at a time through transformers: what the fast way must equal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


@torch.no_grad()
def score(
    model: Any, context: Sequence[int], continuation: Sequence[int], *, mask: int, separator: int, offset: int
) -> tuple[float, bool]:
    """Log-probability of a continuation ([SEP] included) behind a context ([CLS] + text), and whether it is greedy."""
    total, greedy = 0.0, True
    for i, token in enumerate(continuation):
        prefix = [*context, *continuation[:i]]
        row = torch.tensor([[*prefix, mask, mask, mask, separator]], device=model.device)
        logits = model(input_ids=row, attention_mask=torch.ones_like(row)).logits[0]
        log_p = logits[len(prefix) + offset].float().log_softmax(-1)
        total += log_p[token].item()
        greedy = greedy and int(log_p.argmax()) == token
    return total, greedy
