"""A stand-in for a GPU that holds fewer rows than its memory was planned for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch

from megatron_ettin.cost.hardware import GIBI
from megatron_ettin.model.ettin import EttinModel
from megatron_ettin.train import run as run_module
from tests.train.runs import ROW


@contextmanager
def memory_for(rows: int, *, passes: int = 0) -> Iterator[list[int]]:
    """Behind ``passes`` passes each one of more rows fails in the middle of its backward pass: gradients of the head
    have been added by then. Gives the rows of all passes."""
    hidden, seen = EttinModel.hidden, []

    def too_much(gradient: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def limited(self, batch):
        found = hidden(self, batch)
        seen.append(batch.packed.length // ROW)
        if seen[-1] > rows and len(seen) > passes and found.requires_grad:
            found.register_hook(too_much)
        return found

    with (
        mock.patch.object(EttinModel, "hidden", limited),
        mock.patch.object(run_module, "device_memory", lambda _: 80 * GIBI),
    ):
        yield seen
