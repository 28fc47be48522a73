"""StableAdamW against its formula, written plainly in float64."""

from __future__ import annotations

import os

import pytest
import torch

from megatron_ettin.train import stable_adamw
from megatron_ettin.train.stable_adamw import Sharding, StableAdamW

BETAS, EPSILON, PEAK, DECAY = (0.9, 0.98), 1e-6, 3e-3, 3e-4
STEPS = 5
# Three float32 roundings a step on an update of size `rate`.
UPDATE_TOLERANCE = 1e-5
MOMENT_TOLERANCE = 1e-6


def reference_step(p, g, m, v, n, rate, decay):
    """One step of the formula in ``stable_adamw``, on float64 tensors."""
    b1 = (BETAS[0] - BETAS[0] ** n) / (1 - BETAS[0] ** n)
    b2 = (BETAS[1] - BETAS[1] ** n) / (1 - BETAS[1] ** n)
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * g * g
    r = (g * g / torch.clamp(v, min=EPSILON**2)).mean().sqrt()
    a = rate / max(1.0, float(r))
    p = p * (1 - (a / PEAK) * decay)
    return p - a * m / (v.sqrt() + EPSILON), m, v


def gradients(shapes, step):
    """Gradients of very different sizes, with a spike at the fourth step so that the clipping acts."""
    generator = torch.Generator().manual_seed(step)
    scale = 50.0 if step == 4 else 1.0
    return [scale * 10.0 ** (-i) * torch.randn(shape, generator=generator) for i, shape in enumerate(shapes)]


def build(shapes):
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    groups = [
        {"params": [t for t in tensors if t.dim() > 1], "weight_decay": DECAY},
        {"params": [t for t in tensors if t.dim() < 2], "weight_decay": 0.0},
    ]
    return tensors, StableAdamW(groups, betas=BETAS, epsilon=EPSILON, peak_rate=PEAK)


KERNELS = {"fused": "_FusedKernel", "foreach": "_ForeachKernel", "compiled": "_CompiledKernel", "own": "_OwnKernel"}


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_step_follows_the_formula(kernel, monkeypatch):
    if kernel == "own":
        pytest.importorskip("triton", reason="triton is not installed")
        if "TRITON_INTERPRET" not in os.environ:
            pytest.skip("kernels are not interpreted here")
    if kernel != "fused":
        made = getattr(stable_adamw, KERNELS[kernel])
        tables = []  # of the step before: the gradients of the next one lie elsewhere

        def make(*inputs):
            one = made(*inputs, torch.device("cpu"), *tables[-1:])
            tables.extend([one.table] if kernel == "own" else [])
            return one

        monkeypatch.setattr(stable_adamw, "_FusedKernel", make)
        monkeypatch.setattr(stable_adamw, "LARGE", 5000)
        torch._dynamo.utils.counters.clear()
    shapes = [(70, 33), (5,), (128, 300), (1,), (17, 1), (300, 40)]
    tensors, optimizer = build(shapes)
    expected = [(t.detach().double(), torch.zeros_like(t).double(), torch.zeros_like(t).double()) for t in tensors]
    for step in range(1, STEPS + 1):
        rate = PEAK * step / STEPS
        for group in optimizer.param_groups:
            group["lr"] = rate
        for tensor, gradient in zip(tensors, gradients(shapes, step), strict=True):
            tensor.grad = gradient
        optimizer.step()
        expected = [
            reference_step(p, g.double(), m, v, step, rate, DECAY if p.dim() > 1 else 0.0)
            for (p, m, v), g in zip(expected, gradients(shapes, step), strict=True)
        ]
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert kernel != "compiled" or graphs == 2  # one a pass, whatever the sizes and the step
    for tensor, (p, m, v) in zip(tensors, expected, strict=True):
        state = optimizer.state[tensor]
        assert set(state) == {"exp_avg", "exp_avg_sq"}
        assert (tensor.double() - p).abs().max() <= UPDATE_TOLERANCE * PEAK * STEPS + 1e-6 * p.abs().max()
        assert (state["exp_avg"].double() - m).abs().max() <= MOMENT_TOLERANCE * m.abs().max()
        assert (state["exp_avg_sq"].double() - v).abs().max() <= MOMENT_TOLERANCE * v.abs().max()


def test_the_table_of_tensors_is_made_again_only_when_one_has_moved():
    pytest.importorskip("triton", reason="triton is not installed")
    tensors, optimizer = build([(40, 3), (5,)])
    optimizer.kernels = "own"
    optimizer.prepare_state()
    for tensor in tensors:
        tensor.grad = torch.zeros_like(tensor)
    first, second = (optimizer._kernel(EPSILON, torch.device("meta")).table for _ in range(2))
    assert second is first
    held, tensors[1].grad = tensors[1].grad, torch.zeros(5)
    third = optimizer._kernel(EPSILON, torch.device("meta")).table
    assert third is not first and third.places != first.places and held is not None
    optimizer.leave([False, True])
    assert optimizer._kernel(EPSILON, torch.device("meta")).table.tensors == 1


def test_the_result_does_not_depend_on_the_threads():
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        tensors, optimizer = build([(400, 300), (7,)])
        for tensor, gradient in zip(tensors, gradients([(400, 300), (7,)], 1), strict=True):
            tensor.grad = gradient
        optimizer.step()
        results.append([tensor.detach().clone() for tensor in tensors])
    torch.set_num_threads(1)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_tensor_in_parts_is_clipped_as_a_whole():
    """Two parts of one tensor with very different gradients, and a copy that must not be counted twice."""
    whole = torch.nn.Parameter(torch.ones(8))
    parts = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(5)), torch.nn.Parameter(torch.ones(5))]
    sharding = Sharding(
        slots=torch.tensor([0, 0, 0]), counted=torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64),
        sizes=torch.tensor([8.0], dtype=torch.float64), sum_over_ranks=lambda _: None,
    )  # fmt: skip
    options = {"betas": BETAS, "epsilon": EPSILON, "peak_rate": PEAK}
    one, three = StableAdamW([{"params": [whole]}], **options), StableAdamW([{"params": parts}], **options)
    three.sharding = sharding
    for step in range(1, 4):
        gradient = torch.tensor([1e3 if step == 3 else 1.0] * 3 + [1e-3] * 5)
        whole.grad = gradient
        parts[0].grad, parts[1].grad, parts[2].grad = gradient[:3].clone(), gradient[3:].clone(), gradient[3:].clone()
        one.step()
        three.step()
    assert torch.equal(whole, torch.cat([parts[0], parts[1]]))
    assert torch.equal(parts[1], parts[2])


def test_every_tensor_needs_a_gradient():
    tensors, optimizer = build([(2, 2)])
    with pytest.raises(RuntimeError, match="gradient for every parameter"):
        optimizer.step()
    assert tensors[0].grad is None
