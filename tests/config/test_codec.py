"""A run as data: there and back, strictly, with a fingerprint and differences that can be read."""

from __future__ import annotations

import json

import pytest

from megatron_ettin.config.codec import (
    check_change,
    check_resume,
    differences,
    fingerprint,
    flatten,
    from_dict,
    run_from_dict,
    to_dict,
    to_json,
    with_fields,
)
from megatron_ettin.config.recipes import STAGES, VARIANTS, recipe
from megatron_ettin.config.run import LayoutConfig, RunConfig
from megatron_ettin.config.shapes import SHAPES
from megatron_ettin.errors import ConfigError

RUN = recipe("150m", "mlm", "pretrain")


def test_a_run_survives_json_unchanged() -> None:
    for size in SHAPES:
        for stage in STAGES:
            for variant in VARIANTS:
                run = with_fields(recipe(size, "clm", stage, variant), {"layout.pipeline_layers": (3, 4)})
                assert run_from_dict(json.loads(to_json(run))) == run


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objectiv": "mlm"}, "objectiv is not a field; did you mean 'objective'"),
        ({"objective": "mml"}, "objective='mml' is not one of mlm, clm, mntp"),
        ({"seed": "21"}, "seed='21' must be of type int"),
        ({"seed": True}, "seed=True must be of type int"),
        ({"seed": 2.5}, "seed=2.5 must be of type int"),
        ({"layout": {"tensr": 1}}, "layout.tensr is not a field; did you mean 'tensor'"),
        ({"layout": {"pipeline_layers": 3}}, "layout.pipeline_layers=3 must be a list"),
        ({"layout": {"pipeline_layers": ["a"]}}, "layout.pipeline_layers[0]='a' must be of type int"),
        ({"layout": []}, "layout must be a table of fields"),
        ({"model": {"size": "x"}}, "model: missing"),
    ],
)
def test_wrong_data_is_refused_by_path(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_from_dict(to_dict(RUN) | change)
    assert message in str(caught.value)


def test_whole_numbers_are_floats_where_a_float_is_declared() -> None:
    run = run_from_dict(to_dict(RUN) | {"checkpoint": {"every_minutes": 5}})
    assert run.checkpoint.every_minutes == 5.0 and isinstance(run.checkpoint.every_minutes, float)


def test_the_fingerprint_is_the_same_wherever_and_however_the_run_computes() -> None:
    free = {
        "layout.tensor": 2, "layout.micro_batch_rows": 1, "layout.recompute": "full", "checkpoint.every_steps": 5,
        "observe.log_every": 1, "compute.threads": 3, "compute.attention": "sdpa", "data.data": "/elsewhere/m.json",
    }  # fmt: skip
    assert fingerprint(with_fields(RUN, free)) == fingerprint(RUN)


def test_the_fingerprint_changes_with_every_field_that_changes_what_is_learned() -> None:
    seen = {fingerprint(RUN)}
    learned = [
        path for path in flatten(RUN)
        if path.split(".")[0] in ("model", "schedule", "batch", "optimizer", "seed") or "mask_share" in path
    ]  # fmt: skip
    for path in learned:
        value = flatten(RUN)[path]
        named = {"warmup_stable": "trapezoid", "150m": "other", "()": ("0-1",)}.get(str(value))
        other = named or value + 1  # type: ignore[operator]
        seen.add(fingerprint(with_fields(RUN, {path: other})))
    assert len(seen) == len(learned) + 1


def test_fp8_settings_are_part_of_fp8_runs_alone() -> None:
    scaled = with_fields(RUN, {"compute.precision": "fp8"})
    for path, value in (("compute.fp8_recipe", "blocks"), ("compute.fp8_ends_in_bf16", False)):
        assert fingerprint(with_fields(RUN, {path: value})) == fingerprint(RUN)
        assert fingerprint(with_fields(scaled, {path: value})) != fingerprint(scaled)


def test_the_share_of_next_tokens_is_part_of_mixed_runs_alone() -> None:
    mixed = recipe("150m", "mixed", "pretrain")
    assert fingerprint(with_fields(mixed, {"data.causal_share": 0.25})) != fingerprint(mixed) != fingerprint(RUN)
    with pytest.raises(ConfigError, match="data.causal_share: 0.5 -> 0.25"):
        check_resume(mixed, with_fields(mixed, {"data.causal_share": 0.25}))


def test_the_fingerprint_of_a_recipe_is_known() -> None:
    assert fingerprint(RUN) == GOLDEN_FINGERPRINT, "checkpoints of this recipe would no longer be recognised"


GOLDEN_FINGERPRINT = "8e6007eef2f42b6f3679f6b5cbd393f770a8622eb7cb262b65eaaaf26129bca5"


def test_differences_read_like_a_list_of_changes() -> None:
    other = with_fields(RUN, {"layout.tensor": 2, "schedule.peak_rate": 1e-3})
    assert [str(item) for item in differences(RUN, other)] == [
        "schedule.peak_rate: 0.0008 -> 0.001",
        "layout.tensor: 1 -> 2",
    ]


def test_a_resumed_run_may_change_where_and_how_but_not_what() -> None:
    moved = with_fields(RUN, {"layout.tensor": 4, "data.data": "there", "observe.log_every": 1})
    assert {item.path for item in check_resume(RUN, moved)} == {"layout.tensor", "data.data", "observe.log_every"}
    with pytest.raises(ConfigError) as caught:
        check_resume(RUN, with_fields(RUN, {"model.layers": 4, "data.seed": 3, "layout.tensor": 2}))
    assert "model.layers: 22 -> 4" in str(caught.value) and "data.seed: 21 -> 3" in str(caught.value)
    assert "layout.tensor" not in str(caught.value)


def test_only_a_flat_schedule_may_be_made_longer() -> None:
    longer = with_fields(RUN, {"schedule.tokens": 2 * RUN.schedule.tokens})
    assert [item.path for item in check_resume(RUN, longer)] == ["schedule.tokens"]
    falling = recipe("150m", "mlm", "decay")
    with pytest.raises(ConfigError, match="schedule.tokens"):
        check_resume(falling, with_fields(falling, {"schedule.tokens": 1}))


def test_what_scales_fp8_may_change_at_a_checkpoint_on_record() -> None:
    delayed = with_fields(RUN, {"compute.precision": "fp8", "compute.fp8_recipe": "delayed"})
    current = with_fields(delayed, {"compute.fp8_recipe": "current"})
    assert [str(item) for item in check_change(delayed, current)] == ["compute.fp8_recipe: 'delayed' -> 'current'"]
    with pytest.raises(ConfigError, match="--change-at STEP"):
        check_resume(delayed, current)
    with pytest.raises(ConfigError, match="neither its model nor its rows:\n  compute.precision"):
        check_change(delayed, RUN)


def test_where_masks_follow_the_length_of_the_stage_it_stays() -> None:
    falling = with_fields(RUN, {"data.mask_share_end": 0.15})
    longer = with_fields(falling, {"schedule.tokens": 2 * RUN.schedule.tokens})
    with pytest.raises(ConfigError, match="schedule.tokens"):
        check_resume(falling, longer)
    with pytest.raises(ConfigError, match="neither its model nor its rows:\n  schedule.tokens"):
        check_change(falling, longer)
    assert check_change(falling, with_fields(falling, {"schedule.peak_rate": 1e-4}))


def test_fields_are_replaced_by_path_and_checked() -> None:
    assert with_fields(RUN, {"layout.tensor": 2}).layout == LayoutConfig(tensor=2, micro_batch_rows=4)
    assert isinstance(from_dict(RunConfig, to_dict(RUN)), RunConfig)
    with pytest.raises(ConfigError, match="did you mean 'tensor'"):
        with_fields(RUN, {"layout.tensors": 2})
    with pytest.raises(ConfigError, match="must be of type int"):
        with_fields(RUN, {"layout.tensor": "2"})
