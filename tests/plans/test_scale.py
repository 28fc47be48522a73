"""Plans and stages at a scale: every knot follows, on whole steps; what would be too short is refused."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from megatron_ettin.config import rules
from megatron_ettin.config.derived import batch_sizes
from megatron_ettin.config.recipes import STAGES, recipe
from megatron_ettin.config.shapes import SHAPES
from megatron_ettin.errors import ConfigError
from megatron_ettin.plans.plan import load_plan
from megatron_ettin.plans.resolve import Choices, resolve
from megatron_ettin.plans.scale import FEWEST_STEPS, scaled, steps_of

SIZES = sorted(SHAPES)
HALF_A_STEP = 0.5
"""Rounding to the nearest step moves a knot by at most this much."""


@settings(max_examples=60, deadline=None)
@example("tiny", "cross", 1e-5)
@given(st.sampled_from(SIZES), st.sampled_from(STAGES), st.floats(1e-5, 3.0))
def test_knots_fall_on_the_nearest_step_of_the_rows_of_the_size(size: str, stage: str, scale: float) -> None:
    whole = recipe(size, "mlm", stage)
    run = scaled(whole, scale)
    step = run.batch.rows * run.data.row_length
    assert (run.batch.rows, run.data, run.model) == (whole.batch.rows, whole.data, whole.model)
    assert abs(run.schedule.tokens - scale * whole.schedule.tokens) <= HALF_A_STEP
    for name in ("warmup_tokens", "decay_tokens"):
        before, after = (getattr(config.schedule, name) for config in (whole, run))
        assert after % step == 0 or scale == 1.0
        assert abs(after - before * scale) / step <= HALF_A_STEP or after == step
        assert (after == 0) == (before == 0)
    if steps_of(run) >= FEWEST_STEPS:
        assert rules.problems(run) == []
    if run.batch.warmup_tokens:
        assert sum(batch_sizes(run.batch)[:-1]) * run.data.row_length <= run.batch.warmup_tokens
        assert run.batch.rows % run.batch.warmup_increment == 0


def test_a_scale_of_one_is_the_recipe() -> None:
    assert scaled(recipe("150m", "mlm", "pretrain"), 1.0) == recipe("150m", "mlm", "pretrain")


@pytest.mark.parametrize("name", ["ettin-paper", "modernbert", "clm-then-mlm", "mmbert"])
@pytest.mark.parametrize("size", ["tiny", "17m"])
def test_the_scale_that_is_named_works(name: str, size: str) -> None:
    with pytest.raises(ConfigError, match=r"fewer than 8") as caught:
        resolve(load_plan(name), Choices(size=size, scale=1e-7))
    named = float(str(caught.value).rpartition("--scale ")[2].split()[0])
    stages = resolve(load_plan(name), Choices(size=size, scale=named))
    assert min(steps_of(stage.config) for stage in stages) >= FEWEST_STEPS
