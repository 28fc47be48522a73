"""Scores of predictions by scikit-learn and scipy, with intervals over examples and seeds."""

# N examples of a split

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.evaluate.glue.tasks import EXTRA, Task
from megatron_ettin.evaluate.suites.intervals import bootstrap
from megatron_ettin.evaluate.suites.optional import library
from megatron_ettin.evaluate.suites.suite import Facts, Measured

Values = NDArray[np.float64]


def require_libraries() -> None:
    """Raise ConfigError, with the command that installs it, for a library that is missing."""
    for module in ("sklearn.metrics", "scipy.stats"):
        library(module, EXTRA)


def score(metric: str, predicted_N: Values, labels_N: Values) -> tuple[float, bool]:
    """A score, and whether it is defined: the correlation of constant predictions is not, and counts as 0."""
    if metric in ("spearman", "pearson"):
        stats = library("scipy.stats", EXTRA)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.ConstantInputWarning)
            found = stats.spearmanr if metric == "spearman" else stats.pearsonr
            value = float(found(predicted_N, labels_N).statistic) if len(labels_N) > 1 else math.nan
        return (0.0, False) if math.isnan(value) else (value, True)
    metrics = library("sklearn.metrics", EXTRA)
    predicted, labels = predicted_N.astype(np.int64), labels_N.astype(np.int64)
    if metric == "matthews":
        return float(metrics.matthews_corrcoef(labels, predicted)), len(np.unique(predicted)) > 1
    if metric == "f1":
        return float(metrics.f1_score(labels, predicted, zero_division=0.0)), True
    return float(metrics.accuracy_score(labels, predicted)), True


OTHERS: Mapping[str, tuple[str, ...]] = {
    "cola": ("accuracy",), "mrpc": ("f1",), "qqp": ("f1",), "stsb": ("pearson",),
}  # fmt: skip
"""Task -> further metrics."""


def measured(
    task: Task, predictions: Sequence[Mapping[str, Values]], labels: Mapping[str, Values], details: Facts
) -> Measured:
    """The mean over seeds of the task's metric on its split; ``predictions`` has one mapping of splits a seed.

    The interval is a bootstrap over examples and, where there are several, over seeds.
    """
    labels_N = labels[task.split]
    by_seed = [one[task.split] for one in predictions]
    scored = [score(task.metric, predicted_N, labels_N) for predicted_N in by_seed]
    values = np.array([value for value, _ in scored])
    error, interval = interval_of(task.metric, by_seed, labels_N)
    others = {name: _mean(name, by_seed, labels_N) for name in OTHERS.get(task.name, ())}
    if task.further in labels:
        name = f"{task.metric} {task.further}"
        others[name] = _mean(task.metric, [one[task.further] for one in predictions], labels[task.further])
    if len(values) > 1:
        others |= {"standard deviation over seeds": float(values.std(ddof=1)), "lowest": float(values.min()),
                   "highest": float(values.max())}  # fmt: skip
    undefined = sum(not defined for _, defined in scored)
    if undefined:
        details = {**details, "undefined": f"{undefined} of {len(scored)} seeds predict a constant, which counts as 0"}
    return Measured(
        metric=task.metric, value=float(values.mean()), examples=len(labels_N), standard_error=error,
        interval=interval, others=others, details={"scores": values.tolist(), **details},
    )  # fmt: skip


def quick_score(metric: str, predicted_N: Values, labels_N: Values) -> float:
    """``score``, for a thousand samples: scikit-learn checks its arguments for milliseconds each time."""
    if metric == "accuracy":
        return float((predicted_N == labels_N).mean())
    if metric == "matthews":  # of two classes the correlation
        predicted, labels = predicted_N - predicted_N.mean(), labels_N - labels_N.mean()
        norm = np.sqrt((predicted @ predicted) * (labels @ labels))
        return float(predicted @ labels / norm) if norm > 0 else 0.0
    return score(metric, predicted_N, labels_N)[0]


def _mean(metric: str, by_seed: Sequence[Values], labels_N: Values) -> float:
    return float(np.mean([score(metric, predicted_N, labels_N)[0] for predicted_N in by_seed]))


def interval_of(metric: str, by_seed: Sequence[Values], labels_N: Values) -> tuple[float, tuple[float, float]]:
    """(standard error, interval) of the mean over seeds."""
    random = np.random.Generator(np.random.Philox(1))

    def of_sample(chosen: NDArray[np.int64]) -> float:
        seeds = random.integers(len(by_seed), size=len(by_seed))
        return float(np.mean([quick_score(metric, by_seed[seed][chosen], labels_N[chosen]) for seed in seeds]))

    return bootstrap(of_sample, len(labels_N))
