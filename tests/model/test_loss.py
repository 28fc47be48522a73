"""The vocabulary loss: chunks change nothing, and its gradients are those of plain cross-entropy."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from megatron_ettin.model import logits as module
from megatron_ettin.model.logits import CrossEntropy, VocabularyShard, tiles_of
from megatron_ettin.model.loss import chunk_labels, vocabulary_loss
from megatron_ettin.parallel.groups import Groups

EXACT = 1e-12
"""fp64 against fp64."""
ROUNDING = 1e-6
"""fp32 against fp64, of the largest value."""


def inputs(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    shapes = ((37, 16), (50, 16), (50,))
    hidden, weight, bias = (torch.randn(shape, dtype=torch.bfloat16).to(dtype) for shape in shapes)
    return hidden.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), torch.randint(0, 50, (37,))


def losses_and_gradients(groups: Groups, dtype: torch.dtype, chunk: int) -> list[torch.Tensor]:
    hidden, weight, bias, labels = inputs(dtype)
    loss = vocabulary_loss(hidden, weight, bias, labels, VocabularyShard(groups.tensor, 0), chunk)
    (loss.sum() * 0.3).backward()
    return [loss.detach(), hidden.grad, weight.grad, bias.grad]  # type: ignore[list-item]


@pytest.mark.parametrize("chunk", [1, 5, 36, 37, 1000])
def test_loss_and_gradients_equal_plain_cross_entropy(groups: Groups, chunk: int) -> None:
    hidden, weight, bias, labels = inputs(torch.float64)
    expected = torch.nn.functional.cross_entropy(hidden @ weight.t() + bias, labels, reduction="none")
    (expected.sum() * 0.3).backward()
    got = losses_and_gradients(groups, torch.float64, chunk)
    for ours, theirs in zip(got, [expected, hidden.grad, weight.grad, bias.grad], strict=True):
        assert float((ours - theirs).abs().max()) < EXACT


def cross_entropy_(shard: VocabularyShard, logits: torch.Tensor, bias: torch.Tensor, labels: torch.Tensor) -> Any:
    """(losses, gradient of the bias); leaves the logits' gradients in their place."""
    tiles, losses = tiles_of(logits.clone()), CrossEntropy(shard, bias, labels)
    for tile in tiles:
        tile.logits_LV.copy_(logits[:, tile.columns])
        losses.read(tile)
    found = losses.losses()
    d_bias = torch.cat([losses.gradients_(tile) for tile in tiles])
    logits.copy_(torch.cat([tile.logits_LV for tile in tiles], dim=1))
    return found, d_bias


@pytest.mark.parametrize("chunk", [5, 37])
@pytest.mark.parametrize("width", [1, 16, 49, 50, 64])
def test_tiles_of_the_vocabulary_change_rounding_only(
    groups: Groups, monkeypatch: pytest.MonkeyPatch, width: int, chunk: int
) -> None:
    monkeypatch.setattr(module, "TILE_COLUMNS", width)
    exact = losses_and_gradients(groups, torch.float64, 100)
    for ours, theirs in zip(losses_and_gradients(groups, torch.float32, chunk), exact, strict=True):
        assert float((ours - theirs).abs().max()) < ROUNDING * float(theirs.abs().max())


def test_a_rank_without_vocabulary_rows_gives_empty_gradients(groups: Groups) -> None:
    hidden, weight, bias, labels = inputs(torch.float32)
    loss = vocabulary_loss(hidden, weight[:0], bias[:0], labels, VocabularyShard(groups.tensor, 50), 100)
    loss.sum().backward()
    assert hidden.grad is not None and weight.grad is not None
    assert not hidden.grad.any() and not weight.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_native_kernel_equals_the_plain_one_far_from_zero(groups: Groups, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    logits = (torch.randn(9, 5_003) * 40).to(dtype)
    logits[0, 17], logits[1] = 300.0, -1e4
    bias, labels = torch.randn(5_003), torch.randint(0, 5_003, (9,))
    shard = VocabularyShard(groups.tensor, 0)
    twin = logits.double()
    expected = cross_entropy_(shard, twin, bias.double(), labels)
    got = cross_entropy_(shard, logits, bias, labels)
    rounding = 2**-8 if dtype == torch.bfloat16 else 5e-5
    """A logit of 150 is rounded by 1e-5, and its exponential by as much of itself."""
    assert torch.allclose(got[0].double(), expected[0], rtol=1e-6, atol=1e-5)
    assert torch.allclose(got[1].double(), expected[1], atol=1e-5)
    assert torch.allclose(logits.double(), twin, rtol=0.0, atol=rounding)


@pytest.mark.parametrize("chunk", [3, 100])
def test_bf16_gradients_stay_within_bf16_rounding(groups: Groups, chunk: int) -> None:
    exact = losses_and_gradients(groups, torch.float64, 100)
    half = losses_and_gradients(groups, torch.bfloat16, chunk)
    assert half[0].dtype == torch.float32
    for ours, theirs in zip(half, exact, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 2**-6


def test_labels_that_are_scaled_differently_are_refused(groups: Groups) -> None:
    hidden, weight, bias, labels = inputs(torch.float32)
    loss = vocabulary_loss(hidden, weight, bias, labels, VocabularyShard(groups.tensor, 0), 8)
    with pytest.raises(RuntimeError, match="scaled alike"):
        (loss * torch.arange(37)).sum().backward()


def test_no_label_gives_zero_gradients(groups: Groups) -> None:
    hidden, weight, bias, labels = inputs(torch.float32)
    loss = vocabulary_loss(hidden[:0], weight, bias, labels[:0], VocabularyShard(groups.tensor, 0), 8)
    loss.sum().backward()
    assert weight.grad is not None and not weight.grad.any()


def test_a_chunk_is_as_large_as_its_bytes_allow() -> None:
    assert chunk_labels(4 * 50 * 7, 50) == 7
    assert chunk_labels(1, 50) == 1
