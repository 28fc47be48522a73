"""``ettin merge-weights``: models of one shape become one, published with the proof of its logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from megatron_ettin.derive.joining import Joined, Mean, Ties, thresholds
from megatron_ettin.derive.settings import MergeSettings
from megatron_ettin.derive.sources import Source, open_source
from megatron_ettin.errors import CheckpointError, DataError
from megatron_ettin.export.published import publish_export
from megatron_ettin.export.runs import TRAINING_FILE
from megatron_ettin.tokenizer.identity import difference

MERGE_FILE = "merge.json"
"""In a folder of merged weights: from which models they are, and how."""
DENSITY = 0.2
"""The share of changes that the paper keeps where no data decides."""


def merge_weights(settings: MergeSettings, say: Callable[[str], None]) -> None:
    """Publish the merged model as ``settings.output``.

    Costs one tensor of each model in memory, then a model for the proof. Raises CheckpointError for models that do not
    fit and for NaN, by name, DataError for another tokenizer, ConfigError for an output that is there.
    """
    models = [open_source(model, say, settings.kind) for model in settings.models]
    based = [open_source(settings.base, say, settings.kind)] if settings.base else []
    for other in (*models[1:], *based):
        refuse_other(models[0], other)
    weights = settings.weights or (1.0,) * len(models)
    tensors = [source.export.tensors for source in (*based, *models)]
    method: Mean | Ties = Mean(weights)
    if settings.method == "ties":
        kept = thresholds(tensors[0], tensors[1:], settings.density or DENSITY)
        method = Ties(weights, kept, settings.scale or 1.0)
    ties = {"base": settings.base, "density": settings.density or DENSITY, "scale": settings.scale or 1.0}
    record: dict[str, Any] = {
        "method": settings.method,
        **(ties if settings.method == "ties" else {}),
        "models": [source.facts() | {"weight": weight} for source, weight in zip(models, weights, strict=True)],
        **({"base_model": based[0].facts()} if based else {}),
    }
    first = models[0].export
    length = min(source.export.model.maximum_length for source in (*models, *based))
    shape = replace(first.model, maximum_length=length, size=models[0].size or settings.output.name)
    shares = [f"{source.name} (weight {weight:g})" for source, weight in zip(models, weights, strict=True)]
    origin = {"merged from": ", ".join(shares)}
    origin |= {name: record[name] for name in ("method", "base", "density", "scale") if name in record}
    export = replace(first, model=shape, tensors=Joined(tensors, method), dtype=settings.dtype, origin=origin)
    publish_export(settings.output, export, {MERGE_FILE: record, **trained(models[0])})


def refuse_other(first: Source, other: Source) -> None:
    """Raise CheckpointError or DataError, with every reason, unless two models compute alike but for their weights."""
    ours, theirs = computes(first), computes(other)
    different = [name for name in ours if ours[name] != theirs[name]]
    if different:
        details = [f"{name} {ours[name]} in {first.name}, {theirs[name]} in {other.name}" for name in different]
        raise CheckpointError(
            f"{first.name} and {other.name} cannot be merged: {', '.join(details)}; merge models of one training"
        )
    if said := difference(first.tokenizer, other.tokenizer):
        raise DataError(
            f"{first.name} and {other.name} have two tokenizers ({said.replace('there', f'in {other.name}')}), so "
            "that their weights cannot be merged: the same rows are other tokens"
        )


def computes(source: Source) -> dict[str, Any]:
    """What decides, beside the weights, what a model computes."""
    model, objective = source.export.model, source.export.objective
    return {
        "objective": objective.name,
        "layers": model.layers,
        "hidden": model.hidden,
        "intermediate": model.intermediate,
        "heads": model.heads,
        "vocabulary": model.vocabulary,
        "global_every": model.global_every,
        "window": model.causal_window if objective.causal else model.window,
        "rope_base_global": model.rope_base_global,
        "rope_base_local": model.rope_base_local,
        "norm_epsilon": model.norm_epsilon,
    }


def trained(source: Source) -> dict[str, dict[str, Any]]:
    """The training.json of a model that is made from ``source``: the same training, but none of its checkpoints."""
    if not source.training:
        return {}
    kept = {name: value for name, value in source.training.items() if name != "checkpoint"}
    return {TRAINING_FILE: kept | {"revision": "merged"}}
