"""Which models can hand their weights to which: the one list that a check and a start judge by."""

from __future__ import annotations

from megatron_ettin.config.run import ModelConfig, RunConfig
from megatron_ettin.errors import CheckpointError

SHAPE_FIELDS = ("layers", "hidden", "intermediate", "heads", "vocabulary", "global_every")
"""Fields in which two models must agree. Windows and rotary bases may change from stage to stage."""

MAY_CHANGE = {
    "rope_base_global": "global rope", "rope_base_local": "local rope", "window": "window",
    "causal_window": "causal window",
}  # fmt: skip
"""Fields that a recipe may change between stages, and their names in the line about the start."""


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


def refuse_lost_scales(config: RunConfig, step: int, where: str) -> None:
    """Raise CheckpointError for a run that cannot go on from its checkpoint of ``step`` as it would have gone on."""
    if config.compute.precision == "fp8" and config.compute.fp8_recipe == "delayed":
        raise CheckpointError(
            f"{where}: compute.fp8_recipe=delayed scales by the numbers of earlier steps, which Transformer Engine "
            "keeps to itself and no checkpoint holds; go on with scales of each tensor, on record: the same command "
            f"with --compute.fp8-recipe current --change-at {step}"
        )


def changes(ours: ModelConfig, theirs: ModelConfig) -> str:
    """What changes from their weights to our stage, as ", window 64 -> 32"; "" where nothing does."""
    found = [(words, getattr(theirs, field), getattr(ours, field)) for field, words in MAY_CHANGE.items()]
    return "".join(f", {words} {there:,g} -> {here:,g}" for words, there, here in found if there != here)


def start_line(ours: ModelConfig, theirs: ModelConfig, *, causal: bool) -> str:
    """Rotary bases, window and vocabulary of their weights and of our stage: "rope 10k -> 160k, window 64 -> 64"."""

    def base(value: float) -> str:
        return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"

    pairs = [(base(model.rope_base_global), base(model.rope_base_local)) for model in (theirs, ours)]
    if all(of_global == of_local for of_global, of_local in pairs):
        ropes = f"rope {pairs[0][0]} -> {pairs[1][0]}"
    else:
        ropes = f"global rope {pairs[0][0]} -> {pairs[1][0]}, local rope {pairs[0][1]} -> {pairs[1][1]}"
    before, after = (model.causal_window if causal else model.window for model in (theirs, ours))
    return f"{ropes}, window {before} -> {after}, vocabulary {theirs.vocabulary:,} -> {ours.vocabulary:,}"
