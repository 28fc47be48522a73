"""The recipe's figures, against the table of the paper and the published artifacts."""

from __future__ import annotations

import pytest

from megatron_ettin.config import rules
from megatron_ettin.config.codec import differences, flatten
from megatron_ettin.config.recipes import RELEASED, STAGES, VARIANTS, recipe
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.shapes import PUBLISHED_SIZES, SHAPES
from megatron_ettin.errors import ConfigError

B = 10**9
# size: layers, hidden, intermediate, heads, peak rate, weight decay, rate warmup, batch warmup (tokens in billions)
PAPER = {
    "17m": (7, 256, 384, 4, 3e-3, 3e-4, 4, 125),
    "32m": (10, 384, 576, 6, 3e-3, 3e-4, 4, 100),
    "68m": (19, 512, 768, 8, 3e-3, 3e-4, 3, 75),
    "150m": (22, 768, 1152, 12, 8e-4, 1e-5, 3, 50),
    "400m": (28, 1024, 2624, 16, 5e-4, 1e-5, 2, 10),
    "1b": (28, 1792, 3840, 28, 5e-4, 5e-5, 2, 3),
}
PUBLISHED_TOKENS_PER_STEP = {"pretrain": 2.836e6, "extension": 4.916e6, "decay": 6.090e6}
TOKENS_PER_STEP_TOLERANCE = 0.02
"""Rows are packed and come in multiples of 32, so a step is not the published one to the token."""


def stage_figures(run: RunConfig) -> tuple[object, ...]:
    return (
        run.data.row_length, run.data.piece_length, run.batch.rows, run.data.mask_share, run.model.rope_base_global,
        run.model.rope_base_local, run.schedule.shape, run.schedule.tokens, run.schedule.end_factor,
        run.schedule.warmup_tokens, run.schedule.decay_tokens, run.checkpoint.every_tokens, run.start.carry_optimizer,
        run.seed, run.data.seed,
    )  # fmt: skip


@pytest.mark.parametrize("size", PUBLISHED_SIZES)
@pytest.mark.parametrize("objective", ["mlm", "clm", "mntp"])
def test_every_stage_of_the_paper_has_its_figures(size: str, objective: str) -> None:
    layers, hidden, intermediate, heads, peak, decay, rise, growth = PAPER[size]
    for stage in STAGES:
        run = recipe(size, objective, stage)
        model = run.model
        assert (model.layers, model.hidden, model.intermediate, model.heads) == (layers, hidden, intermediate, heads)
        assert model.vocabulary == 50_368 and model.output_dropout == 0.1 and model.norm_epsilon == 1e-5
        assert (model.window, model.causal_window, model.global_every) == (64, 63, 3)
        assert run.optimizer.weight_decay == decay
        assert (run.optimizer.beta1, run.optimizer.beta2, run.optimizer.epsilon) == (0.9, 0.98, 1e-6)
        assert run.schedule.peak_rate == (peak if stage in ("pretrain", "extension") else peak / 2)
        assert run.batch.warmup_tokens == (growth * B if stage == "pretrain" else 0)
    long, saved = (8192, 7999), int(8.5 * B)
    assert stage_figures(recipe(size, objective, "pretrain")) == (
        1024, 1024, 2816, 0.3, 1e4, 1e4, "warmup_stable", 1700 * B, 1.0, rise * B, 0, saved, False, 21, 21,
    )  # fmt: skip
    assert stage_figures(recipe(size, objective, "extension")) == (
        *long, 608, 0.3, 1.6e5, 1.6e5, "one_minus_sqrt", 250 * B, 0.5, 0, 0, saved, True, 21, 21,
    )  # fmt: skip
    assert stage_figures(recipe(size, objective, "decay")) == (
        *long, 736, 0.15, 1.6e5, 1.6e5, "one_minus_sqrt", 50 * B, 0.04, 0, 0, saved, True, 21, 21,
    )  # fmt: skip
    assert stage_figures(recipe(size, objective, "cross")) == (
        *long, 736, 0.15, 1.6e5, 1.6e5, "trapezoid", 50 * B, 0.02, 3 * B, 10 * B, 10 * B, False, 210, 21,
    )  # fmt: skip


