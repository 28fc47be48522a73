"""On 4 ranks: a run saved under one layout, read under others, weights and moments bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values

from megatron_ettin.checkpoint.load import find
from megatron_ettin.checkpoint.state import TrainState
from megatron_ettin.config.recipes import recipe
from megatron_ettin.config.run import LayoutConfig
from megatron_ettin.model.canonical import full_state
from megatron_ettin.parallel.groups import initialize
from megatron_ettin.train.parts import build_parts
from megatron_ettin.train.store import describe, load_run, save_run

VOCABULARY = 259  # odd: every tensor size pads it differently
BUCKET = 9_000  # several buckets with padded ends, where gradients are reduced while computing
DATA = LayoutConfig(data=4, overlap=True)
MIXED = LayoutConfig(tensor=2, pipeline=2, sequence_parallel=True)
INTERLEAVED = LayoutConfig(pipeline=2, virtual_pipeline=2, data=2, overlap=True)
TENSOR = LayoutConfig(tensor=4)
HALVES = LayoutConfig(tensor=2, data=2, overlap=True)
CONTEXT = LayoutConfig(context=2, pipeline=2)

DEFAULT = (("fp32", DATA, (MIXED, INTERLEAVED)), ("bf16", MIXED, (DATA, TENSOR)))
EVERY = tuple(
    (precision, source, (DATA, MIXED, INTERLEAVED, TENSOR, CONTEXT))
    for precision in ("fp32", "bf16")
    for source in (DATA, MIXED, INTERLEAVED, TENSOR)
)


def run_config(layout, precision):
    config = recipe("tiny", "mlm", "pretrain")
    return replace(
        config, layout=layout, compute=replace(config.compute, precision=precision),
        model=replace(config.model, vocabulary=VOCABULARY, layers=4, hidden=64, intermediate=96),
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
    from megatron_ettin.config.weights import shapes
    from megatron_ettin.model.canonical import canonical_parameters

    whole = shapes(parts.config.model)
    for step in range(2):
        for number, entry in enumerate(sorted(canonical_parameters(parts.chunks), key=lambda e: e.name)):
            generator = torch.Generator().manual_seed(hash((step, len(entry.name), number)) % 2**31)
            full = torch.randn(whole[entry.name], generator=generator)
            groups = parts.groups
            tensor, heads = groups.tensor, parts.config.model.heads
            entry.take(full, tensor.rank, tensor.size, heads, into=entry.parameter.main_grad)
        parts.optimizer.gather_gradients()
        parts.optimizer.apply(1e-3)
    for chunk in parts.chunks:
        chunk.start_param_sync(force_sync=True)


def build(layout, precision):
    return build_parts(run_config(layout, precision), initialize(layout), 1, BUCKET)


def state_shards(parts) -> dict[str, list[torch.Tensor]]:
    """What this rank describes of the optimizer's state: as its optimizer holds it, and put together from several."""
    held = {state.untyped_storage().data_ptr() for state in states_of(parts)}
    found = {"held": [], "joined": []}
    for shard in nested_values(describe(parts)["optimizer"]["param_state"]):
        found["held" if shard.data.untyped_storage().data_ptr() in held else "joined"].append(shard.data)
    return found


def states_of(parts) -> list[torch.Tensor]:
    inner = parts.optimizer.optimizer
    tensors = [tensor for group in inner.param_groups for tensor in group["params"]]
    return tensors + [state[name] for state in inner.state.values() for name in ("exp_avg", "exp_avg_sq")]


def elements(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def stored_once(parts) -> None:
    """All data ranks together describe the state once, and none more than its share and the tensors of several."""
    mine, share = state_shards(parts), elements(states_of(parts))
    assert elements(mine["held"]) <= share, "what lies here as a whole is a part of the share"
    whole = 3 * sum(parameter.numel() for chunk in parts.chunks for parameter in chunk.parameters())
    total = torch.tensor([elements(mine["held"]) + elements(mine["joined"])])
    torch.distributed.all_reduce(total, group=parts.groups.data_context.group)
    assert int(total) == whole, (int(total), whole)


def resharded(folder: Path) -> None:
    """From two data ranks with several padded buckets to one, to four with other buckets, and back: nothing changes."""
    saved = None
    for number, layout in enumerate((HALVES, TENSOR, DATA, HALVES)):
        parts = build(layout, "bf16")
        if saved is None:
            disturb(parts)
        else:
            load_run(parts, find(folder / str(number - 1)))
        found = everything(parts)
        saved = saved or found
        different = [key for key in saved if not torch.equal(found[key], saved[key])]
        assert not different, (layout, different)
        if layout.overlap:
            padded = [b.grad_data.numel() - b.numel_unpadded for b in parts.chunks[0].buffers[0].buckets]
            assert len(padded) > 1 and max(padded[:-1]) > 0, padded
        stored_once(parts)
        save_run(parts, folder / str(number), TrainState(step=2, tokens=5, updates=2), "end", "data")


def round_trips(folder: Path, cases=DEFAULT) -> None:
    """Save under each source, read under each of its targets, compare everything."""
    for number, (precision, source, targets) in enumerate(cases):
        parts = build(source, precision)
        if source.overlap:
            assert max(len(chunk.buffers[0].buckets) for chunk in parts.chunks) > 1
        disturb(parts)
        state = TrainState(step=2, tokens=5, updates=2)
        save_run(parts, folder / str(number), state, "end", "data")
        saved = everything(parts)
        for target in targets:
            parts = build(target, precision)
            assert load_run(parts, find(folder / str(number))) == state and parts.optimizer.updates == 2
            found = everything(parts)
            assert found.keys() == saved.keys()
            different = [key for key in found if not torch.equal(found[key], saved[key])]
            assert not different, (source, target, precision, different)
