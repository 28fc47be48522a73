"""The micro-batch that a GPU's memory holds is the largest that is allowed, and changes nothing that is learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from megatron_ettin.commands.run_flags import RunFlags, parse_flags
from megatron_ettin.config.codec import fingerprint
from megatron_ettin.config.recipes import recipe
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.shapes import PUBLISHED_SIZES
from megatron_ettin.cost.fit import ENOUGH_TOKENS, EVEN, FILLED, FRAMEWORK_BYTES, fitting_micro_batch, with_micro_batch
from megatron_ettin.cost.hardware import GIBI
from megatron_ettin.cost.memory import heaviest
from megatron_ettin.errors import ConfigError
from megatron_ettin.train import run as run_module
from tests.train.runs import config_of, go, losses, write_toy

SAME_LOSS = 1e-5
"""Relative, in fp32: the same sums in another order."""


def held(config: RunConfig, rows: int) -> int:
    return heaviest(with_micro_batch(config, rows))[1].total + FRAMEWORK_BYTES


@pytest.mark.parametrize("size", PUBLISHED_SIZES)
@pytest.mark.parametrize("stage", ["pretrain", "extension", "decay"])
@pytest.mark.parametrize("data", [1, 3, 8, 64])
def test_the_largest_divisor_that_fits_and_leaves_few_without_rows_is_taken(size: str, stage: str, data: int) -> None:
    config = recipe(size, "clm", stage)
    config = replace(config, layout=replace(config.layout, data=data))
    chosen = fitting_micro_batch(config, 80 * GIBI)
    share = -(-config.batch.rows // data)
    busiest = {
        rows: -(-config.batch.rows // (rows * data)) * rows
        for rows in range(1, share + 1)
        if config.batch.rows % rows == 0 and rows * config.data.row_length <= max(ENOUGH_TOKENS, config.data.row_length)
        and held(config, rows) <= FILLED * 80 * GIBI
    }  # fmt: skip
    assert chosen == max(rows for rows, most in busiest.items() if most <= EVEN * min(busiest.values()))


def test_a_micro_batch_that_would_leave_ranks_without_rows_is_not_taken() -> None:
    """128 rows are the most that pay: 22 micro-batches, of which three of eight ranks would have one fewer."""
    config = recipe("17m", "mlm", "pretrain")
    shared = replace(config, layout=replace(config.layout, data=8))
    assert (fitting_micro_batch(config, 80 * GIBI), fitting_micro_batch(shared, 80 * GIBI)) == (128, 88)


def test_a_model_that_does_not_fit_has_no_micro_batch() -> None:
    assert fitting_micro_batch(recipe("1b", "mlm", "pretrain"), 8 * GIBI) == 0
    with pytest.raises(ConfigError, match=r"not one row of 1024 tokens fits into the 8 GiB.*--tensor"):
        run_module.fitted_to(recipe("1b", "mlm", "pretrain"), 8 * GIBI)


def test_a_flag_that_names_the_micro_batch_is_kept() -> None:
    given, _ = parse_flags(["17m", "mlm", "pretrain", "--micro-batch", "8"], RunFlags, "estimate")
    assert not given.layout.fit_micro_batch
    assert run_module.fitted_to(given, 80 * GIBI) == (given, "")
    open_choice, _ = parse_flags(["17m", "mlm", "pretrain"], RunFlags, "estimate")
    fitted, line = run_module.fitted_to(open_choice, 80 * GIBI)
    assert fitted.layout.micro_batch_rows == 128
    assert line.startswith("micro-batches of 128 rows: ") and "--layout.micro-batch-rows sets another" in line
    assert fingerprint(fitted) == fingerprint(open_choice)


def test_a_run_takes_what_fits_and_learns_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(write_toy(tmp_path), steps=3)
    found = []
    for name, memory in (("chosen", None), ("fitted", 80 * GIBI)):
        monkeypatch.setattr(run_module, "device_memory", lambda device, memory=memory: memory)
        go(config, tmp_path / name)
        found.append(losses(tmp_path / name))
    assert found[0] == pytest.approx(found[1], rel=SAME_LOSS)
    assert "micro-batches of 4 rows" in (tmp_path / "fitted" / "console.log").read_text()