# what the published artifacts show: (size, objective, stage): {field: value}; objective "*" is both
ROPE = "model.rope_base_local"
RELEASED_FIGURES: dict[tuple[str, str, str], dict[str, object]] = {
    ("17m", "*", "extension"): {ROPE: 1e4},
    ("17m", "clm", "decay"): {ROPE: 1e4},
    ("32m", "clm", "decay"): {ROPE: 1e4},
    ("68m", "clm", "decay"): {ROPE: 1e4},
    ("400m", "clm", "decay"): {ROPE: 1e4},
    ("1b", "*", "pretrain"): {"schedule.tokens": 566_667_000_000},
    ("1b", "*", "extension"): {"schedule.tokens": 83_333_000_000},
    ("1b", "*", "decay"): {"schedule.tokens": 16_667_000_000},
    ("1b", "*", "cross"): {
        "schedule.tokens": 16_667_000_000,
        "schedule.warmup_tokens": 1_000_000_000,
        "schedule.decay_tokens": 3_333_000_000,
        "checkpoint.every_tokens": 3_333_000_000,
    },
}


@pytest.mark.parametrize("size", PUBLISHED_SIZES)
@pytest.mark.parametrize("objective", ["mlm", "clm", "mntp"])
@pytest.mark.parametrize("stage", STAGES)
def test_the_released_variant_differs_exactly_where_the_artifacts_do(size: str, objective: str, stage: str) -> None:
    paper, released = recipe(size, objective, stage), recipe(size, objective, stage, "released")
    expected: dict[str, object] = {"variant": "released"}
    if stage == "pretrain":
        expected["batch.warmup_tokens"] = 0
    if objective == "clm":
        expected["model.causal_window"] = 64
    expected |= RELEASED_FIGURES.get((size, "*", stage), {}) | RELEASED_FIGURES.get((size, objective, stage), {})
    assert {item.path: item.new for item in differences(paper, released)} == expected


def test_every_row_of_the_exception_table_acts_and_says_why() -> None:
    runs = [recipe(size, o, stage) for size in PUBLISHED_SIZES for o in ("mlm", "clm") for stage in STAGES]
    for row in RELEASED:
        touched = [run for run in runs if row.applies(run)]
        assert touched, row
        assert all(flatten(run)[row.field] != row.value for run in touched), f"{row} changes nothing"
        assert len(row.reason) > 30


@pytest.mark.parametrize("stage", ["pretrain", "extension", "decay"])
def test_tokens_per_step_are_those_of_the_published_runs(stage: str) -> None:
    run = recipe("150m", "mlm", stage)
    published = PUBLISHED_TOKENS_PER_STEP[stage]
    assert abs(run.batch.rows * run.data.row_length / published - 1) < TOKENS_PER_STEP_TOLERANCE
    assert run.batch.rows % 32 == 0


def test_the_members_of_a_pair_differ_in_the_objective_alone() -> None:
    for size in SHAPES:
        for stage in STAGES:
            pair = differences(recipe(size, "mlm", stage), recipe(size, "clm", stage))
            assert [item.path for item in pair] == ["objective"]


def test_every_recipe_keeps_every_rule() -> None:
    for size in SHAPES:
        for objective in ("mlm", "clm", "mntp"):
            for stage in STAGES:
                for variant in VARIANTS:
                    assert rules.problems(recipe(size, objective, stage, variant), world_size=8) == []


def test_the_tiny_size_divides_every_small_layout() -> None:
    tiny = SHAPES["tiny"]
    assert (tiny.layers - 1) % tiny.global_every == 0
    assert all(part % 4 == 0 for part in (tiny.heads, tiny.hidden, tiny.intermediate))
    assert tiny.layers >= 2 * 2 and tiny.layers >= 4, "two interleaved chunks on two ranks, one on four"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("17n", "mlm", "pretrain", "paper"), "no size '17n'; did you mean '17m'?"),
        (("18m", "mlm", "pretrain", "paper"), "no size '18m'; did you mean '17m' or '68m'?"),
        (("17m", "mln", "pretrain", "paper"), "no objective 'mln'; did you mean 'mlm'?"),
        (("17m", "mlm", "extend", "paper"), "no stage 'extend'; did you mean 'extension'?"),
        (("17m", "mlm", "decay", "release"), "no variant 'release'; did you mean 'released'?"),
        (("xyz", "mlm", "decay", "paper"), "known: 17m, 32m"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        recipe(*names)
