"""Frozen parts on two ranks under every way to share a model: ``torchrun ... -m tests.train.freeze_ranks FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from megatron_ettin.parallel.groups import finish, initialize
from tests.train.runs import config_of, go, write_toy

FREEZE = ("0-1", "embeddings")
STEPS = 4
LAYOUTS = {
    "data": {"layout__data": 2},
    "tensor": {"layout__tensor": 2},
    "sequence": {"layout__tensor": 2, "layout__sequence_parallel": True},
    "pipeline": {"layout__pipeline": 2},
    "first_stage": {"layout__pipeline": 2, "layout__pipeline_layers": (2, 1)},
}
"""In the last one nothing of the first stage learns."""


def frozen_config(corpus: Path, steps: float = STEPS, **fields: object) -> object:
    """A run with a frozen bottom, without dropout, whose loss under two layouts differs by rounding alone."""
    return config_of(corpus, "mlm", steps=steps, optimizer__freeze=FREEZE, model__output_dropout=0.0, **fields)


def main(folder: Path) -> None:
    """One run a layout."""
    config = frozen_config(folder / "toy")
    initialize(config.layout)  # type: ignore[attr-defined]
    if torch.distributed.get_rank() == 0:
        write_toy(folder)
    torch.distributed.barrier()
    for name, layout in LAYOUTS.items():
        go(frozen_config(folder / "toy", **layout), folder / name)
    finish()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
