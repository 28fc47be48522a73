"""What fp8 rounds away, or would, in the products of each layer: of one micro-batch, in steps that ask for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from megatron_ettin.kernels.scaled import BACKWARD, FORWARD, scaled
from megatron_ettin.parallel.together import everywhere
from megatron_ettin.train.parts import Parts

PRODUCTS = {"linear_qkv": "qkv", "linear_proj": "attention_output", "linear_fc1": "mlp_in", "linear_fc2": "mlp_out"}
"""Linear layers of Megatron-Core's, and what they are called in the records."""
Found = dict[str, Tensor]
"""``layer.product.operand`` -> [largest number, share of the others than 0 that become 0], float64, on the device."""


@contextmanager
def watched(parts: Parts, step: int) -> Iterator[Found | None]:
    """Meanwhile, in the step after ``step`` steps, the first product of each linear layer is looked at, in both passes.

    None in a step that nobody wants to look at. Each operand is read and rounded once more, in scales of its own: a
    step takes longer by that.
    """
    every = parts.config.observe.fp8_every
    if not every or (step + 1) % every:
        yield None
        return
    found: Found = {}
    handles = []
    for chunk in parts.chunks:
        for layer in chunk.module.decoder.layers:
            for name, module in layer.named_modules():
                if product := PRODUCTS.get(name.rpartition(".")[2]):
                    place = f"{layer.layer_number - 1}.{product}"
                    handles.append(module.register_forward_hook(partial(_look, found, place)))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _look(found: Found, place: str, module: Any, inputs: tuple[Tensor, ...], outputs: Any) -> None:  # noqa: ANN401
    """Of the operands of a product, and of the gradient when it comes. Layers that are computed again count once."""
    if f"{place}.input" in found or not torch.is_grad_enabled():
        return
    found[f"{place}.input"] = rounding(inputs[0], FORWARD)
    found[f"{place}.weight"] = rounding(module.weight, FORWARD)
    output = outputs[0] if isinstance(outputs, tuple) else outputs
    if output.requires_grad:
        output.register_hook(partial(_look_back, found, f"{place}.gradient"))


def _look_back(found: Found, place: str, gradient: Tensor) -> None:
    found[place] = rounding(gradient, BACKWARD)


@torch.no_grad()
def rounding(x: Tensor, kind: torch.dtype) -> Tensor:
    """Largest number of a tensor, and share of its numbers other than 0 that become 0 in fp8, [2], float64."""
    if not x.numel():
        return torch.zeros(2, dtype=torch.float64, device=x.device)
    x8, _ = scaled(x, kind)
    some = x != 0
    lost = (some & (x8.to(x.dtype) == 0)).sum() / some.sum().clamp(min=1)
    return torch.stack([torch.linalg.vector_norm(x, float("inf")).double(), lost.double()])


def everyones(found: Found) -> dict[str, float]:
    """Over all ranks: the largest number and the largest share of each place, as numbers of a record.

    Every rank calls this. One small exchange of objects, and a wait for the device.
    """
    mine = dict(zip(found, torch.stack(list(found.values())).tolist(), strict=True)) if found else {}
    merged: dict[str, float] = {}
    for theirs in everywhere(lambda: mine):
        for place, numbers in theirs.items():
            for name, number in zip(("largest", "underflow"), numbers, strict=True):
                merged[f"{place}.{name}"] = max(number, merged.get(f"{place}.{name}", 0.0))
    return merged
