"""Run by torchrun on 4 ranks: a run saved under one layout, read under others, weights and moments bit for bit."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from megatron_ettin.checkpoint.load import find
from megatron_ettin.config.recipes import recipe
from megatron_ettin.config.run import LayoutConfig
from megatron_ettin.model.canonical import full_state
from megatron_ettin.parallel.groups import finish, initialize
from megatron_ettin.train.parts import build_parts
from megatron_ettin.train.state import TrainState
from megatron_ettin.train.store import load_run, save_run

VOCABULARY = 259  # odd: every tensor size pads it differently
LAYOUTS = (
    LayoutConfig(data=4, overlap=True),
    LayoutConfig(tensor=2, pipeline=2, sequence_parallel=True),
    LayoutConfig(pipeline=2, virtual_pipeline=2, data=2),
    LayoutConfig(tensor=4),
    LayoutConfig(context=2, pipeline=2),
)


def run_config(layout, precision):
    config = recipe("tiny", "mlm", "pretrain")
    return replace(
        config, layout=layout, compute=replace(config.compute, precision=precision),
        model=replace(config.model, vocabulary=VOCABULARY),
    )  # fmt: skip


@torch.no_grad()
def moments_as_weights(parts, kind):
    """Put a moment, or the main weights, where the weights are, gathered over the data ranks by plain communication."""
    optimizer = parts.optimizer
    group = parts.groups.data_context.group
    for owners in optimizer.model_fp32_groups + optimizer.model_float16_groups:
        for owner in owners:
            tensors = optimizer._get_main_param_and_optimizer_states(owner)
            span = optimizer._get_model_param_range_map(owner)["param"]
            owner.main_grad.zero_()
            owner.main_grad.view(-1)[span.start : span.end] = tensors[kind]
    mine = {id(owner) for owners in optimizer.model_fp32_groups + optimizer.model_float16_groups for owner in owners}
    for chunk in parts.chunks:
        for parameter in chunk.parameters():
            if id(parameter) not in mine:
                parameter.main_grad.zero_()
            torch.distributed.all_reduce(parameter.main_grad, group=group)
    return full_state(parts.chunks, parts.groups, "gradients")


def everything(parts):
    kinds = {kind: moments_as_weights(parts, kind) for kind in ("param", "exp_avg", "exp_avg_sq")}
    kinds["weights"] = {name: t.clone() for name, t in full_state(parts.chunks, parts.groups, "weights").items()}
    return {(kind, name): tensor.clone() for kind, tensors in kinds.items() for name, tensor in tensors.items()}


@torch.no_grad()
def disturb(parts):
    """Two updates from gradients that are functions of the canonical name and row: all layouts would make the same."""
    from megatron_ettin.model.canonical import entries, shapes

    whole = shapes(parts.config.model)
    for step in range(2):
        for number, entry in enumerate(sorted(entries(parts.chunks), key=lambda e: e.name)):
            generator = torch.Generator().manual_seed(hash((step, len(entry.name), number)) % 2**31)
            full = torch.randn(whole[entry.name], generator=generator)
            groups = parts.groups
            entry.parameter.main_grad.copy_(
                entry.shard(full, groups.tensor.rank, groups.tensor.size, parts.config.model.heads)
            )
        parts.optimizer.gather_gradients()
        parts.optimizer.apply(1e-3)
    for chunk in parts.chunks:
        chunk.start_param_sync(force_sync=True)


def main() -> int:
    run, precisions = Path(sys.argv[1]), sys.argv[2:]
    for precision in precisions:
        for number, source in enumerate(LAYOUTS[:3]):
            config = run_config(source, precision)
            parts = build_parts(config, initialize(source), 1)
            disturb(parts)
            folder = run / f"{precision}-{number}"
            state = TrainState(step=2, tokens=5, updates=2)
            save_run(parts, folder, state, "end", "data")
            saved = everything(parts)
            for target in LAYOUTS:
                parts = build_parts(run_config(target, precision), initialize(target), 1)
                loaded, _ = load_run(parts, find(folder))
                assert loaded == state and parts.optimizer.updates == 2
                found = everything(parts)
                assert found.keys() == saved.keys()
                different = [key for key in found if not torch.equal(found[key], saved[key])]
                assert not different, (source, target, precision, different)
    print("all equal")
    finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
