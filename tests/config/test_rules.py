"""Every rule refuses what it must, naming the field, the rule and values that would do."""

from __future__ import annotations

import sys

import pytest

from megatron_ettin.config import rules
from megatron_ettin.config.codec import with_fields
from megatron_ettin.config.recipes import recipe
from megatron_ettin.config.shapes import SHAPES, tensor_sizes
from megatron_ettin.errors import ConfigError

BROKEN: list[tuple[tuple[str, str, str], dict[str, object], list[str]]] = [
    (("1b", "mlm", "pretrain"), {"layout.tensor": 7}, ["layout.tensor=7", "model.intermediate=3840", "1, 2 or 4"]),
    (("32m", "mlm", "pretrain"), {"layout.tensor": 3}, ["layout.tensor=3", "padded vocabulary=50368", "1 or 2"]),
    (("17m", "mlm", "pretrain"), {"layout.tensor": 8}, ["model.heads=4", "1, 2 or 4"]),
    (("17m", "mlm", "pretrain"), {"model.heads": 3}, ["model.heads=3 does not divide model.hidden=256"]),
    (("17m", "mlm", "pretrain"), {"model.heads": 256}, ["must be even"]),
    (("17m", "mlm", "pretrain"), {"model.layers": 0}, ["model.layers=0 must be positive"]),
    (("17m", "mlm", "pretrain"), {"layout.tensor": 0}, ["layout.tensor=0 must be positive"]),
    (("17m", "mlm", "pretrain"), {"layout.data": -1}, ["layout.data=-1 must be at least 0"]),
    (("17m", "mlm", "pretrain"), {"layout.pipeline": 8}, ["needs 8 layers and model.layers=7", "at most 7"]),
    (("17m", "mlm", "pretrain"), {"layout.virtual_pipeline": 2}, ["no effect with layout.pipeline=1"]),
    (
        ("17m", "mlm", "pretrain"),
        {"layout.pipeline": 2, "layout.pipeline_layers": (3, 3)},
        ["layout.pipeline_layers=[3, 3]", "add up to model.layers=7"],
    ),
    (("17m", "mlm", "pretrain"), {"layout.pipeline_layers": (7,)}, ["layout.pipeline_layers has no effect"]),
    (
        ("17m", "mlm", "pretrain"),
        {"layout.context": 3, "layout.micro_batch_rows": 1},
        ["layout.context=3 x layout.tensor=1 does not divide the 1024 tokens", "a product of 1, 2, 4, 8"],
    ),
    (
        ("17m", "mlm", "pretrain"),
        {"layout.tensor": 2, "layout.micro_batch_rows": 1, "data.row_length": 1025},
        ["layout.tensor=2 does not divide the 1025 tokens"],
    ),
    (
        ("17m", "mlm", "pretrain"),
        {"compute.precision": "fp8", "layout.micro_batch_rows": 1, "data.row_length": 1020, "data.piece_length": 1020},
        ["fp8 needs the tokens of a micro-batch on a rank = 1020 to be a multiple of 16", "use bf16"],
    ),
    (
        ("17m", "mlm", "pretrain"),
        {"compute.precision": "fp8", "model.intermediate": 392},
        ["fp8 needs model.intermediate / layout.tensor = 392"],
    ),
    (("17m", "mlm", "pretrain"), {"layout.context": 128}, ["32 tokens of a micro-batch", "window of 64", "at most 64"]),
    (("17m", "mlm", "pretrain"), {"layout.sequence_parallel": True}, ["no effect with layout.tensor=1"]),
    (("17m", "mlm", "pretrain"), {"layout.micro_batch_rows": 5}, ["does not divide batch.rows=2816", "1, 2, 4, 8, 11"]),
    (
        ("17m", "mlm", "pretrain"),
        {"data.row_length": 513, "data.piece_length": 513, "batch.warmup_increment": 11, "layout.tensor": 4},
        ["no micro-batch of up to layout.micro_batch_rows=4", "growing batch of 11 rows", "batch.warmup_tokens=0"],
    ),
    (("17m", "mlm", "pretrain"), {"batch.warmup_increment": 30}, ["does not divide batch.rows=2816", "22 or 32"]),
    (("17m", "mlm", "pretrain"), {"data.row_length": 2}, ["data.row_length=2 leaves no room", "at least 3"]),
    (("17m", "mlm", "pretrain"), {"data.piece_length": 2}, ["data.piece_length=2 leaves no room", "at least 3"]),
    (("17m", "mlm", "pretrain"), {"data.piece_length": 2000}, ["does not fit into data.row_length=1024"]),
    (
        ("17m", "mlm", "pretrain"),
        {"data.piece_length": 8000, "data.row_length": 8192},
        ["data.piece_length=8000 is above model.maximum_length=7999"],
    ),
    (("17m", "mlm", "pretrain"), {"data.mask_share": 0.0}, ["leaves mlm nothing to predict"]),
    (("17m", "mntp", "cross"), {"data.mask_share": 0.0}, ["leaves mntp nothing to predict"]),
    (("17m", "mlm", "pretrain"), {"data.mask_share": 1.5}, ["must lie between 0 and 1"]),
    (
        ("17m", "mixed", "pretrain"),
        {"data.causal_share": 0.0},
        ["leaves mixed rows of one kind", "objective mntp or clm"],
    ),
    (("17m", "mixed", "pretrain"), {"data.causal_share": 1.0}, ["leaves mixed rows of one kind"]),
    (("17m", "mixed", "pretrain"), {"data.mask_share": 0.0}, ["leaves mixed nothing to predict"]),
    (("17m", "mlm", "pretrain"), {"data.mask_share_end": -0.1}, ["data.mask_share_end=-0.1 must lie between 0 and 1"]),
    (("17m", "mlm", "pretrain"), {"data.mask_token_share": 0.95}, ["add up to more than 1"]),
    (("17m", "mlm", "pretrain"), {"data.held_out_share": 1.0}, ["nothing to train on"]),
    (("17m", "mlm", "pretrain"), {"schedule.tokens": 10**9}, ["schedule.warmup_tokens", "batch.warmup_tokens"]),
    (("17m", "mlm", "pretrain"), {"schedule.peak_rate": 0.0}, ["schedule.peak_rate=0.0 must be above 0"]),
    (("17m", "mlm", "pretrain"), {"schedule.peak_rate": float("nan")}, ["schedule.peak_rate=nan must be above 0"]),
    (("17m", "mlm", "cross"), {"schedule.decay_tokens": 0}, ["end_factor=0.02 is never reached"]),
    (("17m", "mlm", "pretrain"), {"optimizer.beta2": 1.0}, ["optimizer.beta2=1.0 must lie in [0, 1)"]),
    (("17m", "mlm", "pretrain"), {"optimizer.weight_decay": -1.0}, ["must not be negative"]),
    (("17m", "mlm", "pretrain"), {"checkpoint.keep": 1}, ["nothing to fall back to"]),
    (("17m", "mlm", "pretrain"), {"start.from_run": "x"}, ["--from belongs to a later stage"]),
    (("17m", "mlm", "decay"), {"start.from_run": "x", "start.huggingface": "y"}, ["two origins"]),
    (("17m", "mlm", "decay"), {"start.huggingface": "y"}, ["start.carry_optimizer needs start.from_run"]),
]


