"""The weights of a model: names, shapes and how tensor ranks share them, whatever layout or library holds them.

Shapes and orders of rows are those of Hugging Face's ModernBERT: queries, keys and values one after the other, the
activated half of the MLP projection first, the vocabulary without padding.
"""

# H hidden, I intermediate (one half of the gated MLP), V vocabulary

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from megatron_ettin.config.run import ModelConfig

Split = Literal["copied", "columns", "heads", "halves", "vocabulary"]
"""How tensor ranks share a weight: each has all of it, some columns, the rows of some heads, rows of both halves of
the gated projection, or some rows of the vocabulary."""

LAYER = "layers.{i}."
TABLE: dict[str, tuple[tuple[str, ...], Split]] = {
    "embedding.weight": (("V", "H"), "vocabulary"),
    "embedding_norm.weight": (("H",), "copied"),
    LAYER + "attention_norm.weight": (("H",), "copied"),
    LAYER + "qkv.weight": (("3H", "H"), "heads"),
    LAYER + "attention_out.weight": (("H", "H"), "columns"),
    LAYER + "mlp_norm.weight": (("H",), "copied"),
    LAYER + "mlp_in.weight": (("2I", "H"), "halves"),
    LAYER + "mlp_out.weight": (("H", "I"), "columns"),
    "final_norm.weight": (("H",), "copied"),
    "head.dense.weight": (("H", "H"), "copied"),
    "head.norm.weight": (("H",), "copied"),
    "head.bias": (("V",), "vocabulary"),
}
"""Name -> (shape, split); ``{i}`` stands for the layer. The first layer has no attention norm: there it is an
identity."""


@dataclass(frozen=True, kw_only=True)
class Weight:
    """One tensor of one model."""

    name: str
    shape: tuple[int, ...]
    split: Split
    row: str
    """Its line in TABLE."""
    layer: int | None
    """None outside the layers."""


def weights(model: ModelConfig) -> list[Weight]:
    """Every tensor of the model, in model order."""
    sizes = {
        "V": model.vocabulary, "H": model.hidden, "3H": 3 * model.hidden,
        "I": model.intermediate, "2I": 2 * model.intermediate,
    }  # fmt: skip
    rows = list(TABLE)
    inside = [row for row in rows if row.startswith(LAYER)]
    first = rows.index(inside[0])
    places: list[tuple[str, int | None]] = [(row, None) for row in rows[:first]]
    places += [(row, i) for i in range(model.layers) for row in inside if i or row != LAYER + "attention_norm.weight"]
    places += [(row, None) for row in rows[first + len(inside) :]]
    return [
        Weight(
            name=row.format(i=layer),
            shape=tuple(sizes[letter] for letter in TABLE[row][0]),
            split=TABLE[row][1],
            row=row,
            layer=layer,
        )
        for row, layer in places
    ]


def shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor, in model order."""
    return {weight.name: weight.shape for weight in weights(model)}
