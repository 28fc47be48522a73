"""The loss whose logits are never in memory: its kernels against fp64, and the loss by them against the usual one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from megatron_ettin.config.recipes import recipe
from megatron_ettin.config.run import ComputeConfig
from megatron_ettin.config.shapes import PUBLISHED_SIZES
from megatron_ettin.cost.hardware import H100_CLUSTER
from megatron_ettin.cost.logits import seconds_with_logits, seconds_without_logits
from megatron_ettin.kernels import pointwise
from megatron_ettin.kernels.kind import KernelKind
from megatron_ettin.model.build import logits_are_kept
from megatron_ettin.model.logits import VocabularyShard
from megatron_ettin.model.loss import vocabulary_loss
from megatron_ettin.parallel.groups import Groups

pytest.importorskip("triton", reason="triton is not installed")
if "TRITON_INTERPRET" not in os.environ:
    pytest.skip("kernels run on the GPU here and are not interpreted: tests/gpu has them", allow_module_level=True)

from megatron_ettin.kernels.triton import linear_softmax
from tests.kernels.triton_interpreted import bf16_products, counted

SUMS = 2e-5
"""Of sums in fp32, whose terms come in another order."""
ROUNDING = {torch.float32: 2e-5, torch.bfloat16: 2.0**-7}
"""Of a gradient as it is written; the interpreter cuts bits off where a GPU rounds."""
types = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


@pytest.fixture(autouse=True)
def products_of_bf16() -> Iterator[None]:
    with bf16_products():
        yield


def operands(labels: int, columns: int, hidden: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Hidden states, vocabulary rows and bias, with logits up to about 15."""
    torch.manual_seed(0)
    shapes = ((labels, hidden), (columns, hidden), (columns,))
    return [(4.0 * torch.randn(shape) / shape[-1] ** 0.25).to(dtype) for shape in shapes]


@types
@pytest.mark.parametrize(
    ("labels", "columns", "hidden"), [(1, 1, 2), (37, 2_113, 24), (300, 90, 64), (0, 90, 16), (5, 0, 16)]
)
def test_both_passes_are_those_of_the_definition(dtype: torch.dtype, labels: int, columns: int, hidden: int) -> None:
    first_row = 100
    states, rows, bias = operands(labels, columns, hidden, dtype)
    ids = torch.randint(0, columns + 2 * first_row, (labels,))  # some belong to other tensor ranks
    top, total, label = linear_softmax.linear_softmax_statistics(states, rows, bias, ids, first_row)
    exact = states.double() @ rows.double().t()
    highest = top.amax(dim=0)
    found = highest, (total * (top - highest).exp()).nan_to_num().sum(dim=0), label
    if columns:
        expected = pointwise.softmax_statistics(exact, bias.double(), ids, first_row)
    else:
        expected = torch.full((labels,), float("-inf")), torch.zeros(labels), torch.zeros(labels)
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got.double(), wanted.double(), rtol=SUMS, atol=SUMS)
    memory = torch.full((labels * columns + 5_000,), 7.0, dtype=dtype)  # poisoned, and more of it behind
    gradients, log_sum = memory[: labels * columns].view(labels, columns), expected[1].log() + expected[0]
    d_bias = linear_softmax.linear_softmax_gradients(states, rows, bias, ids, first_row, log_sum.float(), gradients)
    expected_bias = pointwise.softmax_gradients_(exact, bias.double(), ids, first_row, log_sum.double())
    torch.testing.assert_close(gradients.double(), exact, rtol=ROUNDING[dtype], atol=ROUNDING[dtype])
    torch.testing.assert_close(d_bias.double(), expected_bias, rtol=SUMS, atol=SUMS * max(1, labels))
    assert (memory[labels * columns :] == 7.0).all()


def test_statistics_of_two_shards_are_those_of_the_whole() -> None:
    states, rows, bias = operands(40, 5_000, 32, torch.float32)
    ids = torch.randint(0, 5_000, (40,))
    halves = [
        linear_softmax.linear_softmax_statistics(states, rows[part], bias[part], ids, part.start)
        for part in (slice(0, 2_500), slice(2_500, 5_000))
    ]
    (top, total, label), (other_top, other_total, other_label) = halves
    log_sum = torch.logsumexp(torch.cat([top + total.log(), other_top + other_total.log()]), dim=0)
    logits = states.double() @ rows.double().t() + bias.double()
    torch.testing.assert_close(log_sum.double(), logits.logsumexp(dim=1), rtol=SUMS, atol=SUMS)
    torch.testing.assert_close((label + other_label).double(), logits[torch.arange(40), ids], rtol=SUMS, atol=SUMS)