@pytest.mark.parametrize(("names", "change", "parts"), BROKEN)
def test_a_broken_rule_names_field_rule_and_remedy(
    names: tuple[str, str, str], change: dict[str, object], parts: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        rules.check(with_fields(recipe(*names), change))
    for part in parts:
        assert part in str(caught.value)


def test_a_package_that_is_not_installed_is_refused_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="observe.wandb='pairs' needs the wandb package"):
        rules.check(with_fields(recipe("17m", "mlm", "pretrain"), {"observe.wandb": "pairs"}))


def test_every_broken_rule_is_named_at_once() -> None:
    changes = {"layout.tensor": 7, "layout.micro_batch_rows": 5, "checkpoint.keep": 1}
    run = with_fields(recipe("1b", "mlm", "extension"), changes)
    assert len(rules.problems(run)) == 3
    with pytest.raises(ConfigError, match="several rules are broken"):
        rules.check(run)


@pytest.mark.parametrize(
    ("change", "world", "part"),
    [
        ({"layout.tensor": 2, "layout.pipeline": 2}, 6, "does not divide the world size 6"),
        ({"layout.tensor": 2, "layout.data": 2}, 8, "use layout.data=4 or leave it open"),
        ({"layout.overlap": True}, 1, "layout.overlap has no effect"),
        ({}, 7, None),
        ({"layout.tensor": 2, "layout.context": 2}, 8, None),
    ],
)
def test_the_layout_must_fill_the_world(change: dict[str, object], world: int, part: str | None) -> None:
    found = rules.problems(with_fields(recipe("17m", "mlm", "pretrain"), change), world)
    assert found == [] if part is None else part in found[0]


def test_tensor_sizes_are_those_of_the_contract() -> None:
    sizes = {size: tensor_sizes(SHAPES[size]) for size in SHAPES}
    assert sizes == {
        "17m": [1, 2, 4], "32m": [1, 2], "68m": [1, 2, 4, 8], "150m": [1, 2, 4], "400m": [1, 2, 4, 8, 16],
        "1b": [1, 2, 4], "tiny": [1, 2, 4],
    }  # fmt: skip


IDLE: list[tuple[tuple[str, str, str], str, object]] = [
    (("17m", "clm", "pretrain"), "data.mask_share", 0.2),
    (("17m", "clm", "pretrain"), "data.mask_token_share", 0.7),
    (("17m", "clm", "pretrain"), "data.mask_share_end", 0.1),
    (("17m", "mlm", "pretrain"), "data.mask_share_end", 0.3),
    (("17m", "mlm", "pretrain"), "data.causal_share", 0.3),
    (("17m", "clm", "pretrain"), "data.causal_share", 0.3),
    (("17m", "clm", "pretrain"), "model.window", 32),
    (("17m", "mlm", "pretrain"), "model.causal_window", 64),
    (("17m", "mlm", "pretrain"), "schedule.end_factor", 0.5),
    (("17m", "mlm", "pretrain"), "schedule.decay_tokens", 5),
    (("17m", "mlm", "decay"), "schedule.warmup_tokens", 5),
    (("17m", "mlm", "decay"), "batch.warmup_increment", 16),
    (("17m", "mlm", "cross"), "start.carry_optimizer", True),
]


@pytest.mark.parametrize(("names", "path", "value"), IDLE)
def test_a_setting_without_effect_is_refused(names: tuple[str, str, str], path: str, value: object) -> None:
    base = recipe(*names)
    assert rules.without_effect(base, base) == []
    found = rules.without_effect(with_fields(base, {path: value}), base)
    assert len(found) == 1 and found[0].startswith(f"{path} has no effect: ")


@pytest.mark.parametrize("path", ["model.window", "model.causal_window", "data.mask_share", "data.causal_share"])
def test_rows_of_both_kinds_use_the_settings_of_both(path: str) -> None:
    base = recipe("17m", "mixed", "pretrain")
    other = with_fields(base, {path: {"model.window": 32, "model.causal_window": 31}.get(path, 0.2)})
    assert rules.without_effect(other, base) == [] and rules.problems(other) == []
