"""Weight gradients that go straight into their buffers: nothing else gets in, and nothing counts twice."""

from __future__ import annotations

import pytest
import torch

from megatron_ettin.model.build import build_model
from megatron_ettin.model.device_batch import DeviceBatch
from megatron_ettin.parallel.groups import Groups
from megatron_ettin.train.parts import wrap
from tests.model.inputs import batch_of, run_of

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
