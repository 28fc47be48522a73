"""Weights that a run leaves as they are: ranges of layers, and the embeddings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from math import prod

from megatron_ettin.config.run import ModelConfig
from megatron_ettin.config.weights import weights

EMBEDDINGS = "embeddings"
"""The token embedding, which is the vocabulary matrix too, and the norm behind it."""
_EMBEDDING_ROWS = ("embedding.weight", "embedding_norm.weight")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def parts_of(freeze: Sequence[str]) -> Iterator[str]:
    """The parts that are named, also several in one word: ``0-11,embeddings``."""
    for word in freeze:
        yield from (part for part in word.split(",") if part)


def frozen_layers(freeze: Sequence[str]) -> set[int]:
    """Numbers of the layers that are named; what is no range is left out."""
    matches = [_RANGE.fullmatch(part) for part in parts_of(freeze)]
    return {layer for match in matches if match for layer in range(int(match[1]), int(match[2] or match[1]) + 1)}


def frozen_weights(model: ModelConfig, freeze: Sequence[str]) -> frozenset[str]:
    """Canonical names of the weights that stay as they are."""
    layers, embeddings = frozen_layers(freeze), EMBEDDINGS in parts_of(freeze)
    return frozenset(
        weight.name
        for weight in weights(model)
        if weight.layer in layers or (embeddings and weight.row in _EMBEDDING_ROWS)
    )


def problems_of(model: ModelConfig, freeze: Sequence[str]) -> Iterator[str]:
    """What is wrong with the value of ``optimizer.freeze``."""
    for part in parts_of(freeze):
        match = _RANGE.fullmatch(part)
        if match is None and part != EMBEDDINGS:
            yield f"optimizer.freeze={part}: name layers, such as 0-11 or 3, or {EMBEDDINGS}"
        elif match and int(match[1]) > int(match[2] or match[1]):
            yield f"optimizer.freeze={part} runs backwards; write {match[2]}-{match[1]}"
        elif match and int(match[2] or match[1]) >= model.layers:
            yield f"optimizer.freeze={part}: the layers are 0 to {model.layers - 1}; freeze some of these"
    if EMBEDDINGS in parts_of(freeze) and set(range(model.layers)) <= frozen_layers(freeze):
        yield "optimizer.freeze leaves nothing to learn but the head; leave some layers or the embeddings out of it"


def frozen_line(model: ModelConfig, freeze: Sequence[str]) -> str:
    """What stays as it is, for people."""
    stay = frozen_weights(model, freeze)
    counts = {weight.name: prod(weight.shape) for weight in weights(model)}
    frozen = sum(counts[name] for name in stay)
    return f"{', '.join(parts_of(freeze))}: {frozen:,} of {sum(counts.values()):,} parameters stay as they are"
