"""Scores by mteb: a task of the hub or of local data, one embedding model, its main score with an interval."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import atanh, isfinite, sqrt, tanh
from typing import Any

import numpy as np

from megatron_ettin.errors import CheckpointError
from megatron_ettin.evaluate.retrieval.mteb_tasks import is_collection
from megatron_ettin.evaluate.retrieval.triplets import EXTRA
from megatron_ettin.evaluate.suites.intervals import Z
from megatron_ettin.evaluate.suites.optional import library

AT_ONCE, LONG_AT_ONCE = 32, 2
"""Texts of one forward pass; of texts of some thousand tokens fewer."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What mteb found."""

    metric: str
    value: float
    examples: int
    standard_error: float | None
    others: Mapping[str, float] = field(default_factory=dict)


def score(task: Any, model: Any, *, long_texts: bool) -> Scored:  # noqa: ANN401 - mteb has no types
    """The main score of ``model`` on ``task``, whose data are loaded. Raises DataError, CheckpointError.

    The standard error is that of the mean over queries for retrieval; of a share for classification, with the spread
    of its repetitions; by Bonett and Wright (2000) for rank correlations; None for other types.
    """
    examples = 0  # queries, or rows, of the scored splits
    for split in task.eval_splits:
        subsets = task.hf_subsets or task.dataset
        parts = [task.dataset[split]] if split in task.dataset else [task.dataset[one][split] for one in subsets]
        examples += sum(len(part["queries"] if is_collection(part) else part) for part in parts)
    with per_query(task) as found:
        result = library("mteb", EXTRA).evaluate(
            model, tasks=[task], cache=None, overwrite_strategy="always", show_progress_bar=False,
            encode_kwargs={"batch_size": LONG_AT_ONCE if long_texts else AT_ONCE, "show_progress_bar": False},
        )  # fmt: skip
    outcome = result.task_results[0]
    value = float(outcome.get_score())
    if not isfinite(value):
        raise CheckpointError(
            f"{task.metadata.name}: {task.metadata.main_score} is {value}; the embeddings are no numbers"
        )
    by_subset = [scores for scores in outcome.scores.values() for scores in scores]
    return Scored(
        metric=task.metadata.main_score, value=value, examples=examples,
        standard_error=standard_error(task.metadata.type, value, examples, by_subset, found), others=means(by_subset),
    )  # fmt: skip


@contextlib.contextmanager
def per_query(task: Any) -> Iterator[list[list[float]]]:  # noqa: ANN401
    """Subset -> main score of each query, as mteb computes them; filled while a retrieval task is evaluated."""
    found: list[list[float]] = []
    if not hasattr(task, "task_specific_scores"):
        yield found
        return
    kept = task.task_specific_scores
    name = task.metadata.main_score.replace("_at_", "_cut_")

    def listen(scores: Mapping[str, Mapping[str, float]], *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        found.append([float(of_query[name]) for of_query in scores.values() if name in of_query])
        return kept(scores, *arguments, **options)

    task.task_specific_scores = listen
    try:
        yield found
    finally:
        del task.task_specific_scores


def standard_error(
    kind: str, value: float, examples: int, subsets: Sequence[Mapping[str, Any]], queries: Sequence[Sequence[float]]
) -> float | None:
    """See ``score``; ``subsets`` are mteb's scores, ``queries`` those of each query of each subset."""
    if queries and all(len(scores) > 1 for scores in queries):
        variances = [float(np.var(scores, ddof=1)) / len(scores) for scores in queries]
        return sqrt(sum(variances)) / len(queries)
    if kind == "Classification" and examples > 1:
        experiments = [one for scores in subsets for one in scores.get("scores_per_experiment", ())]
        repetitions = [float(one["accuracy"]) for one in experiments if "accuracy" in one]
        spread = float(np.var(repetitions, ddof=1)) / len(repetitions) if len(repetitions) > 1 else 0.0
        return sqrt(value * (1 - value) / (examples - 1) + spread)
    if kind == "STS" and examples > 3 and len(subsets) == 1:
        return (1 - value**2) * sqrt((1 + value**2 / 2) / (examples - 3))
    return None


def interval(kind: str, value: float, error: float | None) -> tuple[float, float] | None:
    """Of 95 %, by Fisher's transformation for correlations, else normal; None without a standard error."""
    if error is None:
        return None
    if kind == "STS" and abs(value) < 1:
        spread = Z * error / (1 - value**2)
        return tanh(atanh(value) - spread), tanh(atanh(value) + spread)
    return value - Z * error, value + Z * error


def means(subsets: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Each metric that is a finite number in all subsets, as mean over them."""
    found: dict[str, float] = {}
    for name in subsets[0]:
        values = [scores.get(name) for scores in subsets]
        numbers = [float(value) for value in values if isinstance(value, (int, float)) and isfinite(value)]
        if name != "main_score" and len(numbers) == len(values):
            found[name] = float(np.mean(numbers))
    return found
