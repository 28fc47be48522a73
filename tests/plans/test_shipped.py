"""The plans that ship: every knot of each, against figures of the papers and published settings."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from megatron_ettin.config.recipes import recipe
from megatron_ettin.config.run import RunConfig, StartConfig
from megatron_ettin.plans.plan import SHIPPED, load_plan, shipped_names
from megatron_ettin.plans.resolve import Choices, Stage, resolve
from megatron_ettin.schedule import learning_rate_factor

B = 10**9
MODEL = StartConfig(huggingface="model")
RATE_TOLERANCE = 1e-12
"""Products of a rate and a factor in float64."""


def stages_of(name: str, **choices: object) -> tuple[Stage, ...]:
    plan = load_plan(name)
    start = MODEL if plan.starts_from == "model" else StartConfig()
    return resolve(plan, Choices(**{"size": "150m", "start": start} | choices))  # type: ignore[arg-type]


def knots(run: RunConfig) -> tuple[object, ...]:
    """Objective, tokens, rise, fall, growth of the batch, rows, lengths, share of masks, bases."""
    schedule, data, model = run.schedule, run.data, run.model
    return (
        run.objective, schedule.tokens, schedule.shape, schedule.warmup_tokens, schedule.decay_tokens,
        run.batch.warmup_tokens, run.batch.rows, data.row_length, data.piece_length, data.mask_share,
        model.rope_base_global, model.rope_base_local,
    )  # fmt: skip


def rates(run: RunConfig, *shares: float) -> list[float]:
    return [
        run.schedule.peak_rate * learning_rate_factor(run.schedule, share * run.schedule.tokens) for share in shares
    ]


FLAT, FALL, BOTH = "warmup_stable", "one_minus_sqrt", "trapezoid"
PRETRAIN = ("mlm", 1700 * B, FLAT, 3 * B, 0, 50 * B, 2816, 1024, 1024, 0.30, 1e4, 1e4)
CROSS = (50 * B, BOTH, 3 * B, 10 * B, 0, 736, 8192, 7999, 0.15, 1.6e5, 1.6e5)
KNOTS: dict[str, list[tuple[object, ...]]] = {
    "ettin-paper": [
        PRETRAIN,
        ("mlm", 250 * B, FALL, 0, 0, 0, 608, 8192, 7999, 0.30, 1.6e5, 1.6e5),
        ("mlm", 50 * B, FALL, 0, 0, 0, 736, 8192, 7999, 0.15, 1.6e5, 1.6e5),
    ],
    "ettin-released": [
        ("mlm", 1700 * B, FLAT, 3 * B, 0, 0, 2816, 1024, 1024, 0.30, 1e4, 1e4),
        ("mlm", 250 * B, FALL, 0, 0, 0, 608, 8192, 7999, 0.30, 1.6e5, 1.6e5),
        ("mlm", 50 * B, FALL, 0, 0, 0, 736, 8192, 7999, 0.15, 1.6e5, 1.6e5),
    ],
    "modernbert": [
        PRETRAIN,
        ("mlm", 250 * B, FLAT, 0, 0, 0, 608, 8192, 7999, 0.30, 1.6e5, 1e4),
        ("mlm", 50 * B, FALL, 0, 0, 0, 736, 8192, 7999, 0.30, 1.6e5, 1e4),
    ],
    "mmbert": [
        ("mlm", 2300 * B, FLAT, 3 * B, 0, 60 * B, 2816, 1024, 1024, 0.30, 1e4, 1e4),
        ("mlm", 600 * B, FLAT, 0, 0, 0, 608, 8192, 7999, 0.15, 1.6e5, 1.6e5),
        ("mlm", 100 * B, FALL, 0, 0, 0, 736, 8192, 7999, 0.05, 1.6e5, 1.6e5),
    ],
    "clm-then-mlm": [
        ("clm", 850 * B, FLAT, 3 * B, 0, 50 * B, 2816, 1024, 1024, 0.30, 1e4, 1e4),
        ("mlm", 850 * B, FLAT, 0, 0, 0, 2816, 1024, 1024, 0.30, 1e4, 1e4),
    ],
    "clm-detour": [("clm", *CROSS), ("mlm", *CROSS)],
    "cross": [("mntp", *CROSS)],
    "pretrain": [PRETRAIN],
    "extension": [("mlm", 250 * B, FALL, 0, 0, 0, 608, 8192, 7999, 0.30, 1.6e5, 1.6e5)],
    "decay": [("mlm", 50 * B, FALL, 0, 0, 0, 736, 8192, 7999, 0.15, 1.6e5, 1.6e5)],
}
RATES = {
    "ettin-paper": [
        [0, 8e-4, 8e-4],
        [8e-4, 8e-4 * (1 - 0.5 * 0.5**0.5), 4e-4],
        [4e-4, 4e-4 * (1 - 0.96 * 0.5**0.5), 1.6e-5],
    ],
    "modernbert": [[0, 8e-4, 8e-4], [4e-4, 4e-4, 4e-4], [4e-4, 4e-4 * (1 - 0.96 * 0.5**0.5), 1.6e-5]],
    "mmbert": [[0, 8e-4, 8e-4], [8e-4, 8e-4, 8e-4], [8e-4, 8e-4 * (1 - 0.98 * 0.5**0.5), 1.6e-5]],
    "clm-then-mlm": [[0, 8e-4, 8e-4], [8e-4, 8e-4, 8e-4]],
    "clm-detour": [[0, 4e-4, 8e-6], [0, 4e-4, 8e-6]],
}  # fmt: skip
"""Learning rates at the start, in the middle and at the end of each stage, at 150m."""
CARRIED = {
    "ettin-paper": [(), ("weights", "optimizer"), ("weights", "optimizer")],
    "modernbert": [(), ("weights", "optimizer"), ("weights", "optimizer")],
    "mmbert": [(), ("weights", "optimizer"), ("weights", "optimizer")],
    "clm-then-mlm": [(), ("weights", "optimizer", "order")],
    "clm-detour": [("weights",), ("weights",)],
    "cross": [("weights",)],
}


def test_every_plan_that_ships_has_its_knots_here() -> None:
    assert set(shipped_names()) == set(KNOTS)


@pytest.mark.parametrize("name", KNOTS)
def test_the_knots_of_a_plan_are_those_of_its_source(name: str) -> None:
    stages = stages_of(name)
    assert [knots(stage.config) for stage in stages] == KNOTS[name]
    for stage, expected in zip(stages, RATES.get(name, []), strict=name in RATES):
        assert rates(stage.config, 0, 0.5, 1) == pytest.approx(expected, abs=RATE_TOLERANCE)
    if name in CARRIED:
        assert [stage.carries for stage in stages] == CARRIED[name]
    assert all(
        stage.config.start.carry_optimizer == ("optimizer" in stage.carries) for stage in stages if stage.carries
    )
    assert len(load_plan(name).source) > 10


def test_mmbert_has_its_optimizer_and_draws_languages_by_temperature() -> None:
    for stage, temperature in zip(stages_of("mmbert"), (0.7, 0.5, 0.3), strict=True):
        optimizer = stage.config.optimizer
        assert (optimizer.beta1, optimizer.beta2, optimizer.epsilon) == (0.9, 0.95, 1e-8)
        assert optimizer.weight_decay == 8e-5 and stage.config.data.temperature == temperature


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_the_paper_as_a_plan_is_the_recipe_stage_by_stage(objective: str) -> None:
    """The plan's runs are those of `pretrain SIZE OBJECTIVE STAGE`: same settings, same rows, same fingerprints."""
    for variant in ("paper", "released"):
        for stage in stages_of(f"ettin-{variant}", size="17m", objective=objective):
            assert stage.config == recipe("17m", objective, stage.name, variant)


def test_a_split_shares_the_tokens_and_reads_the_rows_of_one_run() -> None:
    for split in (0.25, 0.75):
        first, second = stages_of("clm-then-mlm", split=split)
        whole = recipe("150m", "mlm", "pretrain").schedule.tokens
        assert first.config.schedule.tokens == split * whole
        assert first.config.schedule.tokens + second.config.schedule.tokens == whole
        assert second.config.data.stage_number == 0 and first.config.data.stage_number == -1


def test_a_further_stage_of_one_kind_has_rows_of_its_own() -> None:
    first, second = stages_of("clm-detour")
    assert (first.config.data.stage_number, second.config.data.stage_number) == (-1, 17)


def test_plans_are_in_what_is_installed(root: Path) -> None:
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    (pattern,) = settings["megatron_ettin.plans"]
    files = {path.relative_to(SHIPPED.parent).as_posix() for path in SHIPPED.iterdir()}
    assert files == {path.relative_to(SHIPPED.parent).as_posix() for path in SHIPPED.parent.glob(pattern)}