def test_a_hidden_state_that_is_not_a_number_makes_its_sum_none() -> None:
    states, rows, bias = operands(3, 5_000, 16, torch.float32)
    states[1, 3] = float("nan")
    _, total, label = linear_softmax.linear_softmax_statistics(states, rows, bias, torch.zeros(3).long(), 0)
    assert total.isnan().any(dim=0).tolist() == [False, True, False] == label.isnan().tolist()


@types
@pytest.mark.parametrize(("labels", "columns", "hidden"), [(300, 2_100, 24), (2_060, 70, 64)])
def test_both_passes_move_the_bytes_that_their_cost_says(
    dtype: torch.dtype, labels: int, columns: int, hidden: int
) -> None:
    states, rows, bias = operands(labels, columns, hidden, dtype)
    ids, sums = torch.randint(0, columns, (labels,)), torch.full((labels,), 20.0)
    shape = (labels, columns, hidden, dtype.itemsize)
    with counted() as traffic:
        linear_softmax.linear_softmax_statistics(states, rows, bias, ids, 0)
    said = linear_softmax.statistics_cost(*shape)
    labels_own = linear_softmax.label_logits_cost(labels, hidden, dtype.itemsize)
    assert traffic.read == said.read + labels_own.read
    assert traffic.written == said.written + labels_own.written
    with counted() as traffic:
        found = [
            (linear_softmax.linear_softmax_gradients(states, rows, bias, ids, 0, sums, gradients), gradients)
            for gradients in (torch.empty(labels, columns, dtype=dtype) for _ in range(2))
        ]
    said = linear_softmax.gradients_cost(*shape)
    assert (traffic.read, traffic.written) == (2 * said.read, 2 * said.written)
    assert all(one.equal(other) for one, other in zip(*found, strict=True)), "the same numbers give the same bits"


@pytest.mark.parametrize("chunk", [7, 37])
@pytest.mark.parametrize("gradients", [True, False])
def test_the_loss_without_logits_is_the_loss_with_them(groups: Groups, chunk: int, gradients: bool) -> None:
    ids = torch.randint(0, 90, (37,))
    found = []
    for keeps_logits in (True, False):
        leaves = [x.requires_grad_() for x in operands(37, 90, 16, torch.float32)]
        shard = VocabularyShard(groups.tensor, 0, keeps_logits=keeps_logits)
        with torch.set_grad_enabled(gradients):
            loss = vocabulary_loss(*leaves, ids, shard, chunk)
        if gradients:
            (0.3 * loss.sum()).backward()
        found.append([loss.detach(), *(leaf.grad for leaf in leaves if gradients)])
    for usual, ours in zip(*found, strict=True):
        assert usual is not None and ours is not None
        assert float((ours - usual).abs().max()) <= SUMS * float(usual.abs().max())


@pytest.mark.parametrize(
    ("size", "precision", "kernels", "capability", "kept"),
    [
        *((size, "bf16", "own", (9, 0), size != "17m") for size in PUBLISHED_SIZES),
        ("17m", "fp32", "own", (9, 0), True),
        ("17m", "bf16", "compiled", (9, 0), True),
        ("17m", "bf16", "own", (8, 9), True),
        ("17m", "bf16", "plain", None, True),
    ],
)
def test_logits_are_kept_but_where_computing_them_twice_is_faster(
    size: str, precision: str, kernels: KernelKind, capability: tuple[int, int] | None, kept: bool
) -> None:
    run = replace(recipe(size, "mlm", "pretrain"), compute=ComputeConfig(precision=precision))  # type: ignore[arg-type]
    assert logits_are_kept(run, kernels, capability) is kept


def test_the_model_counts_products_memory_and_exponentials() -> None:
    """At 256: a product is 512 FLOPs, the usual way has three of them and moves 6 bytes more."""
    assert seconds_with_logits(256, H100_CLUSTER) == pytest.approx(3 * 512 / 700e12 + 6 / 3e12)
    own = 512 / 560e12 + 1 / 3.7e12
    assert seconds_without_logits(256, H100_CLUSTER) == pytest.approx(2 * own + 2 * 512 / 700e12)
