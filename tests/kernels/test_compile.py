"""`compute.compile` gives what the model without it gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import Tensor

from megatron_ettin.errors import ConfigError
from megatron_ettin.kernels import pointwise
from megatron_ettin.model import logits as logits_module
from megatron_ettin.model.build import build_model
from megatron_ettin.model.canonical import full_state
from megatron_ettin.model.device_batch import DeviceBatch
from megatron_ettin.parallel.groups import Groups
from tests.model.inputs import PIECES, batch_of, run_of

CLOSE = 1e-5
"""Of a tensor's norm: the same sums in fp32, in another order and with fused multiplications."""
EXACT = 1e-12
"""Of the largest number, in fp64."""


@pytest.fixture(autouse=True)
def fresh_compilations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    pointwise.one_kernel.cache_clear()


def outcome(groups: Groups, objective: str, compiled: bool) -> dict[str, Tensor]:
    """Loss of every label and every gradient of a small model."""
    config = run_of(objective)
    config = replace(config, compute=replace(config.compute, compile=compiled))
    (model,) = build_model(config, groups)
    losses = model(DeviceBatch.from_batch(batch_of(PIECES, config.model.vocabulary), groups))
    losses.sum().backward()
    for parameter in model.parameters():
        parameter.main_grad = parameter.grad
    return {"loss": losses.detach(), **full_state([model], groups, what="gradients")}


def test_a_compiled_model_computes_what_the_plain_one_does(groups: Groups) -> None:
    calls: list[str] = []
    with mock.patch.object(torch, "compile", noted(calls)):
        for objective in ("mlm", "clm"):
            plain, compiled = (outcome(groups, objective, compiled) for compiled in (False, True))
            for name, expected in plain.items():
                assert float((compiled[name] - expected).norm()) <= CLOSE * float(expected.norm()), (objective, name)
    assert sorted(calls) == ["gated_gelu", "rotate_"]


def noted(calls: list[str]):
    """torch.compile, with the names of what it is given kept."""
    compile_function = torch.compile

    def compile_and_note(function, **options):
        calls.append(function.__name__)
        return compile_function(function, **options)

    return compile_and_note


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_compiled_passes_over_the_logits_are_the_plain_ones_whatever_the_number_of_labels(
    groups: Groups, dtype: torch.dtype
) -> None:
    recompilations = []
    for labels in (7, 31, 2):
        torch.manual_seed(labels)
        logits, bias = torch.randn(labels, 100, dtype=dtype), torch.randn(100, dtype=dtype)
        ids = torch.randint(40, 140, (labels,))
        results = []
        for passes in (logits_module._PlainPasses, logits_module._CompiledPasses):
            own = logits.clone()
            both = passes(own, bias, ids, 50)
            top, total, label = both.statistics()
            results.append([top, total, label, both.gradients_(total.log() + top), own])
        for got, expected in zip(*results, strict=True):
            tolerance = EXACT if dtype == torch.float64 else 2.0**-8  # the gradients are written in bf16
            assert float((got - expected).abs().max()) <= tolerance * max(1.0, float(expected.abs().max()))
        recompilations.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert 0 < recompilations[0] == recompilations[-1]


def test_where_torch_cannot_compile_the_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._dynamo, "is_dynamo_supported", lambda: False)
    with pytest.raises(ConfigError, match=r"compute\.compile"):
        pointwise.pointwise("compiled")
