"""What only a GPU can show: numerics of its kernels, waits of the host, memory. Run with -m gpu."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from benchmarks.gpu_parts.machine import Machine, Scale
from benchmarks.gpu_parts.numerics import numerics
from benchmarks.gpu_parts.ours import Ours
from benchmarks.gpu_parts.rows import Row
from benchmarks.gpu_parts.speed import memory_values
from megatron_ettin.config.run import LayoutConfig
from megatron_ettin.errors import ConfigError
from megatron_ettin.parallel.groups import finish, initialize

pytestmark = pytest.mark.gpu

MEMORY = (0.7, 1.3)
"""Peak of tensors over the estimate, which leaves out temporary tensors of the kernels."""
KERNELS = ("auto", "torch")
SAME_LOSS = 2e-3
"""Relative: torch's kernels round to bf16 between operations where ours round once."""
ONE_WAIT = 1
"""The step's totals are read once."""


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    yield Machine(groups=initialize(LayoutConfig()), scale=Scale())
    finish()


def checked(row: Row, machine: Machine) -> None:
    try:
        values = numerics(row, machine)
    except (ConfigError, ImportError) as error:
        pytest.skip(str(error))
    assert values["met"], values


@pytest.mark.parametrize("objective", ["mlm", "clm"])
@pytest.mark.parametrize("backend", ["auto", "sdpa", "varlen", "flash", "te"])
def test_every_back_end_is_the_definition_up_to_rounding(machine: Machine, backend: str, objective: str) -> None:
    checked(Row(kind="numerics", backend=backend, objective=objective), machine)


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_fp32_is_the_definition(machine: Machine, objective: str) -> None:
    checked(Row(kind="numerics", precision="fp32", backend="sdpa", objective=objective, compile=False), machine)


@pytest.mark.parametrize("recipe", ["current", "delayed", "blocks"])
def test_fp8_loses_little(machine: Machine, recipe: str) -> None:
    checked(Row(kind="numerics", precision="fp8", fp8_recipe=recipe), machine)


@pytest.mark.parametrize("objective", ["mlm", "clm"])
@pytest.mark.parametrize("compiled", [True, False])
def test_a_step_waits_for_the_gpu_once(machine: Machine, objective: str, compiled: bool) -> None:
    side = Ours(Row(kind="step", objective=objective, compile=compiled), machine, rows=8)
    for _ in range(3):
        side.step()
    assert machine.host_waits(side.step) == ONE_WAIT


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_a_step_by_own_kernels_is_that_by_torchs(machine: Machine, objective: str) -> None:
    rows = [Row(kind="step", objective=objective, compile=False, kernels=name) for name in KERNELS]
    own, other = (Ours(row, machine, rows=2) for row in rows)
    for _ in range(3):
        assert own.step().loss == pytest.approx(other.step().loss, rel=SAME_LOSS)


@pytest.mark.parametrize("size", ["17m", "150m"])
def test_memory_is_as_estimated(machine: Machine, size: str) -> None:
    machine.forget()
    side = Ours(Row(kind="step", size=size), machine, rows=32)
    side.step()
    machine.count_peak()
    side.step()
    ratio = memory_values(side.config, machine)["peak_to_estimate"]
    assert ratio is not None and MEMORY[0] < ratio < MEMORY[1]
