"""The device module holds up what Megatron-Core relies on; this fails when an upgrade relies on something else."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from megatron_ettin.parallel.device import (
    FP32_PRODUCT,
    Device,
    deterministic_kernels,
    limit_threads,
    prepare,
    product_error,
)
from megatron_ettin.parallel.groups import Groups

MEGATRON = "0.16.1"
"""The version whose calls were checked."""
REPLACED = {
    "current_device", "synchronize", "current_stream", "default_stream",
    "get_rng_state", "set_rng_state", "manual_seed",
}  # fmt: skip
"""Functions of torch.cuda that the device module replaces."""
HARMLESS = {"Stream", "stream", "amp", "empty_cache", "HalfTensor", "FloatTensor", "BFloat"}
"""Type names, functions that do nothing without a device, and streams that only overlapped GPU copies use."""
PATH = (
    "pipeline_parallel/schedules.py",
    "pipeline_parallel/p2p_communication.py",
    "optimizer/optimizer.py",
    "optimizer/distrib_optimizer.py",
    "optimizer/clip_grads.py",
    "distributed/param_and_grad_buffer.py",
    "distributed/distributed_data_parallel.py",
    "tensor_parallel/mappings.py",
    "tensor_parallel/layers.py",
)
"""The modules of Megatron-Core that a training step runs through."""


@pytest.fixture(autouse=True)
def without_cuda(groups: Groups) -> None:
    if torch.cuda.is_available():
        pytest.skip("the module changes nothing where CUDA is")


def test_this_is_the_version_that_was_checked() -> None:
    assert metadata.version("megatron-core") == MEGATRON


def test_deterministic_kernels_are_asked_of_a_gpu_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    gpu = Device(kind="cuda", backend="nccl", torch_device=torch.device("meta"))
    for device, wanted, expected in ((gpu, True, True), (gpu, False, False), (prepare(), True, False)):
        with deterministic_kernels(device, wanted):
            assert torch.are_deterministic_algorithms_enabled() == expected
        assert not torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_tensors_asked_for_on_cuda_are_made_on_the_cpu() -> None:
    made = [
        torch.zeros(2, device="cuda"),
        torch.empty(2, device="cuda:0", pin_memory=True),
        torch.tensor([1.0, 2.0], device=torch.device("cuda")),
        torch.zeros(2, device=torch.cuda.current_device()),
        torch.zeros(2).cuda(),
    ]
    assert all(tensor.device.type == "cpu" for tensor in made)


def test_type_strings_are_those_that_megatron_compares() -> None:
    assert torch.zeros(1).type() == "torch.cuda.FloatTensor"
    assert torch.zeros(1, dtype=torch.bfloat16).type() == "torch.cuda.BFloat16Tensor"
    assert torch.zeros(1).type(torch.float64).dtype == torch.float64


def test_the_generator_of_cuda_is_that_of_the_cpu() -> None:
    from megatron.core.tensor_parallel.random import get_cuda_rng_tracker

    state = torch.cuda.get_rng_state()
    drawn = torch.rand(3)
    torch.cuda.set_rng_state(state)
    assert torch.equal(torch.rand(3), drawn)
    with get_cuda_rng_tracker().fork():
        inside = torch.rand(3)
    torch.cuda.set_rng_state(state)
    assert torch.equal(torch.rand(3), drawn)
    assert not torch.equal(inside, drawn)


@pytest.mark.parametrize("name", PATH)
def test_megatron_asks_cuda_for_nothing_else(name: str) -> None:
    import megatron.core

    source = (Path(inspect.getfile(megatron.core)).parent / name).read_text()
    asked = set(re.findall(r"torch\.cuda\.([A-Za-z_]+)", source))
    assert asked <= REPLACED | HARMLESS, f"{name} asks for {asked - REPLACED - HARMLESS}"


def test_prepare_again_gives_the_same_device(groups: Groups) -> None:
    assert prepare() == groups.device == Device(kind="cpu", backend="gloo", torch_device=torch.device("cpu"))


def test_the_module_changes_nothing_where_cuda_is() -> None:
    """A stand-in for CUDA: `prepare` must take the GPU's path and leave torch alone."""
    program = """
import torch
from unittest import mock
before = torch.cuda.current_device, torch.cuda.get_rng_state, torch.zeros(1).type()
with mock.patch("torch.cuda.is_available", lambda: True), mock.patch("torch.cuda.device_count", lambda: 1):
    with mock.patch("torch.cuda.set_device") as chosen:
        from megatron_ettin.parallel.device import prepare
        device = prepare()
chosen.assert_called_once_with(0)
assert (device.kind, device.backend, str(device.torch_device)) == ("cuda", "nccl", "cuda:0")
assert before == (torch.cuda.current_device, torch.cuda.get_rng_state, torch.zeros(1).type())
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_fp32_products_are_true_fp32(groups: Groups) -> None:
    assert product_error() < FP32_PRODUCT


def test_threads_are_limited_when_asked_and_left_alone_otherwise() -> None:
    before = torch.get_num_threads()
    try:
        limit_threads(before + 1)
        assert torch.get_num_threads() == before + 1
        limit_threads(0)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
