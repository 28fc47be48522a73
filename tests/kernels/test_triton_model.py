"""A model by own kernels for GPUs, interpreted on a CPU, computes what the model by other kernels does."""

from __future__ import annotations

import os
import sys
from unittest import mock

import pytest
import torch

from megatron_ettin.config.run import ComputeConfig, RunConfig
from megatron_ettin.errors import ConfigError
from megatron_ettin.kernels import kind
from megatron_ettin.model import logits
from megatron_ettin.model.attention.choice import Choice, Installed
from megatron_ettin.model.build import build_model
from megatron_ettin.model.device_batch import DeviceBatch
from megatron_ettin.parallel.groups import Groups
from tests.model import stand_ins
from tests.model.inputs import batch_of, run_of, small_model

pytest.importorskip("triton", reason="triton is not installed")
if "TRITON_INTERPRET" not in os.environ:
    pytest.skip("kernels run on the GPU here and are not interpreted: tests/gpu has them", allow_module_level=True)

from megatron_ettin.kernels.triton import rotary

PIECES = (1, 9, 22)
SAME = 2e-5
"""Of a tensor's largest gradient: the same sums in fp32 in another order."""


@pytest.mark.parametrize(("objective", "recompute"), [("mlm", "none"), ("clm", "none"), ("mlm", "full")])
def test_loss_and_gradients_are_those_of_other_kernels(groups: Groups, objective: str, recompute: str) -> None:
    shape = small_model(layers=2, output_dropout=0.1)
    config = run_of(objective, shape, row_length=sum(PIECES), recompute=recompute)
    losses, gradients = [], []
    for name in ("plain", "own"):
        with (
            mock.patch("megatron_ettin.model.build.kernel_kind", lambda *_, name=name: name),
            mock.patch.object(logits, "is_native", lambda x, name=name: name == "plain"),
        ):
            (model,) = build_model(config, groups)
            loss_l = model(DeviceBatch.from_batch(batch_of(PIECES, 250), groups, step=3))
            loss_l.sum().backward()
        losses.append(loss_l.detach())
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=1e-6)
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[0].items():
        assert float((gradients[1][name] - expected).abs().max()) <= SAME * float(expected.abs().max()), name


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_with_an_attention_kernel_that_takes_three_tensors_nothing_changes(groups: Groups, objective: str) -> None:
    """As on a GPU: flash-attn takes queries, keys and values one by one, and their gradients are joined."""
    calls: stand_ins.Calls = []
    config = run_of(objective, small_model(layers=2), row_length=sum(PIECES))
    outcomes = []
    for name in ("plain", "own"):
        with (
            mock.patch("megatron_ettin.model.build.kernel_kind", lambda *_, name=name: name),
            mock.patch("megatron_ettin.model.build.choices", by_flash),
            mock.patch.dict(sys.modules, {"flash_attn": stand_ins.flash_attn(calls)}),
            mock.patch("megatron_ettin.kernels.triton.rotary.turn_back", wraps=rotary.turn_back) as turn_back,
        ):
            (model,) = build_model(config, groups)
            model(DeviceBatch.from_batch(batch_of(PIECES, 250), groups)).sum().backward()
        assert turn_back.call_count == (config.model.layers if name == "own" else 0)
        outcomes.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert len(calls) == 2 * config.model.layers
    for name, expected in outcomes[0].items():
        assert float((outcomes[1][name] - expected).abs().max()) <= SAME * float(expected.abs().max()), name


def by_flash(config: RunConfig, _: Installed) -> tuple[Choice, ...]:
    return tuple(Choice(layer=layer, backend="flash", reason="") for layer in range(config.model.layers))


@pytest.mark.parametrize(
    ("compute", "device", "expected"),
    [
        (ComputeConfig(), "cuda", "own"),
        (ComputeConfig(compile=True), "cuda", "own"),
        (ComputeConfig(kernels="torch"), "cuda", "plain"),
        (ComputeConfig(kernels="torch", compile=True), "cuda", "compiled"),
        (ComputeConfig(), "cpu", "plain"),
        (ComputeConfig(compile=True), "cpu", "compiled"),
    ],
)
def test_own_kernels_are_for_gpus_and_for_those_who_do_not_want_others(
    compute: ComputeConfig, device: str, expected: str
) -> None:
    assert kind.kernel_kind(compute, device) == expected


def test_where_triton_is_missing_the_log_says_what_would_be_faster() -> None:
    with mock.patch.object(kind, "find_spec", lambda name: None):
        found = kind.kernel_kind(ComputeConfig(), "cuda")
        assert found == "plain"
        assert "one by one" in kind.describe(found, "cuda") and "install triton" in kind.describe(found, "cuda")
    assert "leave out --compute.kernels torch" in kind.describe("compiled", "cuda")
    assert "Triton" in kind.describe("own", "cuda")


def test_a_triton_that_cannot_compile_is_told_before_the_first_step() -> None:
    kind.require_triton(torch.device("cpu"))
    with (
        mock.patch("megatron_ettin.kernels.triton.rotary.launch", side_effect=RuntimeError("no C compiler")),
        pytest.raises(ConfigError, match=r"no C compiler.*--compute.kernels torch"),
    ):
        kind.require_triton(torch.device("cpu"))
