"""On 4 ranks: the sharded optimizer against the formula on whole tensors."""

from __future__ import annotations

from dataclasses import replace

import torch

from megatron_ettin.config.run import LayoutConfig
from megatron_ettin.parallel.groups import initialize
from tests.train.test_stable_adamw import reference_step
from tests.train.toy import SHAPES, local_part, set_gradients, toy_parts, whole_tensors

STEPS = 3
# Weights in units of the learning rate; float32 rounding of the update, and of the weight itself (1 = 1e-7 of it).
TOLERANCE_IN_RATES = 1e-3
SPIKE = 30.0
RATE = 3e-3


def reference(config, dtype):
    tensors = {name: value.to(dtype).double() for name, value in whole_tensors(0).items()}
    states = {name: (value, torch.zeros_like(value), torch.zeros_like(value)) for name, value in tensors.items()}
    norms = []
    for step in range(1, STEPS + 1):
        scale = SPIKE if step == STEPS else 1.0
        gradients = {name: value.double() * scale for name, value in whole_tensors(100 + step).items()}
        norms.append(sum(float((g * g).sum()) for g in gradients.values()) ** 0.5)
        for name, gradient in gradients.items():
            decay = config.optimizer.weight_decay if len(SHAPES[name]) > 1 else 0.0
            states[name] = reference_step(*(states[name][0], gradient, *states[name][1:]), step, RATE, decay)
    return {name: state[0] for name, state in states.items()}, norms


def check(layout, precision, bucket):
    layout = replace(layout, overlap=bucket is not None)
    groups = initialize(layout)
    config, chunks, optimizer = toy_parts(layout, groups, precision=precision, bucket=bucket)
    expected, norms = reference(config, torch.float32 if precision == "fp32" else torch.bfloat16)
    for step in range(1, STEPS + 1):
        set_gradients(chunks, groups, step, SPIKE if step == STEPS else 1.0)
        optimizer.gather_gradients()
        square = optimizer.square_norm()
        torch.distributed.all_reduce(square)
        assert abs(float(square) ** 0.5 / norms[step - 1] - 1) < 1e-6, (layout, float(square) ** 0.5, norms)
        optimizer.apply(RATE)
        for chunk in chunks:
            chunk.start_param_sync(force_sync=True)
    assert len(chunks[0].buffers[0].buckets) > 1 or bucket is None
    for state in optimizer.optimizer.state.values():
        assert set(state) == {"exp_avg", "exp_avg_sq"}
    rounding = 2**-8 if precision == "bf16" else 2**-22
    for name, parameter in chunks[0].module.named_parameters():
        whole = local_part(name, expected[name], groups)
        allowed = TOLERANCE_IN_RATES * RATE + rounding * whole.abs()
        excess = ((parameter.double() - whole).abs() - allowed).max()
        assert excess <= 0, (layout, precision, name, float(excess) / RATE)


LAYOUTS = (LayoutConfig(), LayoutConfig(tensor=2), LayoutConfig(tensor=4), LayoutConfig(tensor=2, context=2))


def every_layout() -> None:
    """The formula holds for every way to cut the tensors, with one bucket and with several."""
    for layout in LAYOUTS:
        for precision in ("fp32", "bf16"):
            for bucket in (None, 500):
                check(layout, precision, bucket)
