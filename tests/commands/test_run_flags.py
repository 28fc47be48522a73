"""The shared arguments: names, flags, short forms, and refusals that help."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_ettin.commands import study
from megatron_ettin.config.recipes import recipe
from megatron_ettin.errors import ConfigError
from tests.support.runs import parse_run

NAMES = ["17m", "mlm", "pretrain"]


def test_without_flags_the_run_is_the_recipe() -> None:
    assert parse_run(NAMES) == (recipe(*NAMES), Path("runs/17m-mlm-pretrain"))
    assert parse_run([*NAMES, "--variant", "released"])[0] == recipe(*NAMES, "released")
    assert parse_run([*NAMES, "--variant=released"])[0] == recipe(*NAMES, "released")


def test_any_field_can_be_set_by_flag() -> None:
    flags = ["--layout.pipeline-layers", "4", "3", "--layout.pipeline", "2", "--schedule.peak_rate=1e-4"]
    run, folder = parse_run([*NAMES, *flags, "--observe.no-tensorboard", "--run", "here", "--seed", "5"])
    assert run.layout.pipeline_layers == (4, 3) and run.schedule.peak_rate == 1e-4
    assert not run.observe.tensorboard and run.seed == 5 and folder == Path("here")


def test_short_forms_and_token_counts_are_written_out() -> None:
    flags = ["--tensor", "2", "--pipeline=2", "--context", "2", "--micro-batch", "2", "--data", "m.json"]
    run, _ = parse_run([*NAMES, *flags, "--tokens", "1.8T", "--precision", "fp32"])
    layout = run.layout
    assert (layout.tensor, layout.pipeline, layout.context, layout.micro_batch_rows) == (2, 2, 2, 2)
    assert (run.data.data, run.schedule.tokens, run.compute.precision) == ("m.json", 1_800_000_000_000, "fp32")
    assert parse_run([*NAMES, "--run-folder", "there"])[1] == Path("there")
    later, _ = parse_run(["17m", "clm", "decay", "--from", "runs/a@3"])
    assert later.start.from_run == "runs/a@3" and later.start.carry_optimizer


def test_only_token_counts_take_units() -> None:
    run, folder = parse_run([*NAMES, "--run", "17M", "--data", "1B", "--checkpoint.every-tokens=2.5M"])
    assert (folder, run.data.data, run.checkpoint.every_tokens) == (Path("17M"), "1B", 2_500_000)
    assert parse_run([*NAMES, "--run=17M", "--batch.warmup_tokens", "1K"])[1] == Path("17M")


def test_the_tokens_of_a_study_take_units_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", "text", "--run", str(tmp_path / "17M"), "--tokens", "50M", "--dry-run"]
    assert study.main(arguments) == 0 and "[1/" in capsys.readouterr().out


def test_a_scale_shortens_a_stage_with_its_rise_and_growth() -> None:
    run, _ = parse_run(["tiny", "mlm", "pretrain", "--scale", "0.06"])
    step = 32 * 256
    assert run.schedule.tokens == 120_000 and run.schedule.warmup_tokens == step
    assert (run.batch.rows, run.batch.warmup_tokens, run.batch.warmup_increment) == (32, 6_000, 16)
    assert parse_run(["tiny", "mlm", "pretrain", "--scale=1"])[0] == recipe("tiny", "mlm", "pretrain")
    small = ["--batch.warmup-tokens", "0", "--batch.rows", "2", "--micro-batch", "2"]
    assert parse_run(["tiny", "mlm", "pretrain", "--scale=0.01", *small])[0].schedule.tokens == 20_000


def test_weights_from_hugging_face_bring_no_optimizer_state() -> None:
    run, _ = parse_run(["17m", "clm", "decay", "--init-from", "folder"])
    assert run.start.huggingface == "folder" and not run.start.carry_optimizer


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*NAMES, "--tokns", "3"], "no flag --tokns; did you mean '--tokens'?"),
        ([*NAMES, "--layout.tensr=3"], "no flag --layout.tensr; did you mean '--layout.tensor'?"),
        ([*NAMES, "--layout.sequence-paralel"], "did you mean '--layout.sequence-parallel'?"),
        ([*NAMES, "--qqqqqqqq", "3"], "no flag --qqqqqqqq; --help lists all"),
        (["17n", "mlm", "pretrain"], "no size '17n'; did you mean '17m'?"),
        (["17m", "mlm"], "STAGE is missing: pretrain, extension, decay, cross"),
        ([], "SIZE is missing"),
        (["--tensor", "2"], "SIZE is missing"),
        (["nowhere.toml", "mlm", "pretrain"], "nowhere.toml: no such size file"),
        ([*NAMES, "--variant", "relased"], "did you mean 'released'?"),
        ([*NAMES, "--model.size", "32m"], "the size is the first argument"),
        ([*NAMES, "--model.causal-window", "32"], "model.causal_window has no effect: objective mlm"),
        (["tiny", "mlm", "decay", "--scale", "0.01"], "1 steps of up to 16 rows of 512, fewer than 8; use --scale"),
        ([*NAMES, "--scale", "-1"], "--scale -1: use a positive number"),
        ([*NAMES, "--scale", "half"], "--scale half: use a positive number"),
        ([*NAMES, "--layout.tensor", "3"], "layout.tensor=3 does not divide model.heads=4; use 1, 2 or 4"),
        ([*NAMES, "--data.mask-share", "0"], "leaves mlm nothing to predict"),
    ],
)
def test_bad_arguments_are_refused_with_what_helps(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_run(arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize("arguments", [["--layout.tensor", "two"], ["--layout.tensor"], ["surplus"]])
def test_values_of_the_wrong_kind_end_with_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_run([*NAMES, *arguments])
    assert caught.value.code == 2 and capsys.readouterr().err


def test_help_shows_every_field_with_its_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_run(["--help"])
    shown = capsys.readouterr().out
    assert caught.value.code == 0
    for part in ("--layout.tensor", "Ranks that share each matrix", "SIZE is 17m", "--tokens = --schedule.tokens"):
        assert part in shown
