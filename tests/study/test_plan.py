"""The plan of a study is what the recipe says, and every command of it is accepted before any has run."""

from dataclasses import replace
from pathlib import Path

import pytest
import tyro

from megatron_ettin.commands.evaluate import EvaluateFlags
from megatron_ettin.config import rules
from megatron_ettin.config.codec import flatten
from megatron_ettin.config.recipes import recipe
from megatron_ettin.errors import ConfigError
from megatron_ettin.plans.scale import multiplied
from megatron_ettin.study.plan import MEMBERS, plan
from megatron_ettin.study.settings import (
    FEWEST_STEPS,
    SHORTEST_ROW,
    StudySettings,
    fitted,
    flags_between,
    stage_run,
)
from tests.support.runs import parse_run


def settings(**changes: object) -> StudySettings:
    return StudySettings(**({"data": "corpus", "run": Path("study")} | changes))


def pretrain_arguments(command: tuple[str, ...]) -> list[str]:
    return list(command[command.index("pretrain") + 1 :])


@pytest.mark.parametrize("size", ["tiny", "17m", "1b"])
@pytest.mark.parametrize("tokens", [0, 2_000_000])
def test_every_training_command_parses_to_the_run_that_was_meant(size, tokens):
    chosen = settings(size=size, tokens=tokens)
    trainings = [step for step in plan(chosen) if step.name.startswith("train ")]
    stages = [(member, stage) for member in MEMBERS for stage in member.stages]
    assert len(trainings) == len(stages) == 8
    for step, (member, stage) in zip(trainings, stages, strict=True):
        config, folder = parse_run(pretrain_arguments(step.command))
        meant = stage_run(chosen, member.objective, stage)
        assert replace(config, start=meant.start) == meant
        assert folder == step.product.parent.parent


def test_members_of_a_pair_differ_in_the_objective_alone():
    for stage in ("pretrain", "extension", "decay"):
        encoder, decoder = (flatten(stage_run(settings(tokens=300_000), name, stage)) for name in ("mlm", "clm"))
        assert {key for key in encoder if encoder[key] != decoder[key]} == {"objective"}


def test_each_model_starts_from_the_one_it_is_made_of():
    starts = {}
    for step in plan(settings()):
        if step.name.startswith("train "):
            starts[step.name] = parse_run(pretrain_arguments(step.command))[0].start.from_run
    assert starts["train encoder-pretrain"] == ""
    assert starts["train encoder-extension"] == "study/runs/encoder-pretrain"
    assert starts["train encoder-from-decoder-cross"] == "study/runs/decoder-decay"
    assert starts["train decoder-from-encoder-cross"] == "study/runs/encoder-decay"


def test_steps_need_only_steps_before_them_and_the_last_needs_all_exports():
    seen: set[str] = set()
    for step in plan(settings()):
        assert set(step.needs) <= seen
        seen.add(step.name)
    assert step.name == "evaluate" and len(step.needs) == 4


def test_each_suite_is_a_step_that_evaluate_accepts_and_a_killed_one_goes_on_in_its_folder(tmp_path):
    chosen = settings(evaluate="losses, stdlib,bias", local=tmp_path, limit=20, seeds=3)
    *_, evaluate, losses, stdlib, bias = plan(chosen)
    assert [step.name for step in (losses, stdlib, bias)] == ["evaluate losses", "evaluate stdlib", "evaluate bias"]
    folders = set()
    for step in (losses, stdlib, bias):
        assert step.needs == evaluate.needs and len(step.needs) == 4
        flags = tyro.cli(EvaluateFlags, args=list(step.command[step.command.index("evaluate") + 1 :]))
        assert (flags.suite, flags.local, flags.limit, flags.seeds) == (step.name.split()[1], tmp_path, 20, 3)
        assert [model.split("=")[0] for model in flags.models] == [member.name for member in MEMBERS]
        assert flags.data == ("corpus" if step is losses else "")
        folders.add(flags.out)
        assert step.product.parent == flags.out
    assert len(folders) == 3


def test_the_budget_reaches_the_suite_that_fine_tunes(monkeypatch):
    from megatron_ettin.evaluate.suites import catalogue

    monkeypatch.delitem(catalogue.NEEDS, "glue")
    *_, glue, bias = plan(settings(evaluate="glue,bias", budget="quick"))
    assert glue.command[glue.command.index("--budget") + 1] == "quick" and "--budget" not in bias.command


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"evaluate": "stdlb"}, "--evaluate stdlb: there is no such suite; did you mean 'stdlib'"),
     ({"limit": 3}, "--local, --limit and --seeds are settings of suites"),
     ({"evaluate": "stdlib", "budget": "quick"}, "--budget quick: is for glue and retrieval"),
     ({"evaluate": "stdlib", "limit": 0}, "--limit 0: use 1 or more"),
     ({"evaluate": "bias", "local": Path("nowhere")}, "--local nowhere: no such folder")],
)  # fmt: skip
def test_suites_that_cannot_run_are_refused_before_anything_starts(changes, message):
    with pytest.raises(ConfigError, match=message):
        plan(settings(**changes))


