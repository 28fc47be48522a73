"""Own kernels against torch's way of the same, each by itself, on the shapes of a micro-batch."""

# T tokens, N heads, D head size, H hidden, L labels, V vocabulary rows

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_parts.limits import Ceilings
from benchmarks.gpu_parts.machine import Machine, median
from benchmarks.gpu_parts.rows import Row
from benchmarks.gpu_parts.work import MASK_SHARE
from megatron_ettin.config.shapes import padded_vocabulary
from megatron_ettin.cost.logits import WIDEST
from megatron_ettin.kernels import pointwise
from megatron_ettin.kernels.dropout import Dropout, add_dropped
from megatron_ettin.kernels.products import multiply_into
from megatron_ettin.kernels.rope import rotate_

REPEATS, CALLS = 5, 10
"""A time is the median of so many measurements of so many calls each."""
MOST_LOGITS = 1 << 29
"""Numbers of a chunk of logits: one GiB in bf16."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One piece of work, by our kernel and by torch."""

    name: str
    bytes: int
    """What our kernel moves."""
    own: Callable[[], object]
    torch: Callable[[], object]


def kernels(row: Row, machine: Machine, ceilings: Ceilings) -> dict[str, Any]:
    """Times of all pairs, and of ours the share of the bandwidth of a copy. A dry run has torch's side alone."""
    with torch.no_grad():
        found = [timed(pair, machine, ceilings, compiled=row.compile) for pair in pairs(row, machine)]
    return {"micro_batch_rows": machine.micro_batch_rows(row.size, row.row_length), "kernels": found}


def timed(pair: Pair, machine: Machine, ceilings: Ceilings, *, compiled: bool) -> dict[str, Any]:
    """Seconds of a call on both sides."""
    theirs = torch.compile(pair.torch) if compiled else pair.torch
    values: dict[str, Any] = {"name": pair.name, "torch_seconds": seconds(theirs, machine)}
    if machine.is_gpu:
        own = seconds(pair.own, machine)
        share = pair.bytes / own / ceilings.bandwidth
        values |= {"own_seconds": own, "ratio": values["torch_seconds"] / own, "bandwidth_share": share}
    return values


def seconds(job: Callable[[], object], machine: Machine) -> float:
    """Of one call, after a first one that compiles."""
    job()
    return median([machine.seconds(lambda: [job() for _ in range(CALLS)]) for _ in range(REPEATS)]) / CALLS


def pairs(row: Row, machine: Machine) -> Iterator[Pair]:
    """Rotary embedding both ways, gated GELU, norm with sum and dropout, a weight's gradient, both ways of the loss."""
    from megatron_ettin.kernels.triton import add_norm, gated_gelu, linear_softmax, rotary, softmax

    shape, device = machine.shape(row.size), machine.device
    tokens = machine.micro_batch_rows(row.size, row.row_length) * machine.row_length(row.row_length)
    size = shape.hidden // shape.heads

    def random(*sizes: int) -> Tensor:
        return torch.randn(*sizes, device=device, dtype=torch.bfloat16)

    qkv, cosine, sine = random(tokens, shape.heads, 3, size), random(tokens, size // 2), random(tokens, size // 2)
    yield Pair(
        name="rotary embedding", bytes=rotary.cost(tokens, shape.heads, size, 2).bytes,
        own=lambda: rotary.rotate_(qkv, cosine, sine), torch=lambda: rotate_(qkv, cosine, sine),
    )  # fmt: skip
    parts = [random(tokens, shape.heads, size) for _ in range(3)]
    yield Pair(
        name="rotary embedding backward", bytes=rotary.turn_back_cost(tokens, shape.heads, size, 2).bytes,
        own=lambda: rotary.turn_back(*parts, cosine, sine),
        torch=lambda: rotate_(torch.stack(parts, dim=2), cosine, sine),
    )  # fmt: skip
    gated = random(tokens, 2 * shape.intermediate)
    yield Pair(
        name="gated GELU", bytes=gated_gelu.cost(tokens, shape.intermediate, 2, backward=False).bytes,
        own=lambda: gated_gelu.gated_gelu(gated), torch=lambda: pointwise.gated_gelu(gated),
    )  # fmt: skip
    residual, x, weight = random(tokens, shape.hidden), random(tokens, shape.hidden), random(shape.hidden)
    places = torch.arange(tokens, device=device)
    dropout = Dropout(share=0.1, key=1, step=1, layer=0, places_T=places)

    def sum_and_norm() -> Tensor:
        total = add_dropped(residual, x, dropout)
        return torch.nn.functional.layer_norm(total, weight.shape, weight, None, shape.norm_epsilon)

    yield Pair(
        name="sum, dropout and norm", bytes=add_norm.cost(tokens, shape.hidden, 2, dropout=True, backward=False).bytes,
        own=lambda: add_norm.add_norm(residual, x, dropout, weight, shape.norm_epsilon), torch=sum_and_norm,
    )  # fmt: skip
    gradient = random(tokens, 2 * shape.intermediate)
    buffer = torch.zeros(2 * shape.intermediate, shape.hidden, device=device)
    yield Pair(
        name="weight gradient", bytes=2 * (gradient.numel() + x.numel()) + 8 * buffer.numel(),
        own=lambda: multiply_into(buffer, gradient.t(), x, add=True), torch=lambda: buffer.add_(gradient.t() @ x),
    )  # fmt: skip
    columns = padded_vocabulary(shape.vocabulary)
    labels = max(1, min(round(tokens * MASK_SHARE), MOST_LOGITS // columns))
    logits, bias = random(labels, columns), random(columns)
    ids = torch.randint(0, shape.vocabulary, (labels,), device=device)
    sums = torch.full((labels,), 20.0, device=device)
    yield Pair(
        name="statistics of logits", bytes=softmax.statistics_cost(labels, columns, 2).bytes,
        own=lambda: softmax.softmax_statistics(logits, bias, ids, 0),
        torch=lambda: pointwise.softmax_statistics(logits, bias, ids, 0),
    )  # fmt: skip
    yield Pair(
        name="gradients of logits", bytes=softmax.gradients_cost(labels, columns, 2).bytes,
        own=lambda: softmax.softmax_gradients_(logits, bias, ids, 0, sums),
        torch=lambda: pointwise.softmax_gradients_(logits, bias, ids, 0, sums),
    )  # fmt: skip
    if shape.hidden > WIDEST:
        return
    hidden, rows = random(labels, shape.hidden), random(columns, shape.hidden)

    def without_logits() -> Tensor:
        linear_softmax.linear_softmax_statistics(hidden, rows, bias, ids, 0)
        return linear_softmax.linear_softmax_gradients(hidden, rows, bias, ids, 0, sums, logits)

    def with_logits() -> Tensor:
        torch.mm(hidden, rows.t(), out=logits)
        pointwise.softmax_statistics(logits, bias, ids, 0)
        return pointwise.softmax_gradients_(logits, bias, ids, 0, sums)

    # what goes through memory at least: the gradients; the kernels' own limit are their products
    yield Pair(name="gradients without logits", bytes=2 * labels * columns, own=without_logits, torch=with_logits)
