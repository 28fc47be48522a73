"""Our side: the whole step of `pretrain`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_parts.machine import Machine
from benchmarks.gpu_parts.rows import Row
from benchmarks.gpu_parts.work import RATE, batches, run_of
from megatron_ettin.config.run import ModelConfig
from megatron_ettin.config.weights import shapes
from megatron_ettin.train.parts import build_parts
from megatron_ettin.train.step import Asks, forward_backward, train_step
from megatron_ettin.train.totals import Totals


class Ours:
    """Megatron-Core's schedule, gradient buffers and distributed optimizer, StableAdamW; random weights."""

    def __init__(self, row: Row, machine: Machine, rows: int) -> None:
        self.config = run_of(row, machine, rows)
        with drawn_on(machine.device):
            self.parts = build_parts(self.config, machine.groups, sources=1)
        self.batches, self.steps = batches(self.config, packed=row.is_recipe), 0

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return sum(batch.tokens for batch in self.batches)

    @property
    def lengths(self) -> list[int]:
        """Tokens of all pieces of a step."""
        return [int(length) for batch in self.batches for length in np.diff(batch.cu_seqlens_S)]

    def launch(self) -> None:
        """Forward and backward of one micro-batch, handed to the device and not waited for."""
        forward_backward(self.parts, self.batches[:1], step=self.steps)

    def step(self) -> Totals:
        """One step and its numbers."""
        result = train_step(self.parts, self.batches, step=self.steps, rate=RATE, asks=Asks())
        self.steps += 1
        return result.totals


def drawn_on(device: torch.device) -> AbstractContextManager[object]:
    """Initial weights of the right spread drawn on the device: speed does not see them."""

    def draw(model: ModelConfig, seed: int, name: str) -> Tensor:
        shape = shapes(model)[name]
        return torch.ones(shape) if len(shape) == 1 else torch.randn(shape, device=device) * model.initial_std

    return mock.patch("megatron_ettin.model.initialize.initial_tensor", draw)
