"""Log-probabilities of continuations by any kind of model: decoders from the left, encoders by three masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from megatron_ettin.evaluate.bias.predictions import encoded
from megatron_ettin.evaluate.generative.engines import Engine, Ids
from megatron_ettin.evaluate.generative.three_masks import Continuation, ThreeMasks
from megatron_ettin.evaluate.scorer import passes
from megatron_ettin.evaluate.suites.models import Models
from megatron_ettin.evaluate.suites.subjects import Subject
from megatron_ettin.progress import Progress


def log_probabilities(models: Models, subject: Subject, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Nats of each pair's continuation behind its context, summed over the continuation's tokens alone.

    Both are tokenised apart, for every kind alike. A context that does not fit is cut from the left behind [CLS].
    """
    engine, tokenizer = models.engine(subject), models.tokenizer(subject)
    texts = [encoded(tokenizer, context, closed=False) for context, _ in pairs]
    ends = [np.array(tokenizer.encode(end, add_special_tokens=False), dtype=np.int64) for _, end in pairs]
    if subject.causal:
        asked = [Continuation(context=cut(text, engine.maximum_length - len(end)), ids=end)
                 for text, end in zip(texts, ends, strict=True)]  # fmt: skip
        return from_the_left(engine, asked, subject.name)
    scorer = ThreeMasks(
        engine=engine, mask=tokenizer.mask_token_id, separator=tokenizer.sep_token_id,
        label_offset=subject.label_offset,
    )  # fmt: skip
    asked = [Continuation(context=scorer.fitted(text, len(end))[0], ids=end)
             for text, end in zip(texts, ends, strict=True)]  # fmt: skip
    with Progress(f"{subject.name}, continuations by three masks", 0, " rows") as progress:
        return [scored.log_probability for scored in scorer.scores(asked, progress.update)]


def cut(context: Ids, most: int) -> Ids:
    """The context, or its first token and its end."""
    return context if len(context) <= most else np.concatenate([context[:1], context[len(context) - most + 1 :]])


def from_the_left(engine: Engine, asked: Sequence[Continuation], name: str) -> list[float]:
    """Sums of a decoder: one pass a continuation, its tokens predicted one position earlier."""
    texts = [np.concatenate([one.context, one.ids]) for one in asked]
    lengths, counts = [len(text) for text in texts], [len(one.ids) for one in asked]
    sums = [0.0] * len(asked)
    with Progress(f"{name}, continuations", len(asked), " texts") as progress:
        done = 0
        for chosen in passes(lengths, counts, engine.tokens_per_pass):
            positions = [np.arange(lengths[i] - counts[i], lengths[i]) - 1 for i in chosen]
            logits_LV = engine.logits([texts[i] for i in chosen], positions)
            targets_L = torch.from_numpy(np.concatenate([asked[i].ids for i in chosen])).to(logits_LV.device)
            log_p_L = logits_LV.gather(1, targets_L[:, None])[:, 0].double() - logits_LV.logsumexp(-1).double()
            for i, part in zip(chosen, torch.split(log_p_L, [counts[i] for i in chosen]), strict=True):
                sums[i] = float(part.sum())
            done += len(chosen)
            progress.update(done)
    return sums
