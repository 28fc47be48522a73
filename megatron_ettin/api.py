"""What programs do with the weights of a run, each in one call; `megatron_ettin` names them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from megatron_ettin.checkpoint.load import find
from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.export.config_json import objective_as
from megatron_ettin.export.huggingface import StoredType
from megatron_ettin.export.mapping import Kind
from megatron_ettin.export.parity import load_ours, packed_logits
from megatron_ettin.export.runs import Loaded, export_checkpoint, load_checkpoint
from megatron_ettin.model.ettin import EttinModel


def load_weights(run: str | Path, step: int | None = None) -> Loaded:
    """The float32 weights of a verified checkpoint by canonical name, with its settings; without ``step`` the newest.

    The layout of the run does not matter. Each tensor is read when it is asked for. Raises CheckpointError.
    """
    return load_checkpoint(find(Path(run), step))


def build_model(weights: Loaded, kind: Kind | None = None) -> EttinModel:
    """The model of some weights as a torch module in float32, in this process, without dropout.

    ``kind``: encoder or decoder, which must be said of a run that trained both in one.

    For one row of packed pieces; ``logits`` takes pieces. Raises CheckpointError when a weight is missing.
    """
    objective = objective_as(OBJECTIVES[weights.config.objective], kind)
    model, _ = load_ours(weights.config.model, objective, weights.tensors)
    return model


def logits(weights: Loaded, pieces: Sequence[Tensor], kind: Kind | None = None) -> Sequence[Tensor]:
    """Float32 logits [T, vocabulary] of each piece of ids [T]; the pieces share one row and do not see each other.

    The ids include the special tokens. Builds the model for this call and lets it go; ``kind`` as in ``build_model``.
    """
    objective = objective_as(OBJECTIVES[weights.config.objective], kind)
    return packed_logits(weights.config.model, objective, weights.tensors)(pieces)


def export_run(
    run: str | Path,
    folder: str | Path,
    *,
    step: int | None = None,
    dtype: StoredType = "float32",
    tokenizer: str | Path | None = None,
    kind: Kind | None = None,
) -> bool:
    """Publish a checkpoint as a Hugging Face folder that equals ``transformers``; False when it is there already.

    Raises CheckpointError when the folder holds something else, or the logits differ: then nothing is published.
    """
    checkpoint = find(Path(run), step)
    return export_checkpoint(checkpoint, Path(folder), dtype, Path(tokenizer) if tokenizer else None, kind=kind)
