"""Run by torchrun on 4 ranks: optimizer state saved under one layout is the same under every other."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from megatron_ettin.checkpoint.load import find, read_numbers, read_tensors
from megatron_ettin.checkpoint.save import save
from megatron_ettin.checkpoint.shards import metadata_for
from megatron_ettin.config.run import LayoutConfig
from megatron_ettin.parallel.groups import finish, initialize
from tests.train.toy import local_part, set_gradients, toy_parts

LAYOUTS = (
    (LayoutConfig(overlap=True), 500),  # three buckets with padded ends
    (LayoutConfig(tensor=2), None),
    (LayoutConfig(tensor=4), None),
    (LayoutConfig(tensor=2, overlap=True), 200),
)


def describe(chunks, optimizer, groups, loading):
    metadata = metadata_for(groups.data_context.group)
    shards = {"model0": chunks[0].module.sharded_state_dict(metadata=metadata)}
    shards["optimizer"] = optimizer.sharded_state_dict(dict(shards), is_loading=loading, metadata=metadata)
    return shards


def whole_state(chunks, optimizer, groups):
    """Weights and moments gathered by plain communication: nothing of the checkpoint's own code."""
    found = {}
    names = {id(parameter): name for name, parameter in chunks[0].module.named_parameters()}
    for kind in ("weight", "exp_avg", "exp_avg_sq"):
        for owner_group in optimizer.model_fp32_groups + optimizer.model_float16_groups:
            for owner in owner_group:
                found[(names[id(owner)], kind)] = part_of(optimizer, owner, kind)
    everything = [None] * groups.world.size
    torch.distributed.all_gather_object(everything, (groups.tensor.rank, found))
    return everything


def part_of(optimizer, owner, kind):
    tensors = optimizer._get_main_param_and_optimizer_states(owner)
    span = optimizer._get_model_param_range_map(owner)["param"]
    return span.start, tensors["param" if kind == "weight" else kind].detach().clone()


def flat(everything, tensor_rank):
    """name, kind -> the tensor-parallel part of ``tensor_rank``, its data-parallel pieces joined."""
    pieces = {}
    for rank, found in everything:
        if rank == tensor_rank:
            for key, (start, tensor) in found.items():
                pieces.setdefault(key, {})[start] = tensor
    return {key: torch.cat([part for _, part in sorted(parts.items())]) for key, parts in pieces.items()}


def joined(everything, groups):
    from tests.train.toy import SHAPES, SPLIT

    whole = {}
    parts = [flat(everything, rank) for rank in range(groups.tensor.size)]
    for name, kind in parts[0]:
        shape = list(SHAPES[name])
        if name in SPLIT:
            shape[SPLIT[name]] //= groups.tensor.size
            tensors = [part[name, kind].view(shape) for part in parts]
            whole[name, kind] = torch.cat(tensors, dim=SPLIT[name])
        else:
            whole[name, kind] = parts[0][name, kind].view(shape)
    return whole


def train(chunks, optimizer, groups):
    for step in (1, 2, 3):
        set_gradients(chunks, groups, step)
        optimizer.gather_gradients()
        optimizer.apply(1e-3)
    for chunk in chunks:
        chunk.start_param_sync(force_sync=True)


def main() -> int:
    run = Path(sys.argv[1])
    for number, (source, bucket) in enumerate(LAYOUTS):
        for precision in ("fp32", "bf16"):
            groups = initialize(source)
            _, chunks, optimizer = toy_parts(source, groups, precision=precision, bucket=bucket)
            train(chunks, optimizer, groups)
            saved = joined(whole_state(chunks, optimizer, groups), groups)
            folder = run / f"{number}-{precision}"
            save(folder, 3, describe(chunks, optimizer, groups, False), {"updates": optimizer.updates}, groups.data_context.group)
            for target, other_bucket in LAYOUTS:
                groups = initialize(target)
                _, chunks, optimizer = toy_parts(target, groups, precision=precision, bucket=other_bucket)
                checkpoint = find(folder)
                loaded = read_tensors(checkpoint, describe(chunks, optimizer, groups, True), groups.data_context.group)
                chunks[0].module.load_state_dict(loaded["model0"])
                optimizer.load_state_dict(loaded["optimizer"])
                assert read_numbers(checkpoint) == {"updates": 3}
                found = joined(whole_state(chunks, optimizer, groups), groups)
                assert found.keys() == saved.keys()
                for key, tensor in found.items():
                    assert torch.equal(tensor, saved[key]), (source, target, precision, key)
    print("all equal")
    finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
