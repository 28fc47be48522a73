"""``SIZE --plan NAME [flags]``: what holds for all stages, what belongs to one, and refusals that help."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_ettin.commands import pretrain
from megatron_ettin.commands.plan_flags import Planned, parse_plan
from megatron_ettin.commands.run_flags import RunFlags
from megatron_ettin.errors import ConfigError


def parse(*arguments: str) -> Planned:
    return parse_plan(list(arguments), RunFlags, "pretrain")[0]


def test_flags_hold_for_every_stage_and_only_where_they_are_given() -> None:
    flags = ["--micro-batch", "4", "--precision=fp32", "--observe.no-tensorboard", "--checkpoint.every_tokens", "2.5M"]
    found = parse("150m", "--plan", "ettin-paper", "--data", "pool.json", "decay=decay.json", *flags, "--seed", "5")
    configs = [stage.config for stage in found.stages]
    assert [config.data.data for config in configs] == ["pool.json", "pool.json", "decay.json"]
    for config in configs:
        assert (config.layout.micro_batch_rows, config.compute.precision, config.seed) == (4, "fp32", 5)
        assert not config.observe.tensorboard and config.checkpoint.every_tokens == 2_500_000
    plain = [stage.config.layout.micro_batch_rows for stage in parse("150m", "--plan=ettin-paper").stages]
    assert plain == [4, 1, 1] and found.folder == Path("runs/150m-ettin-paper")


def test_scale_split_objective_and_start_are_choices_of_the_plan() -> None:
    split = parse("tiny", "--plan", "clm-then-mlm", "--split=0.25", "--scale", "0.5", "--run-folder", "there")
    assert [stage.config.schedule.tokens for stage in split.stages] == [250_000, 750_000]
    assert split.folder == Path("there")
    cross = parse("tiny", "--plan", "cross", "--objective", "clm", "--from", "runs/encoder@3").stages[0].config
    assert (cross.objective, cross.start.from_run, cross.start.carry_optimizer) == ("clm", "runs/encoder@3", False)
    detour = parse("tiny", "--plan", "clm-detour", "--init-from", "folder", "--model.rope-base-local", "10000")
    first, second = (stage.config for stage in detour.stages)
    assert (first.start.huggingface, second.start.huggingface) == ("folder", "")
    assert {first.model.rope_base_local, second.model.rope_base_local} == {10_000.0}
    assert parse("tiny", "--plan", "decay", "--from", "runs/a").stages[0].config.start.carry_optimizer


def test_data_of_stages_may_come_first_or_alone() -> None:
    found = parse("tiny", "--plan", "ettin-paper", "--data=a", "--data", "decay=b", "--data.data", "extension=c")
    assert [stage.config.data.data for stage in found.stages] == ["a", "c", "b"]
    one = parse("tiny", "--plan", "mmbert", "--scale", "2e-6", "--data.temperature", "1")
    assert {stage.config.data.temperature for stage in one.stages} == {1.0}
    odd = parse("tiny", "--plan", "ettin-paper", "--data", "./x=y")
    assert {stage.config.data.data for stage in odd.stages} == {"./x=y"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plan", "ettin-paper"], "takes SIZE and then flags"),
        (["tiny", "mlm", "--plan", "ettin-paper"], "objectives and stages are the plan's"),
        (["tiny", "--plan", "ettin-papr"], "no plan 'ettin-papr'; did you mean 'ettin-paper'?"),
        (["tinny", "--plan", "ettin-paper"], "no size 'tinny'; did you mean 'tiny'?"),
        (["tiny", "--plan", "ettin-paper", "--tokens", "3"], "--schedule.tokens belongs to a stage: write"),
        (["tiny", "--plan", "ettin-paper", "--tokens", "3"], "--scale makes all stages shorter or longer"),
        (["tiny", "--plan", "ettin-paper", "--optimizer.beta2=0.9"], "--optimizer.beta2 belongs to a stage"),
        (["tiny", "--plan", "ettin-paper", "--data.mask-share", "0.2"], "--data.mask-share belongs to a stage"),
        (["tiny", "--plan", "ettin-paper", "--variant", "released"], "no flag --variant"),
        (["tiny", "--plan", "ettin-paper", "--splt", "0.5"], "no flag --splt; did you mean '--split'?"),
        (["tiny", "--plan", "clm-then-mlm", "--split", "half"], "--split half: use a number"),
        (["tiny", "--plan", "ettin-paper", "--data", "deca=b"], "--data deca=...: no stage has this name"),
        (["tiny", "--plan", "ettin-paper", "--scale", "0.001"], "fewer than 8; use --scale 0.27 or more"),
        (["tiny", "--plan", "ettin-paper", "--layout.tensor", "3"], "stage 'pretrain': layout.tensor=3 does not"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused_with_what_helps(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(*arguments)
    assert message in str(caught.value)


def test_settings_of_a_plan_do_not_change_at_a_checkpoint() -> None:
    with pytest.raises(ConfigError, match="--change-at changes a single run"):
        pretrain.main(["tiny", "--plan", "ettin-paper", "--change-at", "5"])
