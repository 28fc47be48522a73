"""Parameters and floating point operations of a model, exactly, without building it."""

# S tokens of a piece, H hidden, I intermediate, V vocabulary

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

from megatron_ettin.config.objective import Objective, kinds_of
from megatron_ettin.config.run import SPECIALS_PER_PIECE, DataConfig, ModelConfig
from megatron_ettin.config.shapes import global_layers

FLOPS_PER_MULTIPLY = 2
"""A multiplication and an addition."""
TRAINING_PASSES = 3
"""Forward once, backward twice: the convention of model FLOPs utilization; recomputation is not counted."""


@dataclass(frozen=True)
class Parameters:
    """Exact parameter counts; the output projection is tied to the embedding and counted once."""

    embedding: int
    """The table, V x H."""
    layers: int
    """All layers with their norms."""
    norms: int
    """The norm after the embedding and the one after the last layer."""
    head: int
    """Dense, norm and vocabulary bias of the language model head."""

    @property
    def backbone(self) -> int:
        """Everything but the head."""
        return self.embedding + self.layers + self.norms

    @property
    def total(self) -> int:
        """The whole language model."""
        return self.backbone + self.head


def layer_parameters(model: ModelConfig, layer: int = 1) -> int:
    """Parameters of one layer; the first has no attention norm, because the embedding norm has just run."""
    matrices = 4 * model.hidden**2 + 3 * model.hidden * model.intermediate
    return matrices + model.hidden * (1 if layer == 0 else 2)


def parameters(model: ModelConfig, vocabulary: int | None = None) -> Parameters:
    """Parameter counts; ``vocabulary`` overrides the model's, for a padded table."""
    rows = model.vocabulary if vocabulary is None else vocabulary
    return Parameters(
        embedding=rows * model.hidden,
        layers=sum(layer_parameters(model, layer) for layer in range(model.layers)),
        norms=2 * model.hidden,
        head=model.hidden**2 + model.hidden + rows,
    )


def attention_pairs(length: int, causal: bool, window: int | None = None) -> int:
    """(query, key) pairs that one head computes in a piece; ``window`` keys on each side, or to the left if causal."""
    reach = length - 1 if window is None else min(window, length - 1)
    one_side = length * (length - 1) // 2 - (length - 1 - reach) * (length - reach) // 2
    return length + (1 if causal else 2) * one_side


def layer_matrix_flops(model: ModelConfig) -> int:
    """Forward FLOPs per token of one layer's matrices: QKV, attention output, both halves of the MLP."""
    return FLOPS_PER_MULTIPLY * (4 * model.hidden**2 + 3 * model.hidden * model.intermediate)


def pair_flops(model: ModelConfig) -> int:
    """Forward FLOPs per (query, key) pair of one layer: scores and weighted values of all heads."""
    return 2 * FLOPS_PER_MULTIPLY * model.hidden


def head_flops(model: ModelConfig) -> int:
    """Forward FLOPs per labelled position: dense and vocabulary projection."""
    return FLOPS_PER_MULTIPLY * (model.hidden**2 + model.hidden * model.vocabulary)


@dataclass(frozen=True)
class Flops:
    """Forward FLOPs, by part."""

    matrices: float
    attention_global: float
    attention_local: float
    head: float

    @property
    def forward(self) -> float:
        """All parts."""
        return self.matrices + self.attention_global + self.attention_local + self.head

    @property
    def training(self) -> float:
        """Forward and backward."""
        return TRAINING_PASSES * self.forward


def flops(model: ModelConfig, causal: bool, lengths: Iterable[int], labels: float) -> Flops:
    """Forward FLOPs of pieces of the given lengths with ``labels`` predicted positions; O(number of pieces).

    Of the model, not of its implementation: every layer counts in full, though an encoder needs its last one at the
    labels only.
    """
    window = model.causal_window if causal else model.window
    tokens = whole = windowed = 0
    for length in lengths:
        tokens += length
        whole += attention_pairs(length, causal)
        windowed += attention_pairs(length, causal, window)
    return Flops(
        matrices=tokens * model.layers * layer_matrix_flops(model),
        attention_global=global_layers(model) * whole * pair_flops(model),
        attention_local=(model.layers - global_layers(model)) * windowed * pair_flops(model),
        head=labels * head_flops(model),
    )


def label_share(objective: Objective, data: DataConfig) -> float:
    """Predicted positions per token of a full piece, the mean over the rows of the stage."""
    return sum(share * labels for _, share, labels in row_shares(objective, data))


def largest_label_share(objective: Objective, data: DataConfig) -> float:
    """The same where the stage predicts most: what a rank must have memory for."""
    most = max(data.mask_share, data.mask_share_end)
    return max(_label_share(kind, data.piece_length, most) for kind in kinds_of(objective))


def row_shares(objective: Objective, data: DataConfig) -> Iterator[tuple[Objective, float, float]]:
    """For each kind of rows (its objective, its share of the rows, its predicted positions per token)."""
    mean = (data.mask_share + (data.mask_share_end or data.mask_share)) / 2
    shares = (1.0 - data.causal_share, data.causal_share) if objective.mixes else (1.0,)
    for kind, share in zip(kinds_of(objective), shares, strict=True):
        yield kind, share, _label_share(kind, data.piece_length, mean)


def _label_share(objective: Objective, length: int, mask_share: float) -> float:
    if objective.masked:
        return mask_share * (length - SPECIALS_PER_PIECE) / length
    return (length - 1) / length


def mean_flops_per_token(model: ModelConfig, objective: Objective, data: DataConfig) -> Flops:
    """Forward FLOPs per token of full pieces, the mean over the rows of the stage."""
    found = Flops(matrices=0.0, attention_global=0.0, attention_local=0.0, head=0.0)
    for kind, share, labels in row_shares(objective, data):
        part = flops_per_token(model, kind.causal, data.piece_length, labels)
        sums = {item.name: getattr(found, item.name) + share * getattr(part, item.name) for item in fields(Flops)}
        found = Flops(**sums)
    return found


def flops_per_token(model: ModelConfig, causal: bool, length: int, share: float) -> Flops:
    """Forward FLOPs per token of pieces of one length, a share of whose positions is predicted."""
    piece = flops(model, causal, [length], share * length)
    return Flops(
        matrices=piece.matrices / length,
        attention_global=piece.attention_global / length,
        attention_local=piece.attention_local / length,
        head=piece.head / length,
    )
