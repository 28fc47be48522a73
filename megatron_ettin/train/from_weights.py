"""Weights from elsewhere as a run of no steps, from which other runs can start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from megatron_ettin.checkpoint.state import TrainState
from megatron_ettin.config.objective import ObjectiveName
from megatron_ettin.config.recipes import recipe
from megatron_ettin.config.run import ComputeConfig, LayoutConfig, ModelConfig
from megatron_ettin.errors import CheckpointError
from megatron_ettin.model.canonical import load_full_state
from megatron_ettin.parallel.groups import initialize
from megatron_ettin.run_folder import TOKENIZER, Checkpoint, keep_tokenizer, list_checkpoints
from megatron_ettin.tokenizer.identity import read_identity
from megatron_ettin.train.open_run import open_run_folder
from megatron_ettin.train.parts import build_parts
from megatron_ettin.train.store import save_run


def save_weights_as_run(
    run: Path, model: ModelConfig, objective: ObjectiveName, tensors: Mapping[str, Tensor], origin: Path
) -> Checkpoint:
    """Weights of the Hugging Face folder ``origin`` as the one checkpoint of a finished run: ``--from RUN`` takes it.

    The checkpoint is that of a training, optimizer included, so a training writes it. Raises CheckpointError when
    ``run`` has checkpoints already.
    """
    if list_checkpoints(run):
        raise CheckpointError(f"{run} has checkpoints already; give another folder")
    config = replace(
        recipe("tiny", objective, "pretrain"),
        model=model,
        layout=LayoutConfig(),
        compute=ComputeConfig(precision="fp32"),
    )
    config = replace(config, start=replace(config.start, huggingface=str(origin.resolve())))
    parts = build_parts(config, initialize(config.layout), sources=1)
    load_full_state(parts.chunks, parts.groups, tensors)
    parts.optimizer.reload_model_params()
    open_run_folder(run, config)
    keep_tokenizer(run, origin / TOKENIZER)
    tokenizer = read_identity(origin / TOKENIZER) if (origin / TOKENIZER).is_file() else None
    return save_run(parts, run, TrainState(finished=True), "end", data_fingerprint="", tokenizer=tokenizer)
