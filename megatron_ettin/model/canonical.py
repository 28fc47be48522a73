"""From the weights of a whole model, as `config.weights` names them, to each rank's shards and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_ettin.checkpoint.weights import from_head_order
from megatron_ettin.config.run import ModelConfig
from megatron_ettin.config.weights import LAYER, TABLE, Split, shapes
from megatron_ettin.errors import CheckpointError
from megatron_ettin.parallel.groups import Groups

_LAYER = {
    "input_layernorm.weight": "attention_norm.weight",
    "self_attention.linear_qkv.weight": "qkv.weight",
    "self_attention.linear_proj.weight": "attention_out.weight",
    "pre_mlp_layernorm.weight": "mlp_norm.weight",
    "mlp.linear_fc1.weight": "mlp_in.weight",
    "mlp.linear_fc2.weight": "mlp_out.weight",
}
_OUTSIDE = {
    "embedding.word_embeddings.weight": "embedding.weight",
    "output_layer.weight": "embedding.weight",
    "embedding.norm.weight": "embedding_norm.weight",
    "decoder.final_layernorm.weight": "final_norm.weight",
    "head.dense.weight": "head.dense.weight",
    "head.norm.weight": "head.norm.weight",
    "output_layer.bias": "head.bias",
}
"""Name in the model -> name in `config.weights`."""


@dataclass(frozen=True)
class CanonicalParameter:
    """One parameter of this rank under its canonical name."""

    name: str
    sharding: Split
    parameter: torch.nn.Parameter

    @torch.no_grad()
    def take(self, full: Tensor, rank: int, ranks: int, heads: int, into: Tensor | None = None) -> None:
        """Copy this tensor rank's part of a full tensor to the parameter, or ``into`` another; padding becomes zero."""
        into = self.parameter if into is None else into
        if self.sharding == "vocabulary":
            part = full[rank * len(into) : (rank + 1) * len(into)]
            into[: len(part)] = part
            into[len(part) :] = 0
        else:
            into.copy_(_shard(full, self.sharding, rank, ranks, heads))


def canonical_parameters(models: list[Any]) -> Iterator[CanonicalParameter]:
    """This rank's parameters under their canonical names; the models may be wrapped by Megatron-Core's DDP.

    The tied embedding appears twice in a pipeline: on its first and on its last rank.
    """
    for model in map(unwrapped, models):
        numbers = {str(place): layer.layer_number - 1 for place, layer in enumerate(model.decoder.layers)}
        for name, parameter in model.named_parameters():
            if name in _OUTSIDE:
                weight = canonical = _OUTSIDE[name]
            else:
                _, _, place, local = name.split(".", 3)
                weight = LAYER + _LAYER[local]
                canonical = weight.format(i=numbers[place])
            yield CanonicalParameter(canonical, TABLE[weight][1], parameter)


def unwrapped(model: Any) -> Any:
    """The EttinModel inside Megatron-Core's wrappers."""
    while hasattr(model, "module"):
        model = model.module
    return model


def full_state(
    models: list[Any], groups: Groups, what: Literal["weights", "gradients"] = "weights"
) -> dict[str, Tensor]:
    """All weights, or all accumulated gradients, gathered from every rank and without padding, on every rank.

    Collective: every rank calls it. Costs the whole model in memory. Gradients are Megatron-Core's fp32 `main_grad`
    where there is one; those of a distributed optimizer must have been gathered over the data ranks before.
    """
    model = unwrapped(models[0]).model
    here = {parameter.name: parameter for parameter in canonical_parameters(models)}
    result = {}
    for name, shape in shapes(model).items():
        full = _gathered(here[name], groups, model, what) if name in here else None
        result[name] = _from_first(full, shape, groups)
    return result


def load_full_state(models: list[Any], groups: Groups, tensors: Mapping[str, Tensor]) -> None:
    """Copy full canonical tensors into this rank's shards. Raises CheckpointError unless names and shapes all fit."""
    model = unwrapped(models[0]).model
    expected = shapes(model)
    if missing := expected.keys() - tensors.keys():
        raise CheckpointError(f"the weights lack {sorted(missing)[0]} and {len(missing) - 1} more; is the size right?")
    if unknown := tensors.keys() - expected.keys():
        raise CheckpointError(f"the weights hold {sorted(unknown)[0]}, which {model.size} has not")
    for parameter in canonical_parameters(models):
        full = tensors[parameter.name]
        if tuple(full.shape) != expected[parameter.name]:
            raise CheckpointError(
                f"{parameter.name} has shape {tuple(full.shape)}, but {model.size} needs {expected[parameter.name]}"
            )
        parameter.take(full, groups.tensor.rank, groups.tensor.size, model.heads)


def _gathered(parameter: CanonicalParameter, groups: Groups, model: ModelConfig, what: str) -> Tensor:
    local = parameter.parameter.detach()
    if what == "gradients":
        gradient = getattr(parameter.parameter, "main_grad", None)
        gradient = parameter.parameter.grad if gradient is None else gradient
        local = torch.zeros_like(local) if gradient is None else gradient.detach()
    local = local.contiguous()
    if parameter.sharding == "copied":
        return local
    parts = [local]
    if groups.tensor.size > 1:
        parts = [torch.empty_like(local) for _ in range(groups.tensor.size)]
        dist.all_gather(parts, local, group=groups.tensor.group)
    full = _join(parts, parameter.sharding, model.heads)
    return full[: model.vocabulary] if parameter.sharding == "vocabulary" else full


def _from_first(full: Tensor | None, shape: tuple[int, ...], groups: Groups) -> Tensor:
    """A tensor as the first pipeline rank that holds it has it; None: this rank holds none."""
    pipeline, device = groups.pipeline, groups.device.torch_device
    if pipeline.size == 1:
        assert full is not None
        return full.clone()
    owner = torch.tensor([pipeline.size if full is None else pipeline.rank], device=device)
    dist.all_reduce(owner, op=dist.ReduceOp.MIN, group=pipeline.group)
    copy = torch.empty(shape, dtype=torch.float32, device=device)
    if full is not None and pipeline.rank == owner:
        copy.copy_(full)
    dist.broadcast(copy, dist.get_global_rank(pipeline.group, int(owner)), group=pipeline.group)
    return copy if full is None else copy.to(full.dtype)


def _shard(full: Tensor, sharding: Split, rank: int, ranks: int, heads: int) -> Tensor:
    """One tensor rank's part of a full tensor whose parts are all of one size."""
    if sharding == "copied":
        return full
    if sharding == "columns":
        return full.chunk(ranks, dim=1)[rank]
    if sharding == "halves":
        return torch.cat([half.chunk(ranks)[rank] for half in full.chunk(2)])
    by_head = full.view(3, heads, -1, full.shape[1]).transpose(0, 1)
    return by_head.chunk(ranks)[rank].reshape(-1, full.shape[1])


def _join(parts: list[Tensor], sharding: Split, heads: int) -> Tensor:
    """The full tensor of all ranks' parts, padding included."""
    if sharding == "columns":
        return torch.cat(parts, dim=1)
    if sharding == "halves":
        return torch.cat([part.chunk(2)[half] for half in (0, 1) for part in parts])
    return from_head_order(torch.cat(parts), heads) if sharding == "heads" else torch.cat(parts)
