"""Learning rates at their boundaries, against the formulas of the recipe."""

from __future__ import annotations

import math

import pytest

from megatron_ettin.config.recipes import recipe
from megatron_ettin.config.run import ScheduleConfig
from megatron_ettin.schedule import START_FACTOR, learning_rate_factor

B = 10**9
ROUNDING = 1e-12
"""A few operations in double precision."""


def rate(stage: str, tokens: float, size: str = "150m") -> float:
    """Learning rate as a share of the pretraining peak."""
    plan = recipe(size, "mlm", stage).schedule
    peak = recipe(size, "mlm", "pretrain").schedule.peak_rate
    return plan.peak_rate * learning_rate_factor(plan, tokens) / peak


@pytest.mark.parametrize(
    ("stage", "tokens", "expected"),
    [
        ("pretrain", 0, START_FACTOR),
        ("pretrain", 1.5 * B, 0.5),
        ("pretrain", 3 * B - 1, 1 - 1 / (3 * B)),
        ("pretrain", 3 * B, 1.0),
        ("pretrain", 1700 * B, 1.0),
        ("pretrain", 1800 * B, 1.0),
        ("extension", 0, 1.0),
        ("extension", 62.5 * B, 0.75),
        ("extension", 160 * B, 0.5 + 0.5 * (1 - 0.8)),
        ("extension", 250 * B, 0.5),
        ("extension", 300 * B, 0.5),
        ("decay", 0, 0.5),
        ("decay", 12.5 * B, 0.5 * (0.04 + 0.96 * 0.5)),
        ("decay", 50 * B, 0.02),
        ("cross", 0, 0.5 * START_FACTOR),
        ("cross", 1.5 * B, 0.25),
        ("cross", 3 * B, 0.5),
        ("cross", 40 * B, 0.5),
        ("cross", 45 * B, 0.5 * 0.51),
        ("cross", 50 * B, 0.01),
        ("cross", 60 * B, 0.01),
    ],
)
def test_the_rate_is_the_recipes_at_every_boundary(stage: str, tokens: float, expected: float) -> None:
    assert math.isclose(rate(stage, tokens), expected, rel_tol=ROUNDING)


def test_the_stages_join_without_a_jump() -> None:
    assert rate("pretrain", 1700 * B) == rate("extension", 0)
    assert math.isclose(rate("extension", 250 * B), rate("decay", 0))


@pytest.mark.parametrize("stage", ["pretrain", "extension", "decay", "cross"])
def test_the_rate_is_continuous_and_positive(stage: str) -> None:
    plan = recipe("1b", "clm", stage).schedule
    steps = 20_000
    values = [learning_rate_factor(plan, plan.tokens * i / steps) for i in range(steps + 1)]
    jumps = [abs(after - before) for before, after in zip(values, values[1:], strict=False)]
    steepest = math.sqrt(1 / steps) if plan.shape == "one_minus_sqrt" else plan.tokens / steps / 10**9
    assert max(jumps) <= steepest and min(values) > 0 and max(values) == 1.0


def test_a_rise_that_is_the_whole_stage_ends_at_the_peak() -> None:
    plan = ScheduleConfig(tokens=100, peak_rate=1.0, warmup_tokens=100)
    assert [learning_rate_factor(plan, tokens) for tokens in (25, 50, 100)] == [0.25, 0.5, 1.0]
