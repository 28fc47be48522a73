"""The shapes: six published sizes and one for tests. Encoder and decoder of a size share one."""

from __future__ import annotations

from megatron_ettin.config.run import ModelConfig

VOCABULARY_MULTIPLE = 64
"""The embedding is padded to a multiple of this, whatever the layout, so that tensor ranks can share it."""

SHAPES: dict[str, ModelConfig] = {
    shape.size: shape
    for shape in (
        ModelConfig(size="17m", layers=7, hidden=256, intermediate=384, heads=4),
        ModelConfig(size="32m", layers=10, hidden=384, intermediate=576, heads=6),
        ModelConfig(size="68m", layers=19, hidden=512, intermediate=768, heads=8),
        ModelConfig(size="150m", layers=22, hidden=768, intermediate=1_152, heads=12),
        ModelConfig(size="400m", layers=28, hidden=1_024, intermediate=2_624, heads=16),
        ModelConfig(size="1b", layers=28, hidden=1_792, intermediate=3_840, heads=28),
        # 0.02 is made for widths near 768; a model this narrow that starts so small stays at the word frequencies
        ModelConfig(
            size="tiny", layers=7, hidden=128, intermediate=192, heads=4, vocabulary=0, maximum_length=512,
            initial_std=0.05,
        ),
    )
}  # fmt: skip

PUBLISHED_SIZES = ("17m", "32m", "68m", "150m", "400m", "1b")


def is_global(model: ModelConfig, layer: int) -> bool:
    """Whether a layer (from 0) attends to the whole piece: layers 0, 3, 6, ... of the published shapes."""
    return layer % model.global_every == 0


def global_layers(model: ModelConfig) -> int:
    """How many layers attend to the whole piece."""
    return sum(is_global(model, layer) for layer in range(model.layers))


def padded_vocabulary(vocabulary: int) -> int:
    """Rows of the embedding while training: the next multiple of 64. Exports drop the padding."""
    return -(-vocabulary // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


def vocabulary_rows(vocabulary: int, tensor: int) -> int:
    """Rows of the embedding on one tensor rank."""
    return padded_vocabulary(vocabulary) // tensor


def tensor_sizes(model: ModelConfig) -> list[int]:
    """The tensor-parallel sizes that divide heads, intermediate size and padded vocabulary."""
    parts = (model.heads, model.intermediate, padded_vocabulary(model.vocabulary))
    return [size for size in range(1, model.heads + 1) if all(part % size == 0 for part in parts)]


def every_of(types: object) -> int:
    """The distance of the second global layer from the first; 3, ModernBERT's own default, without a list."""
    if not isinstance(types, list):
        return 3
    later = [i for i, name in enumerate(types) if name == "full_attention" and i]
    return later[0] if later else max(len(types), 1)
