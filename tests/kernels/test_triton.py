"""Kernels for GPUs, interpreted on a CPU, against their definitions in float64; and the bytes that they move."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

from megatron_ettin.kernels import pointwise, rope
from megatron_ettin.kernels.dropout import Dropout, add_dropped, kept

pytest.importorskip("triton", reason="triton is not installed")
if "TRITON_INTERPRET" not in os.environ:
    pytest.skip("kernels run on the GPU here and are not interpreted: tests/gpu has them", allow_module_level=True)

from megatron_ettin.kernels.triton import adam, add_norm, gated_gelu, rotary, softmax
from tests.kernels.triton_interpreted import counted

KEY = 0xFEDCBA9876543210
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 2.0**-7}
"""Share of a number that one rounding of a result may cost. The interpreter cuts bits off where a GPU rounds to the
nearest bf16; sums of some hundred numbers in fp32 cost a little more."""
SUMS = 2e-5
"""For results that are sums over tokens, labels or columns in fp32."""
types = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def close(got: torch.Tensor, expected: torch.Tensor, share: float = 0.0) -> None:
    """Equal up to rounding to the type of the result."""
    tolerance = ROUNDING[got.dtype] + share
    torch.testing.assert_close(got.double(), expected.double(), rtol=tolerance, atol=tolerance)


def dropout_of(tokens: int, share: float = 0.1) -> Dropout:
    places = torch.arange(tokens) * 1_000_000_007  # beyond 32 bits
    return Dropout(share=share, key=KEY, step=2**32 - 1, layer=27, places_T=places)


@types
@pytest.mark.parametrize(("tokens", "heads", "size"), [(1, 1, 2), (37, 3, 64), (16, 2, 24), (0, 2, 64)])
def test_queries_and_keys_turn_in_place_and_values_stay(dtype: torch.dtype, tokens: int, heads: int, size: int) -> None:
    torch.manual_seed(0)
    qkv = torch.randn(tokens, heads, 3, size).to(dtype)
    cosine, sine = (torch.randn(tokens, size // 2).to(dtype) for _ in range(2))
    expected = qkv.double()
    rope.rotate_(expected, cosine.double(), sine.double())
    values = qkv[:, :, 2].clone()
    rotary.rotate_(qkv, cosine, sine)
    close(qkv, expected)
    assert qkv[:, :, 2].equal(values)


@types
@pytest.mark.parametrize(("tokens", "heads", "size"), [(1, 1, 2), (37, 3, 64), (16, 2, 24), (0, 2, 64)])
def test_three_gradients_are_turned_back_into_that_of_the_projection(
    dtype: torch.dtype, tokens: int, heads: int, size: int
) -> None:
    torch.manual_seed(0)
    qkv = torch.randn(tokens, 1, heads * 3 * size).to(dtype)
    cosine, sine = (torch.randn(tokens, size // 2).to(dtype) for _ in range(2))
    upstream = [torch.randn(tokens, heads, size).to(dtype) for _ in range(3)]
    ours, exact = (qkv.to(kind, copy=True).requires_grad_() for kind in (dtype, torch.float64))
    parts = rope.rotate_parts(ours * 1, heads, cosine, sine, rotary.rotate_, rotary.turn_back)
    tables = cosine.double(), sine.double()
    expected = rope.split(rope.rotate(exact * 1, heads, *tables), heads).unbind(2)
    for got, wanted in zip(parts, expected, strict=True):
        close(got, wanted)
    torch.autograd.backward(parts, upstream)
    torch.autograd.backward(expected, [x.double() for x in upstream])
    assert ours.grad is not None and exact.grad is not None
    close(ours.grad, exact.grad)


def test_a_projection_with_gaps_is_refused() -> None:
    qkv = torch.zeros(4, 3, 2, 8).transpose(1, 2)
    with pytest.raises(ValueError, match="contiguous"):
        rotary.rotate_(qkv, torch.zeros(4, 4), torch.zeros(4, 4))


@types
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (21, 100), (33, 64), (0, 64)])
def test_gated_gelu_and_its_gradient_are_those_of_the_definition(dtype: torch.dtype, rows: int, width: int) -> None:
    torch.manual_seed(1)
    gated = (3 * torch.randn(rows, 1, 2 * width)).to(dtype).requires_grad_()
    exact = gated.detach().double().requires_grad_()
    upstream = torch.randn(rows, 1, width).to(dtype)
    output, expected = gated_gelu.gated_gelu(gated), pointwise.gated_gelu(exact)
    output.backward(upstream)
    expected.backward(upstream.double())
    close(output, expected)
    assert gated.grad is not None and exact.grad is not None
    close(gated.grad, exact.grad)


@types
@pytest.mark.parametrize(("labels", "columns"), [(1, 1), (5, 4_097), (130, 90), (0, 90)])
def test_both_passes_over_logits_are_those_of_the_definition(dtype: torch.dtype, labels: int, columns: int) -> None:
    torch.manual_seed(2)
    first_row = 100
    logits, bias = (4 * torch.randn(labels, columns)).to(dtype), torch.randn(columns).to(dtype)
    ids = torch.randint(0, columns + 2 * first_row, (labels,))  # some belong to other tensor ranks
    found = softmax.softmax_statistics(logits, bias, ids, first_row)
    exact = logits.double()
    expected = pointwise.softmax_statistics(exact, bias.double(), ids, first_row)
    for got, wanted in zip(found, expected, strict=True):
        close(got, wanted, SUMS)
    log_sum = expected[1].log() + expected[0]
    d_bias = softmax.softmax_gradients_(logits, bias, ids, first_row, log_sum.float())
    expected_bias = pointwise.softmax_gradients_(exact, bias.double(), ids, first_row, log_sum)
    close(logits, exact)
    torch.testing.assert_close(d_bias.double(), expected_bias, rtol=SUMS, atol=SUMS)


def test_a_logit_that_is_not_a_number_makes_the_sum_none() -> None:
    logits = torch.zeros(2, 5_000)
    logits[1, 4_500] = float("nan")
    _, total, _ = softmax.softmax_statistics(logits, torch.zeros(5_000), torch.zeros(2, dtype=torch.long), 0)
    assert total.isnan().tolist() == [False, True]


@types
@pytest.mark.parametrize("share", [None, 0.1])
@pytest.mark.parametrize(("tokens", "channels"), [(1, 64), (18, 100), (9, 256), (0, 64)])
def test_sum_dropout_and_norm_are_those_of_the_definition(
    dtype: torch.dtype, share: float | None, tokens: int, channels: int
) -> None:
    torch.manual_seed(3)
    dropout = None if share is None else dropout_of(tokens, share)
    inputs = [torch.randn(tokens, 1, channels).to(dtype) for _ in range(2)] + [torch.randn(channels).to(dtype)]
    ours, exact = ([x.to(kind, copy=True).requires_grad_() for x in inputs] for kind in (dtype, torch.float64))
    hidden, normed = add_norm.add_norm(ours[0], ours[1], dropout, ours[2], 1e-5)
    expected = exact[0] + exact[1] if dropout is None else add_dropped(exact[0], exact[1], dropout)
    close(hidden, expected)
    # the norm of the sum as it is stored, so that rounding it is not counted twice
    expected = expected + (hidden.double() - expected).detach()
    expected_norm = torch.nn.functional.layer_norm(expected, (channels,), exact[2], None, 1e-5)
    close(normed, expected_norm)
    upstream = [torch.randn_like(hidden) for _ in range(2)]
    torch.autograd.backward([hidden, normed], upstream)
    torch.autograd.backward([expected, expected_norm], [x.double() for x in upstream])
    for got, wanted in zip(ours, exact, strict=True):
        assert got.grad is not None and wanted.grad is not None and got.grad.dtype == dtype
        close(got.grad, wanted.grad, SUMS)


@pytest.mark.parametrize(("tokens", "channels"), [(1, 64), (300, 100), (0, 64)])
def test_the_gradient_of_a_norm_s_weight_is_added_to_its_buffer(tokens: int, channels: int) -> None:
    torch.manual_seed(6)
    x, residual = (torch.randn(tokens, channels) for _ in range(2))
    upstream = [torch.randn(tokens, channels) for _ in range(2)]
    bare, weight = (torch.ones(channels, requires_grad=True) for _ in range(2))
    before = torch.randn(channels)
    weight.main_grad = before.clone()
    for leaf in (bare, weight):
        torch.autograd.backward(add_norm.add_norm(residual, x, None, leaf, 1e-5), upstream)
    assert bare.grad is not None and weight.grad_added_to_main_grad
    close(weight.main_grad - before, bare.grad, SUMS)
    parts = torch.zeros(300, channels)
    said = add_norm.add_weight_cost(300, channels)
    tile = {"ROWS": add_norm.SUMMED_ROWS, "COLUMNS": add_norm.SUMMED_CHANNELS}
    grid = (-(-channels // add_norm.SUMMED_CHANNELS),)
    run = add_norm.add_weight_kernel[grid]
    assert moved(lambda: run(parts, before, 300, WIDTH=channels, **tile)) == (said.read, said.written)


@pytest.mark.parametrize("channels", [16, 64, 100, 256])
def test_the_bits_of_dropout_are_those_of_the_extension(channels: int) -> None:
    dropout = dropout_of(7, 0.5)
    x = torch.ones(7, channels, requires_grad=True)
    hidden, _ = add_norm.add_norm(torch.zeros(7, channels), x, dropout, torch.ones(channels), 1e-5)
    bits = kept(dropout, channels)
    assert (hidden != 0).equal(bits)
    hidden.sum().backward()
    assert x.grad is not None and (x.grad != 0).equal(bits)


def test_the_same_inputs_give_the_same_bits() -> None:
    torch.manual_seed(4)
    logits, ids = torch.randn(300, 200), torch.randint(0, 200, (300,))
    results = []
    for _ in range(2):
        again = logits.clone()
        results.append((softmax.softmax_gradients_(again, torch.zeros(200), ids, 0, logits.logsumexp(1)), again))
    assert results[0][0].equal(results[1][0]) and results[0][1].equal(results[1][1])


def test_nothing_behind_a_tensor_is_written() -> None:
    tokens, heads, size = 5, 2, 24
    memory = torch.full((tokens * heads * 3 * size + 1_000,), 7.0)
    qkv = memory[: tokens * heads * 3 * size].view(tokens, heads, 3, size)
    rotary.rotate_(qkv, torch.ones(tokens, size // 2), torch.ones(tokens, size // 2))
    assert (memory[qkv.numel() :] == 7.0).all()
    labels, columns = 3, 300
    memory = torch.full((labels * columns + 10_000,), 7.0)
    logits = memory[: labels * columns].view(labels, columns)
    ids = torch.zeros(labels, dtype=torch.long)
    softmax.softmax_gradients_(logits, torch.zeros(columns), ids, 0, torch.ones(labels))
    assert (memory[logits.numel() :] == 7.0).all()


def moved(call: Callable[[], Any]) -> tuple[int, int]:
    with counted() as traffic:
        call()
    return traffic.read, traffic.written


def test_the_optimizer_moves_the_bytes_that_its_cost_says() -> None:
    sizes = [5_000, 3, 4_096]
    kinds = [[torch.ones(size) for size in sizes] for _ in range(4)]
    table = adam.TensorTable(kinds, lambda host: host)
    said = adam.cost(sizes)
    tables = 4 * 8 * 10 * table.programs  # addresses, sizes and chunks, which each program reads
    rates = torch.ones(3, dtype=torch.float64)
    read, written = moved(lambda: (adam.second_moments(table, 0.9, 1e-6), adam.update(table, 0.9, 1e-6, rates, rates)))
    assert said.read <= read <= said.read + tables
    assert said.written <= written <= said.written + tables


def test_sums_of_many_chunks_are_exact_and_the_same_every_time() -> None:
    torch.manual_seed(5)
    gradient, second = torch.randn(adam.CHUNK * 3 + 5), torch.rand(adam.CHUNK * 3 + 5)
    found = []
    for _ in range(2):
        kinds = [[torch.zeros_like(gradient)], [gradient], [torch.zeros_like(gradient)], [second.clone()]]
        found.append(adam.second_moments(adam.TensorTable(kinds, lambda host: host), 0.98, 1e-6))
    moved_second = second.double() * 0.98 + gradient.double() ** 2 * 0.02
    expected = (gradient.double() ** 2 / moved_second.clamp(min=1e-12)).sum()
    assert found[0].equal(found[1]) and float(found[0]) == pytest.approx(float(expected), rel=SUMS)


@types
def test_each_kernel_moves_the_bytes_that_its_cost_says(dtype: torch.dtype) -> None:
    item = dtype.itemsize
    qkv, angles = torch.zeros(37, 3, 3, 24, dtype=dtype), torch.zeros(37, 12, dtype=dtype)
    said = rotary.cost(37, 3, 24, item)
    assert moved(lambda: rotary.rotate_(qkv, angles, angles)) == (said.read, said.written)
    said = rotary.turn_back_cost(37, 3, 24, item)
    assert moved(lambda: rotary.turn_back(*qkv.unbind(2), angles, angles)) == (said.read, said.written)

    gated = torch.zeros(21, 200, dtype=dtype, requires_grad=True)
    for backward in (False, True):
        output = gated_gelu.gated_gelu(gated)
        call = (lambda output=output: output.sum().backward()) if backward else (lambda: gated_gelu.gated_gelu(gated))
        said = gated_gelu.cost(21, 100, item, backward=backward)
        assert moved(call) == (said.read, said.written)

    logits, bias, ids = torch.zeros(130, 300, dtype=dtype), torch.zeros(300, dtype=dtype), torch.zeros(130).long()
    said = softmax.statistics_cost(130, 300, item)
    assert moved(lambda: softmax.softmax_statistics(logits, bias, ids, 0)) == (said.read, said.written)
    said = softmax.gradients_cost(130, 300, item)
    sums = torch.zeros(130)
    assert moved(lambda: softmax.softmax_gradients_(logits, bias, ids, 0, sums)) == (said.read, said.written)


@types
@pytest.mark.parametrize("share", [None, 0.1])
def test_sum_dropout_and_norm_move_the_bytes_that_their_cost_says(dtype: torch.dtype, share: float | None) -> None:
    dropout = None if share is None else dropout_of(9, share)
    x, weight = torch.zeros(9, 100, dtype=dtype, requires_grad=True), torch.zeros(100, dtype=dtype)
    said = [add_norm.cost(9, 100, dtype.itemsize, dropout=share is not None, backward=way) for way in (False, True)]
    assert moved(lambda: add_norm.add_norm(x, x, dropout, weight, 1e-5)) == (said[0].read, said[0].written)
    sums = add_norm.add_norm(x, x, dropout, weight, 1e-5)
    upstream = [torch.zeros_like(x)] * 2
    assert moved(lambda: torch.autograd.backward(sums, upstream)) == (said[1].read, said[1].written)
