"""Weight gradients that go straight into their buffers: nothing else gets in, and nothing counts twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import torch

from megatron_ettin.config.codec import with_fields
from megatron_ettin.kernels import products
from megatron_ettin.model.build import build_model
from megatron_ettin.model.device_batch import DeviceBatch
from megatron_ettin.parallel.groups import Groups
from megatron_ettin.train.parts import wrap
from tests.model.inputs import batch_of, run_of

KEPT = 2e-6
"""Of the largest sum: products of bf16 numbers added up in fp32. Rounded to bf16 in between they err by 2**-9."""
SAME = {"fp32": 1e-5, "bf16": 2e-2}
"""Of a tensor's largest gradient: sums in another order; in bf16 also rounded once less."""


@pytest.mark.parametrize("precision", SAME)
@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_gradients_in_buffers_equal_returned_ones_whatever_fresh_memory_holds(
    groups: Groups, objective: str, precision: str
) -> None:
    config = run_of(objective, precision=precision)
    model = build_model(config, groups)[0]
    batch = batch_of((200, 312), config.model.vocabulary)
    plain = build_model(config, groups)[0]
    (2.0 * plain(DeviceBatch.from_batch(batch, groups)).sum()).backward()
    (chunk,) = wrap([model], groups, overlap=False)
    chunk.zero_grad_buffer()
    torch.use_deterministic_algorithms(True)  # fills fresh memory with NaN
    try:
        for _ in range(2):
            chunk(DeviceBatch.from_batch(batch, groups)).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    wrapped = dict(model.named_parameters())
    for name, parameter in plain.named_parameters():
        assert parameter.grad is not None
        expected = parameter.grad.float()
        difference = float((wrapped[name].main_grad - expected).abs().max() / expected.abs().max())
        assert difference < SAME[precision], (name, difference)


@pytest.fixture
def sums_are_kept() -> Iterator[None]:
    """A CPU that has what GPUs have: products of bf16 numbers that end in fp32, with one rounding of the sum."""
    library = torch.library.Library("aten", "IMPL")  # noqa: TOR901

    def addmm(self: Any, one: Any, other: Any, kind: Any, *, beta: float = 1, alpha: float = 1, out: Any) -> Any:
        assert (one.dtype, other.dtype, kind, out.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32, kind)
        return out.copy_((beta * self.double() + alpha * (one.double() @ other.double())).float())

    def mm(one: Any, other: Any, kind: Any, *, out: Any) -> Any:
        return addmm(torch.zeros_like(out), one, other, kind, out=out)

    library.impl("addmm.dtype_out", addmm, "CPU")
    library.impl("mm.dtype_out", mm, "CPU")
    with mock.patch.multiple(products, keeps_sums=lambda _: True, widens=lambda: False):
        yield
    library._destroy()


@pytest.mark.usefixtures("sums_are_kept")
@pytest.mark.parametrize("add", [True, False])
def test_sums_of_bf16_products_reach_their_buffer_unrounded(add: bool) -> None:
    torch.manual_seed(0)
    gradient, inputs = (torch.randn(50, width).bfloat16() for width in (24, 40))
    buffer = torch.randn(24, 40)
    expected = gradient.double().t() @ inputs.double() + add * buffer.double()
    products.multiply_into(buffer, gradient.t(), inputs, add=add)
    error = float((buffer - expected).abs().max() / expected.abs().max())
    assert error < KEPT
    rounded = (gradient.t() @ inputs).float() - gradient.double().t() @ inputs.double()
    assert float(rounded.abs().max()) > 100 * KEPT


@pytest.mark.usefixtures("sums_are_kept")
@pytest.mark.parametrize("chunk_bytes", [0, 4 * 250 * 100])
def test_gradients_of_a_gpu_s_products_equal_returned_ones(groups: Groups, chunk_bytes: int) -> None:
    """Micro-batches of one chunk of labels and of several; the second micro-batch adds to the first."""
    config = with_fields(run_of("mlm", precision="bf16"), {"compute.loss_chunk_bytes": chunk_bytes})
    (model,), (plain,) = (build_model(config, groups) for _ in range(2))
    batch = batch_of((200, 312), config.model.vocabulary)
    plain(DeviceBatch.from_batch(batch, groups)).sum().backward()
    (chunk,) = wrap([model], groups, overlap=False)
    chunk.zero_grad_buffer()
    scale = torch.tensor(0.5)
    for _ in range(2):
        (scale * chunk(DeviceBatch.from_batch(batch, groups)).sum()).backward()
    wrapped = dict(model.named_parameters())
    for name, parameter in plain.named_parameters():
        assert parameter.grad is not None
        expected = parameter.grad.float()
        difference = float((wrapped[name].main_grad - expected).abs().max() / expected.abs().max())
        assert difference < SAME["bf16"], (name, difference)
        assert wrapped[name].grad_added_to_main_grad == (parameter.dim() == 2), name
