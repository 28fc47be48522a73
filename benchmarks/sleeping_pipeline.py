"""A pipeline of real processes whose stages sleep instead of computing; run under torchrun by scaling.py."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.enums import ModelType
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator
from megatron.core.pipeline_parallel.schedules import get_forward_backward_func
from torch import Tensor

from megatron_ettin.config.codec import with_fields
from megatron_ettin.config.recipes import recipe
from megatron_ettin.model.settings import transformer_config
from megatron_ettin.parallel.groups import Groups, finish, initialize

TOKENS = 16
"""Of a message between stages: small, because only waiting is measured."""


@dataclass(frozen=True)
class Case:
    """A schedule with the seconds that each stage works, in model order."""

    pipeline: int
    virtual: int
    micro_batches: int
    forward: list[float]
    backward: list[float]
    rounds: int


class Sleep(torch.autograd.Function):
    """The identity that takes some time in each direction."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, forward: float, backward: float) -> Tensor:
        ctx.seconds = backward
        time.sleep(forward)
        return hidden.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        time.sleep(ctx.seconds)
        return gradients[0], None, None


class SleepingStage(torch.nn.Module):
    """A pipeline stage as Megatron-Core's schedules drive it."""

    def __init__(self, config: Any, forward: float, backward: float, first: bool) -> None:
        super().__init__()
        self.config, self.seconds, self.first = config, (forward, backward), first
        self.model_type = ModelType.encoder_or_decoder
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.received: Tensor | None = None

    def set_input_tensor(self, received: Any) -> None:
        """Take the previous stage's output."""
        self.received = received[0] if isinstance(received, list) else received

    def forward(self) -> Tensor:
        """Sleep, and pass the input on."""
        hidden = torch.ones(TOKENS, 1, self.config.hidden_size) if self.first else self.received
        return Sleep.apply(hidden * self.weight, *self.seconds)  # type: ignore[no-untyped-call]


def step_seconds(case: Case, groups: Groups) -> list[float]:
    """Wall seconds of each round of one step; the ranks start together."""
    fields = {
        "layout.pipeline": case.pipeline,
        "layout.virtual_pipeline": case.virtual,
        "layout.pipeline_layers": (2,) * len(case.forward),
        "model.layers": 2 * len(case.forward),
        "model.vocabulary": 512,
    }
    config = transformer_config(with_fields(recipe("tiny", "mlm", "pretrain"), fields), groups)
    stages = [
        SleepingStage(config, case.forward[stage], case.backward[stage], first=stage == 0)
        for stage in range(groups.pipeline.rank, len(case.forward), case.pipeline)
    ]
    run = get_forward_backward_func(case.pipeline, case.virtual if case.virtual > 1 else None)
    seconds = []
    for _ in range(case.rounds):
        dist.barrier()
        begin = time.perf_counter()
        run(
            forward_step_func=forward_step,
            data_iterator=[iter(range(case.micro_batches)) for _ in stages],
            model=stages,
            num_microbatches=case.micro_batches,
            seq_length=TOKENS,
            micro_batch_size=1,
            forward_only=False,
            p2p_communicator=P2PCommunicator(groups.collection.pp, config),
            pg_collection=groups.collection,
        )
        dist.barrier()
        seconds.append(time.perf_counter() - begin)
    return seconds


def forward_step(feed: Iterator[int], stage: SleepingStage) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """One pass of one micro-batch, as Megatron-Core asks for it."""
    next(feed)
    return stage(), lambda output: (output.sum(), torch.ones((), dtype=torch.int), {})


def main() -> None:
    """Run every case of the same pipeline size and print one JSON list a case from the first rank."""
    for fields in json.loads(sys.argv[1]):
        case = Case(**fields)
        layout = with_fields(
            recipe("tiny", "mlm", "pretrain").layout,
            {"pipeline": case.pipeline, "virtual_pipeline": case.virtual},
        )
        groups = initialize(layout)
        seconds = step_seconds(case, groups)
        if dist.get_rank() == 0:
            print("SECONDS " + json.dumps(seconds), flush=True)
    finish()


if __name__ == "__main__":
    main()
