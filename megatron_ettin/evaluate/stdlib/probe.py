"""How much of a class is in a model's states: logistic regression on them, the model itself unchanged."""

# N examples, H hidden, C classes

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from megatron_ettin.evaluate.stdlib.states import States

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
"""Weights of half the squared norm beside the mean loss, from which the training examples choose."""
FOLDS = 4
ITERATIONS = 200

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Probe:
    """A fitted classifier of states."""

    mean_H: States
    scale_H: States
    weight_HC: States
    bias_C: States

    def predict(self, states_NH: States) -> Labels:
        """The most probable class of each."""
        scores_NC = (states_NH - self.mean_H) / self.scale_H @ self.weight_HC + self.bias_C
        best: Labels = scores_NC.argmax(-1)
        return best


def fit(states_NH: States, labels_N: Labels, classes: int, penalty: float) -> Probe:
    """Multinomial logistic regression on states of mean 0 and deviation 1; the bias is not penalised.

    The loss is convex, so that the outcome does not depend on where it starts.
    """
    mean_H, scale_H = states_NH.mean(0), np.maximum(states_NH.std(0), 1e-9)
    inputs_NH, targets_N = torch.from_numpy((states_NH - mean_H) / scale_H), torch.from_numpy(labels_N)
    weight_HC = torch.zeros(states_NH.shape[1], classes, dtype=torch.float64, requires_grad=True)
    bias_C = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight_HC, bias_C], max_iter=ITERATIONS, tolerance_grad=1e-8, tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(inputs_NH @ weight_HC + bias_C, targets_N)
        value = value + penalty / 2 * weight_HC.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return Probe(mean_H, scale_H, weight_HC.detach().numpy(), bias_C.detach().numpy())


def chosen_penalty(states_NH: States, labels_N: Labels, classes: int, penalties: Sequence[float] = PENALTIES) -> float:
    """The penalty whose probes are right most often about examples they were not fitted on; of equal ones the larger.

    Example n is left out in fold n modulo FOLDS.
    """
    fold_N = np.arange(len(labels_N)) % FOLDS

    def right(penalty: float) -> int:
        found = 0
        for fold in range(FOLDS):
            seen = fold_N != fold
            probe = fit(states_NH[seen], labels_N[seen], classes, penalty)
            found += int((probe.predict(states_NH[~seen]) == labels_N[~seen]).sum())
        return found

    return max(sorted(penalties, reverse=True), key=right)
