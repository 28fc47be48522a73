"""Steps of a published shape: losses and gradient norms, and the weights afterwards as sums that tell them apart."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from megatron_ettin.config.run import BatchConfig, RunConfig
from megatron_ettin.config.shapes import SHAPES
from megatron_ettin.model.canonical import full_state
from megatron_ettin.parallel.groups import Groups
from megatron_ettin.train.parts import build_parts
from megatron_ettin.train.step import Asks, train_step
from tests.layouts.cases import ROWS, Case
from tests.layouts.rows import batch_of

STEPS = 20
RATE = 3e-4


def config_of(case: Case, size: str) -> RunConfig:
    """The case's layout and rows with the shape of a size, its vocabulary and windows included."""
    config = case.config()
    model = replace(SHAPES[size], output_dropout=0.0)
    return replace(config, model=model, batch=BatchConfig(rows=ROWS))


def follow(case: Case, groups: Groups) -> dict[str, Tensor]:
    """Twenty steps of the 150M shape."""
    return followed(config_of(case, "150m"), groups, STEPS)


def follow_briefly(case: Case, groups: Groups) -> dict[str, Tensor]:
    """Two steps of the 17M shape: the same way, in seconds."""
    return followed(config_of(case, "17m"), groups, 2)


def followed(config: RunConfig, groups: Groups, steps: int) -> dict[str, Tensor]:
    """Losses and gradient norms of all steps, and each tensor's norm afterwards."""
    parts = build_parts(config, groups, sources=1)
    share, size = ROWS // groups.data.size, config.layout.micro_batch_rows
    totals = []
    for step in range(steps):
        first = step * ROWS + groups.data.rank * share
        batches = [batch_of(config, range(row, row + size)) for row in range(first, first + share, size)]
        totals.append(train_step(parts, batches, step=step, rate=RATE, asks=Asks()).totals)
    for chunk in parts.chunks:
        chunk.start_param_sync(force_sync=True)
    norms = {f"weight/{name}": x.double().norm() for name, x in full_state(parts.chunks, groups).items()}
    return norms | {
        "losses": torch.tensor([total.loss for total in totals], dtype=torch.float64),
        "norms": torch.tensor([total.gradient_norm for total in totals], dtype=torch.float64),
    }
