"""Our own model with given weights, as one process computes it: one side of the parity."""

# T tokens of the packed row, V vocabulary

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from megatron_ettin.batch import Batch
from megatron_ettin.config.objective import Objective
from megatron_ettin.config.recipes import recipe
from megatron_ettin.config.run import ComputeConfig, LayoutConfig, ModelConfig, RunConfig
from megatron_ettin.errors import CheckpointError
from megatron_ettin.export.parity import LogitsOfPieces
from megatron_ettin.model.build import build_model
from megatron_ettin.model.canonical import load_full_state
from megatron_ettin.model.device_batch import DeviceBatch
from megatron_ettin.model.ettin import EttinModel
from megatron_ettin.parallel.groups import Groups, initialize


def single_process_run(model: ModelConfig, objective: Objective) -> RunConfig:
    """A run of this model on one rank in float32, for evaluation only."""
    return replace(
        recipe("tiny", objective.name, "pretrain"),
        model=replace(model, output_dropout=0.0),
        layout=LayoutConfig(),
        compute=ComputeConfig(precision="fp32"),
    )


def load_ours(model: ModelConfig, objective: Objective, tensors: Mapping[str, Tensor]) -> tuple[EttinModel, Groups]:
    """Our model with these weights, every parameter written exactly once. Raises CheckpointError."""
    config = single_process_run(model, objective)
    groups = initialize(config.layout)
    (ours,) = build_model(config, groups)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.fill_(float("nan"))
    load_full_state([ours], groups, tensors)
    unset = [name for name, parameter in ours.named_parameters() if torch.isnan(parameter).any()]
    if unset:
        raise CheckpointError(f"after loading, these parameters hold NaN: {', '.join(unset[:4])}")
    return ours.eval(), groups


def packed_logits(model: ModelConfig, objective: Objective, tensors: Mapping[str, Tensor]) -> LogitsOfPieces:
    """Logits of our model for pieces packed into one row."""
    ours, groups = load_ours(model, objective, tensors)

    @torch.no_grad()
    def compute(pieces: Sequence[Tensor]) -> Sequence[Tensor]:
        batch = DeviceBatch.from_batch(packed_row(pieces), groups)
        total = sum(len(piece) for piece in pieces)
        everywhere_T = torch.arange(total, device=groups.device.torch_device)
        logits_TV = ours.logits(batch, everywhere_T)[:, : model.vocabulary].cpu()
        return list(torch.split(logits_TV, [len(piece) for piece in pieces]))

    return compute


def packed_row(pieces: Sequence[Tensor]) -> Batch:
    """One row without padding or labels, a segment for each piece."""
    lengths = [len(piece) for piece in pieces]
    return Batch(
        input_ids_BT=torch.cat(list(pieces)).numpy().astype(np.int32)[None],
        positions_BT=np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])[None],
        cu_seqlens_S=np.cumsum([0, *lengths]).astype(np.int32),
        label_positions_L=np.zeros(0, dtype=np.int32),
        label_ids_L=np.zeros(0, dtype=np.int32),
        rows_B=np.zeros(1, dtype=np.int64),
        sources_B=np.zeros(1, dtype=np.int32),
        tokens=sum(lengths),
    )