def test_a_suite_without_its_library_is_refused_before_anything_starts(monkeypatch):
    from megatron_ettin.evaluate.suites import catalogue

    monkeypatch.setitem(catalogue.NEEDS, "bias", ("no_such_library", "eval-lm"))
    with pytest.raises(ConfigError, match=r"no_such_library is not installed.*megatron-ettin\[eval-lm\]"):
        plan(settings(evaluate="bias"))


@pytest.mark.parametrize("size", ["tiny", "17m", "150m"])
@pytest.mark.parametrize("tokens", [20_000, 400_000, 3_000_000, 10**9])
@pytest.mark.parametrize("ranks", [1, 2, 8])
def test_a_small_study_has_as_many_steps_as_its_tokens_allow(size, tokens, ranks):
    for stage in ("pretrain", "extension", "decay", "cross"):
        config = stage_run(settings(size=size, tokens=tokens, ranks=ranks), "mlm", stage)
        rules.check(config, ranks)
        enough = config.schedule.tokens // (config.batch.rows * config.data.row_length) >= FEWEST_STEPS[stage]
        smallest = config.batch.rows == ranks and config.data.row_length == SHORTEST_ROW
        assert enough or smallest, config


def test_the_recipe_is_not_touched_where_it_fits():
    config = recipe("150m", "mlm", "decay")
    assert fitted(config, 8) is config
    assert multiplied(config, 1.0) is config


def test_scaling_keeps_the_shape_of_the_schedule():
    config = multiplied(recipe("17m", "clm", "cross"), 1e-3)
    assert (config.schedule.tokens, config.schedule.warmup_tokens) == (50_000_000, 3_000_000)
    assert config.schedule.decay_tokens == 10_000_000


def test_flags_name_exactly_what_differs():
    before = recipe("tiny", "mlm", "pretrain")
    after = replace(
        before,
        layout=replace(before.layout, tensor=2, sequence_parallel=True, pipeline_layers=(3, 4)),
        observe=replace(before.observe, tensorboard=False),
    )
    assert flags_between(before, after) == [
        "--layout.tensor", "2", "--layout.sequence-parallel", "--layout.pipeline-layers", "3", "4",
        "--observe.no-tensorboard",
    ]  # fmt: skip
    assert flags_between(before, before) == []


def test_a_layout_that_cannot_be_is_refused_before_anything_starts():
    with pytest.raises(ConfigError, match="layout.tensor=3"):
        plan(settings(tensor=3, ranks=3))


def test_a_launcher_replaces_torchrun():
    command = plan(settings(launcher="srun --ntasks 8 python"))[0].command
    assert command[:6] == ("srun", "--ntasks", "8", "python", "-m", "megatron_ettin")


def test_the_layout_check_comes_first_and_asks_for_one_and_four_ranks():
    steps = plan(settings(check_layout=True, tokens=600_000))
    assert [step.name for step in steps[:3]] == ["check one-rank", "check four-ranks", "check layout"]
    one, four = (parse_run(pretrain_arguments(step.command))[0] for step in steps[:2])
    assert [(c.layout.tensor, c.layout.pipeline) for c in (one, four)] == [(1, 1), (2, 2)]
    assert replace(one, layout=four.layout) == four
    assert "--nproc-per-node=4" in steps[1].command
    with pytest.raises(ConfigError, match="leave it out with --launcher"):
        plan(settings(check_layout=True, launcher="srun python"))


@pytest.mark.parametrize("size", ["tiny", "17m"])
def test_too_few_tokens_are_refused_with_the_fewest_that_work(size):
    with pytest.raises(ConfigError, match="use [0-9,]+ or more") as refused:
        plan(settings(size=size, tokens=10))
    fewest = int(str(refused.value).rsplit("use ", 1)[1].split()[0].replace(",", ""))
    assert plan(settings(size=size, tokens=fewest))
    with pytest.raises(ConfigError, match="use"):
        plan(settings(size=size, tokens=fewest - 1))


@pytest.mark.parametrize(
    ("flag", "value"), [("ranks", 0), ("tensor", 0), ("rows", 0), ("tokens", -1), ("held_out_share", 0.0)]
)
def test_a_study_of_nothing_is_refused_by_its_flag(flag, value):
    with pytest.raises(ConfigError, match=f"--{flag.replace('_', '-')} .*use"):
        plan(settings(**{flag: value}))
