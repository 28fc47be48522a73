"""A plan from a file: what a stage may set, and what is refused with file, stage and field."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from megatron_ettin.config.run import StartConfig
from megatron_ettin.errors import ConfigError
from megatron_ettin.plans.plan import load_plan
from megatron_ettin.plans.resolve import Choices, begun_from, resolve
from megatron_ettin.plans.table import plan_table

PLAN = """\
source = "a test"
[[stages]]
name = "short"
like = "pretrain"
[[stages]]
name = "long"
like = "extension"
objective = "clm"
carries = ["weights"]
rate = 0.25
[stages.schedule]
tokens = "1.5M"
[stages.model]
rope_base_global = 80_000
[stages.data]
data = "long.json"
"""


def write(folder: Path, text: str = PLAN) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


def test_a_stage_is_the_recipe_with_what_it_sets(tmp_path: Path) -> None:
    plan = load_plan(write(tmp_path))
    choices = Choices(size="tiny", data={"": "all.json"}, fields={"layout.tensor": 2, "compute.precision": "bf16"})
    short, long = resolve(plan, choices)
    assert (plan.name, plan.source, short.carries, long.carries) == ("mine", "a test", (), ("weights",))
    assert (short.config.objective, long.config.objective) == ("mlm", "clm")
    assert long.config.schedule.tokens == 1_500_000 and long.config.schedule.peak_rate == 0.25 * 3e-3
    assert long.config.model.rope_base_global == 80_000.0
    assert short.config.data.data == "all.json" and long.config.data.data == str(tmp_path / "long.json")
    assert {stage.config.layout.tensor for stage in (short, long)} == {2}
    assert long.config.start == StartConfig(carry_optimizer=False, planned=True)
    other = resolve(plan, Choices(size="tiny", data={"": "a", "long": "b"}))
    assert [stage.config.data.data for stage in other] == ["a", "b"]


def test_the_table_says_what_is_carried_and_what_begins_anew(tmp_path: Path) -> None:
    lines = plan_table(resolve(load_plan(write(tmp_path)), Choices(size="tiny"))).splitlines()
    assert lines[2].split()[:3] == ["1", "short", "mlm"] and "16 to 32" in lines[2] and "30%" in lines[2]
    assert "weights  clock, optimizer, order, objective, lengths, rope" in lines[3]
    assert "0.00075 -> 0.000375" in lines[3] and "80k / 160k" in lines[3]


def test_what_is_known_when_a_stage_begins_is_filled_in(tmp_path: Path) -> None:
    stages = resolve(load_plan("clm-then-mlm"), Choices(size="tiny"))
    begun = begun_from(stages[1], Path("runs/1-clm"), first_row=320)
    assert (begun.start.from_run, begun.data.first_row, begun.data.stage_number) == ("runs/1-clm", 320, 0)
    plain = begun_from(resolve(load_plan(write(tmp_path)), Choices(size="tiny"))[1], Path("x"), first_row=320)
    assert plain.data.first_row == 0


def test_a_plan_may_go_on_pretraining_from_a_run(tmp_path: Path) -> None:
    text = FIRST.replace("[[stages]]", 'starts_from = "model"\n[[stages]]') + 'carries = ["weights", "optimizer"]'
    (stage,) = resolve(load_plan(write(tmp_path, text)), Choices(size="tiny", start=StartConfig(from_run="runs/a@3")))
    assert stage.config.start == StartConfig(from_run="runs/a@3", carry_optimizer=True, planned=True)
    (stage,) = resolve(load_plan(write(tmp_path, text)), Choices(size="tiny", start=StartConfig(huggingface="folder")))
    assert stage.config.start == StartConfig(huggingface="folder") and stage.carries == ("weights",)


LATER = '[[stages]]\nname = "b"\nlike = "decay"\n'
FIRST = 'source = "s"\n[[stages]]\nname = "a"\nlike = "pretrain"\n'
REFUSED = [
    ("source = 1", "source=1 must be of type str"),
    ('source = "s"', "Plan: missing stages"),
    ('source = "s"\nstages = []', "stages is empty"),
    ("[[stages", "not a readable TOML file"),
    (FIRST + "rat = 1", "stages[0].rat is not a field; did you mean 'rate'?"),
    (FIRST.replace('"a"', '"a/b"'), "stage 'a/b': name must be letters"),
    (FIRST.replace('"pretrain"', '"pretrian"'), "stages[0].like='pretrian' is not one of pretrain, extension"),
    (FIRST + LATER.replace('"b"', '"a"') + 'carries = ["weights"]', "stage 'a': two stages have this name"),
    (FIRST + LATER, "stage 'b': carries=[] lacks \"weights\", but the stage goes on from stage 'a'"),
    (FIRST + 'carries = ["weights"]', "stage 'a': carries=['weights'], but nothing comes before it"),
    (FIRST + 'carries = ["clock"]', "stages[0].carries[0]='clock' is not one of weights, optimizer, order"),
    (FIRST + 'part = "rest"', "stage 'a': part='rest' needs the plan's split"),
    ("split = 0.3\n" + FIRST, "no stage has part"),
    ("split = 1.0\n" + FIRST + 'part = "rest"', "split=1 must lie between 0 and 1"),
    (FIRST + "rate = 2.0\n[stages.schedule]\npeak_rate = 1e-3", "rate and schedule.peak_rate are two sources"),
    (FIRST + "[stages.model]\nlayers = 3", "model.layers belongs to SIZE"),
    (FIRST + "[stages.data]\nfirst_row = 3", "stage 'a': data.first_row follows from the stages before"),
    (FIRST + "[stages.data]\nmask_shar = 0.3", "stage 'a': mask_shar is not a field of DataConfig; did you mean"),
    (FIRST + '[stages.schedule]\ntokens = "many"', "tokens='many' must be of type int"),
    (FIRST + 'objective = "clm"\n[stages.data]\nmask_share = 0.1', "data.mask_share has no effect: objective clm"),
    (FIRST + "[stages.data]\npiece_length = 1024", "data.piece_length=1024 is above model.maximum_length=512"),
    (FIRST + LATER + 'carries = ["weights", "order"]', "reads other rows than stage 'a': data.row_length=256 -> 512"),
    (FIRST + '[stages.schedule]\ntokens = "120K"', "stage 'a': schedule.warmup_tokens=100000 and"),
    (FIRST + '[stages.schedule]\ntokens = "30K"\nwarmup_tokens = 0\n[stages.batch]\nwarmup_tokens = 0',
     "stage 'a': 30,000 tokens make 4 steps of up to 32 rows of 256, fewer than 8; use --scale 2.2 or more"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_contradicts_itself_is_refused_with_stage_and_field(tmp_path: Path, text: str, message: str) -> None:
    if "100000 and" in message:
        text += "\ndecay_tokens = 50_000\nshape = 'trapezoid'\nend_factor = 0.1"
    with pytest.raises(ConfigError) as caught:
        resolve(load_plan(write(tmp_path, text)), Choices(size="tiny"))
    assert message in str(caught.value) and "mine" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "choices", "message"),
    [
        ("modernbret", {}, "no plan 'modernbret'; did you mean 'modernbert'?"),
        ("nowhere.toml", {}, "nowhere.toml: no such plan"),
        ("clm-then-mlm", {"split": 1.0}, "split=1 must lie between 0 and 1"),
        ("clm-then-mlm", {"split": -0.5}, "split=-0.5 must lie between 0 and 1"),
        ("ettin-paper", {"split": 0.5}, "plan ettin-paper: --split 0.5: it splits nothing"),
        ("modernbert", {"objective": "clm"}, "every stage names its own"),
        ("ettin-paper", {"objective": "clmm"}, "no objective 'clmm'"),
        ("clm-detour", {}, "plan clm-detour goes on from a model; give a run"),
        ("ettin-paper", {"start": StartConfig(from_run="runs/a")}, "not from a run"),
        ("ettin-paper", {"data": {"dekay": "x"}}, "--data dekay=...: no stage has this name; did you mean 'decay'?"),
        ("ettin-paper", {"scale": 0.0}, "--scale 0: use a positive number"),
        ("ettin-paper", {"scale": float("nan")}, "--scale nan"),
        ("ettin-paper", {"fields": {"layout.tensor": 3}}, "stage 'pretrain': layout.tensor=3 does not divide"),
    ],
)
def test_bad_choices_are_refused_with_what_helps(name: str, choices: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(load_plan(name), Choices(**{"size": "tiny"} | choices))  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_the_plan_of_the_documentation_is_one(root: Path, tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", (root / "docs" / "plans.md").read_text(), flags=re.DOTALL)
    short, languages = resolve(load_plan(write(tmp_path, text)), Choices(size="17m"))
    assert languages.config.schedule.tokens == 60 * 10**9 and languages.config.schedule.peak_rate == 1.5e-3
    assert short.config.objective == languages.config.objective == "mlm"
