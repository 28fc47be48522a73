"""Which models can hand their weights to which: the one list that a check and a start judge by."""

from __future__ import annotations

from megatron_ettin.config.run import ModelConfig
from megatron_ettin.errors import CheckpointError

SHAPE_FIELDS = ("layers", "hidden", "intermediate", "heads", "vocabulary", "global_every")
"""Fields in which two models must agree. Windows and rotary bases may change from stage to stage."""


def refuse_other_shape(ours: ModelConfig, theirs: ModelConfig, where: str) -> None:
    """Raise CheckpointError when ``where`` holds the weights of another model; a vocabulary of 0 is not known."""
    different = [name for name in SHAPE_FIELDS if getattr(ours, name) != getattr(theirs, name)]
    if 0 in (ours.vocabulary, theirs.vocabulary):
        different = [name for name in different if name != "vocabulary"]
    if different:
        details = ", ".join(f"{name} {getattr(theirs, name)} there, {getattr(ours, name)} here" for name in different)
        raise CheckpointError(
            f"{where} holds a model of size {theirs.size}, this run is of size {ours.size}: {details}; "
            "give the size and the tokenizer that it was trained with"
        )
