"""Fine-tuning: AdamW with decoupled decay over shuffled batches, a function of data, setting and seed."""

# B texts of a batch, N texts of a split, C classes

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from torch import Tensor

from megatron_ettin.evaluate.generative.engines import ON_GPU, TOKENS_PER_PASS
from megatron_ettin.evaluate.glue.classifiers import Classifier
from megatron_ettin.evaluate.glue.reading import Text
from megatron_ettin.evaluate.glue.settings import Setting
from megatron_ettin.evaluate.scorer import passes
from megatron_ettin.parallel.seeds import derive
from megatron_ettin.rows.order import Permutation, Stream, permutation_keys

BETAS, EPSILON = (0.9, 0.98), 1e-6
WARMUP = 0.06
"""Share of the steps in which the rate rises; then it falls to 0 in a straight line."""


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """How a fine-tuning went."""

    steps: int
    loss: float
    """Mean over the steps of the last epoch."""
    kept: float
    """What weight decay alone has left of a weight that never had a gradient."""
    diverged_at: int | None
    """The step whose loss was no number: it ended there, and its weights mean nothing."""


def fine_tune(
    classifier: Classifier,
    texts: Sequence[Text],
    labels_N: NDArray[np.float64],
    setting: Setting,
    seed: int,
    told: Callable[[int], None] = lambda step: None,
) -> Tuned:
    """Train all weights on the texts; ``told`` hears the number of finished steps."""
    optimizer = make_optimizer(classifier, setting)
    steps = steps_of(len(texts), setting)
    losses, kept = [], 1.0
    classifier.train()
    for step, chosen in enumerate(batches(len(texts), setting, seed)):
        factor = rate_factor(step, steps)
        for group in optimizer.param_groups:
            group["lr"] = setting.rate * factor
        loss = training_loss(classifier, [texts[i] for i in chosen], labels_N[chosen], step)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            return Tuned(steps=steps, loss=0.0, kept=1.0, diverged_at=step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        kept *= 1.0 - setting.decay * factor
        told(step + 1)
    last = losses[-(steps // setting.epochs) :]
    return Tuned(steps=steps, loss=sum(last) / len(last), kept=kept, diverged_at=None)


def steps_of(examples: int, setting: Setting) -> int:
    """Steps of a whole fine-tuning."""
    return setting.epochs * math.ceil(examples / setting.batch)


def make_optimizer(classifier: Classifier, setting: Setting) -> torch.optim.AdamW:
    """AdamW that takes away ``decay * rate / peak rate`` of a matrix in a step, and nothing of vectors."""
    parameters = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    groups = [
        {"params": [one for one in parameters if one.ndim > 1], "weight_decay": setting.decay / setting.rate},
        {"params": [one for one in parameters if one.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=setting.rate, betas=BETAS, eps=EPSILON, fused=True)


def rate_factor(step: int, steps: int) -> float:
    """Of the peak rate at a step from 0: up in a straight line over WARMUP of the steps, then down to 0."""
    warmup = WARMUP * steps
    return step / warmup if step < warmup else (steps - step) / (steps - warmup)


def batches(examples: int, setting: Setting, seed: int) -> Iterator[NDArray[np.int64]]:
    """Which examples each step reads: every epoch in an order of its own, the last batch of it may be smaller."""
    for epoch in range(setting.epochs):
        order = Permutation(examples, permutation_keys(derive("fine-tuning order", seed), Stream.ORDER, 0, epoch))
        for first in range(0, examples, setting.batch):
            yield order.at(np.arange(first, min(first + setting.batch, examples)))


def training_loss(classifier: Classifier, texts: Sequence[Text], labels_B: NDArray[np.float64], step: int) -> Tensor:
    """Mean cross-entropy of the classes, or mean squared error of similarities."""
    logits_BC = classifier.logits(texts, step)
    labels = torch.from_numpy(labels_B).to(logits_BC.device)
    if logits_BC.shape[1] == 1:
        return functional.mse_loss(logits_BC[:, 0], labels.to(logits_BC.dtype))
    return functional.cross_entropy(logits_BC, labels.long())


@torch.no_grad()
def predict(classifier: Classifier, texts: Sequence[Text]) -> NDArray[np.float64]:
    """The most probable class of each text, or its similarity, [N]."""
    classifier.eval()
    found_N = np.zeros(len(texts))
    lengths = [len(text["input_ids"]) for text in texts]
    tokens = TOKENS_PER_PASS * (ON_GPU if torch.cuda.is_available() else 1)
    for chosen in passes(lengths, [1] * len(texts), tokens):
        logits_BC = classifier.logits([texts[i] for i in chosen])
        best_B = logits_BC[:, 0] if logits_BC.shape[1] == 1 else logits_BC.argmax(-1)
        found_N[chosen] = best_B.double().cpu().numpy()
    return found_N
