"""A study of plans: its steps, one table and one picture of all, and what is refused before anything starts."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from megatron_ettin.commands import study
from megatron_ettin.commands.plan_flags import parse_plan
from megatron_ettin.commands.pretrain import PretrainFlags
from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluate.losses import MASKED
from megatron_ettin.run_folder import list_checkpoints
from megatron_ettin.study.plan_report import table, write_plan_report
from megatron_ettin.study.plan_study import PlanStudySettings, entries, plan_steps
from tests.readme.test_readme import write_shims
from tests.support.launch import ROOT, ettin, run
from tests.train.plans import size_file

SPLITS = ("pretrain", "clm-then-mlm:split=0.25", "pretrain:objective=clm")
STUDY_TIMEOUT = 1800


def settings(**changes: object) -> PlanStudySettings:
    return PlanStudySettings(**({"data": "corpus", "run": Path("study"), "plans": SPLITS} | changes))  # type: ignore[arg-type]


def test_every_plan_size_and_seed_is_trained_exported_and_evaluated_together() -> None:
    asked = settings(sizes=("tiny", "17m"), seeds=(1, 2), scale=0.5, flags="--precision fp32")
    found = entries(asked)
    steps = plan_steps(asked, found)
    assert len(found) == 12 and len(steps) == 25 and len({step.name for step in steps}) == 25
    for entry, train in zip(found, steps[::2], strict=False):
        words = list(train.command)
        arguments = words[words.index("pretrain") + 1 :]
        planned, _ = parse_plan(arguments, PretrainFlags, "pretrain")
        assert planned.folder == entry.run and planned.plan == entry.asked.plan
        for here, there in zip(planned.stages, entry.stages, strict=True):
            assert here.config.schedule == there.config.schedule and here.config.objective == there.config.objective
            assert here.config.seed == here.config.data.seed == entry.seed
        assert train.product.is_relative_to(entry.stage_runs[-1][1])
    assert steps[-1].needs == tuple(f"export {entry.name}" for entry in found)


def test_all_splits_have_equal_tokens() -> None:
    plans = ("pretrain", *(f"clm-then-mlm:split={split}" for split in (0.25, 0.5, 0.75)), "pretrain:objective=clm")
    sums = [sum(stage.config.schedule.tokens for stage in entry.stages) for entry in entries(settings(plans=plans))]
    assert set(sums) == {2_000_000}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"plans": ("pretrain:spilt=0.5",)}, "--plans pretrain:spilt=0.5: behind the name comes split or objective"),
        ({"plans": ("clm-then-mlm:split=half",)}, "split is a number between 0 and 1"),
        ({"plans": ("clm-then-mlm:split=1",)}, "split=1 must lie between 0 and 1"),
        ({"plans": ("cross",)}, "--plans cross: goes on from a model"),
        ({"plans": ("pretrian",)}, "no plan 'pretrian'; did you mean 'pretrain'?"),
        ({"plans": ("pretrain", "pretrain")}, "tiny-pretrain-21: named twice"),
        ({"scale": 0.001}, "fewer than 8; use --scale"),
        ({"sizes": ("tinny",)}, "no size 'tinny'"),
        ({"rows": 0}, "--rows 0: use 1 or more"),
        ({"held_out_share": 0.0}, "--held-out-share 0.0: use a share"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        entries(settings(**changes))
    assert message in str(caught.value)


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--plans", *SPLITS, "--data", "text", "--run", str(tmp_path / "study"), "--dry-run"]
    assert study.main(arguments) == 0
    assert "[7/7] evaluate" in capsys.readouterr().out and not (tmp_path / "study").exists()


def test_the_table_has_a_row_a_plan_and_size_with_mean_and_spread_over_seeds(tmp_path: Path) -> None:
    asked = settings(run=tmp_path, seeds=(1, 2), sizes=("tiny", "17m"))
    found = entries(asked)
    losses = {entry.name: 3.0 + 0.1 * place for place, entry in enumerate(found)}
    models = {
        name: {"losses": {MASKED: {"nats_per_token": loss, "standard_error": 0.01, "reading": "both sides"}}}
        for name, loss in losses.items()
    }
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "results.json").write_text(json.dumps({"models": models}))
    for entry in found:
        for _, folder in entry.stage_runs:
            folder.mkdir(parents=True)
            records = [{"kind": "step", "step": n, "tokens": 100 * n, "loss": 5 - n / 10} for n in range(1, 30)]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    report = write_plan_report(asked, found, ["evaluate"])
    first = report["rows"][0]
    assert (first["plan"], first["size"], first["seeds"]) == ("pretrain", "tiny", [1, 2])
    assert first["losses"][MASKED]["mean"] == pytest.approx(3.05)
    assert first["losses"][MASKED]["spread"] == pytest.approx(0.1 / 2**0.5)
    assert len(report["rows"]) == 6 and "3.050 \u00b1 0.071" in table(report)
    text = (tmp_path / "report.md").read_text()
    assert "| tiny | clm-then-mlm:split=0.25 | mlm |" in text and "**Not complete**: evaluate" in text
    svg = (tmp_path / "plans.svg").read_text()
    assert svg.startswith("<?xml") and (tmp_path / "plans.png").stat().st_size > 10_000


@pytest.mark.slow
def test_splits_of_next_and_masked_tokens_are_one_command_that_goes_on(tmp_path: Path) -> None:
    """0, 25, 50, 75 and 100 % at toy scale: stopped in the middle it goes on, and ends with one table and one plot."""
    write_shims(tmp_path / "bin")
    extra = {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    lines = [json.dumps({"text": f"number {i} is followed by number {i + 1}, " * (3 + i % 9)}) for i in range(300)]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    ettin("tokenizer", "train", "--input", tmp_path / "text.jsonl", "--vocabulary", "400", "--output", tmp_path / "tok")
    ettin("prepare", "--input", tmp_path / "text.jsonl", "--tokenizer-model", tmp_path / "tok", "--output-prefix",
          tmp_path / "corpus")  # fmt: skip
    folder, flags = tmp_path / "splits", "--observe.no-tensorboard"
    command = ["bash", ROOT / "examples" / "splits.sh", tmp_path / "corpus", folder, "--sizes", size_file(tmp_path)]
    command += ["--scale", "1.5", "--ranks", "1", "--rows", "8", "--sample", "20", "--held-out-share", "0.05",
                f"--flags={flags}"]  # fmt: skip
    said = run(command, extra=extra, timeout=STUDY_TIMEOUT).stdout
    report = json.loads((folder / "report.json").read_text())
    assert [row["objective"] for row in report["rows"]] == ["mlm"] * 4 + ["clm"] and report["failed"] == []
    assert {row["tokens"] for row in report["rows"]} == {18_000}
    assert all(row["losses"][MASKED]["mean"] > 0 for row in report["rows"]) and "plans.png" in said
    weights = {path: path.read_bytes() for path in folder.rglob("*.safetensors")}
    assert len(weights) == 5
    lost = folder / "runs" / "small-clm-then-mlm-0.5-21" / "2-mlm"
    shutil.rmtree(list_checkpoints(lost)[-1].path)  # as if it had been stopped before its end
    (lost / "checkpoints" / "LATEST").unlink()
    (lost / "saves.jsonl").unlink()
    shutil.rmtree(folder / "exports" / "small-clm-then-mlm-0.5-21")
    again = run(command, extra=extra, timeout=STUDY_TIMEOUT).stdout
    assert "train small-pretrain-mlm-21: done before" in again
    assert {path: path.read_bytes() for path in folder.rglob("*.safetensors")} == weights


def test_the_script_of_splits_is_sound_and_explains_itself() -> None:
    if shutil.which("shellcheck"):
        run(["shellcheck", ROOT / "examples" / "splits.sh"])
    shown = run(["bash", ROOT / "examples" / "splits.sh"], status=2).stdout
    assert "bash examples/splits.sh" in shown and "set -e" not in shown
