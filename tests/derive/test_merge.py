"""Joined weights are those of the definition, from runs and folders alike; what does not fit is refused by name."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from megatron_ettin.cli import main
from megatron_ettin.derive.joining import thresholds
from megatron_ettin.export import read_folder
from megatron_ettin.export.runs import load_checkpoint
from megatron_ettin.run_folder import list_checkpoints
from tests.export.conftest import tokenizer_content
from tests.export.test_runs import corpus, mixed, runs  # noqa: F401 - fixtures

Tensors = Mapping[str, Tensor]
LAST_BIT = 1.2e-7
"""Relative: the results are float32, the definitions float64, and both round once."""


def merge(*arguments: object) -> int:
    return main(["merge-weights", *map(str, arguments)])


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return dict(read_folder(folder).tensors)


def flat(tensors: Tensors) -> Tensor:
    """All weights of a model in one float64 vector, in one order of names."""
    return torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])


def ties_by_definition(base: Tensor, models: Sequence[Tensor], density: float, weights: Sequence[float]) -> Tensor:
    """TIES of float64 vectors, value by value as it is told: trim, elect the sign, mean of those that agree."""
    trimmed = []
    for model in models:
        change = model - base
        keep = math.ceil(density * len(change))
        order = sorted(range(len(change)), key=lambda i: -abs(float(change[i])))
        left = torch.zeros_like(change)
        left[order[:keep]] = change[order[:keep]]
        trimmed.append(left.tolist())
    joined = []
    for changes in zip(*trimmed, strict=True):
        total = sum(weight * change for weight, change in zip(weights, changes, strict=True))
        agreeing = [(w, change) for w, change in zip(weights, changes, strict=True) if change * total > 0]
        share = sum(w for w, _ in agreeing)
        joined.append(sum(w * change for w, change in agreeing) / share if share else 0.0)
    return base + torch.tensor(joined, dtype=torch.float64)


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_the_mean_is_that_of_float64_and_weights_count_by_their_ratio(
    objective: str, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folders = [make_folder(objective, f"model{seed}", seed=seed) for seed in range(3)]
    assert merge(*folders, "--output", tmp_path / "mean") == 0
    assert merge(*folders, "--output", tmp_path / "weighted", "--weights", 5, 3, 2) == 0
    inputs = [flat(tensors_of(folder)) for folder in folders]
    for name, weights in {"mean": (1, 1, 1), "weighted": (5, 3, 2)}.items():
        expected = sum(w * x for w, x in zip(weights, inputs, strict=True)) / sum(weights)
        assert torch.equal(flat(tensors_of(tmp_path / name)), expected.float().double()), name
    # 0.5, 0.3 and 0.2 are rounded, so that a last bit may differ
    assert merge(*folders, "--output", tmp_path / "shares", "--weights", 0.5, 0.3, 0.2) == 0
    assert ((flat(tensors_of(tmp_path / "shares")) - expected).abs() <= LAST_BIT * (1 + expected.abs())).all()
    parity = json.loads((tmp_path / "mean" / "parity.json").read_text())
    assert parity["met"] and len(parity["cases"]) == 2


def test_ties_is_that_of_the_paper_over_all_weights_together(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    small = {"layers": 2, "hidden": 16, "intermediate": 16, "heads": 2}
    folders = [make_folder("mlm", f"model{seed}", seed=seed, **small) for seed in range(4)]
    for density, weights in ((0.2, (1, 1, 1)), (0.7, (1, 2, 4))):
        out = tmp_path / f"ties{density}"
        flags = ["--density", density, "--weights", *weights, "--base", folders[0]]
        assert merge(*folders[1:], "--method", "ties", *flags, "--output", out) == 0
        base, *inputs = (flat(tensors_of(folder)) for folder in folders)
        expected = ties_by_definition(base, inputs, density, weights)
        assert ((flat(tensors_of(out)) - expected).abs() <= LAST_BIT * (1 + expected.abs())).all()
        assert json.loads((out / "merge.json").read_text())["density"] == density
    scaled = [*folders[1:], "--method", "ties", "--base", folders[0], "--scale", 0.5, "--output", tmp_path / "scaled"]
    assert merge(*scaled) == 0
    halfway = (base + ties_by_definition(base, inputs, 0.2, (1, 1, 1))) / 2
    assert ((flat(tensors_of(tmp_path / "scaled")) - halfway).abs() <= LAST_BIT * (1 + halfway.abs())).all()


@pytest.mark.parametrize("density", [0.001, 0.2, 0.5, 0.999])
def test_a_threshold_is_exactly_the_change_of_that_rank(density: float) -> None:
    """Over changes of fifteen powers of ten, many of them equal, and models of their own scale."""
    generator = torch.Generator().manual_seed(5)

    def values(count: int) -> Tensor:
        magnitude = 10.0 ** torch.randint(-9, 6, (count,), generator=generator)
        return magnitude * torch.randint(-9, 10, (count,), generator=generator)

    base = {"a": torch.zeros(7, 1000), "b": torch.zeros(333)}
    models = [{"a": values(7000).view(7, 1000), "b": scale * values(333)} for scale in (1, 3)]
    found = thresholds(base, models, density)
    for model, threshold in zip(models, found, strict=True):
        ordered = flat(model).abs().sort(descending=True).values
        assert threshold == ordered[math.ceil(density * len(ordered)) - 1]


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_a_model_merged_with_itself_is_itself_bit_for_bit(
    objective: str, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    model, base = make_folder(objective, "model", seed=1), make_folder(objective, "base", seed=2)
    ties = ["--method", "ties", "--base", base, "--density"]
    for name, flags in {"mean": [], "weighted": ["--weights", 0.1, 0.7, 0.3], "ties": [*ties, 1]}.items():
        assert merge(model, model, model, *flags, "--output", tmp_path / name) == 0
        assert (tmp_path / name / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes(), name
    assert merge(model, model, *ties, 0.3, "--output", tmp_path / "trimmed") == 0
    ours, start, made = (flat(tensors_of(folder)) for folder in (model, base, tmp_path / "trimmed"))
    assert torch.equal(made, torch.where(made == start, start, ours)), "each weight is that of the model or of the base"
    assert abs(float((made != start).double().mean()) - 0.3) <= 1 / len(made)


def test_runs_checkpoints_and_folders_are_merged_together(runs: Path, tmp_path: Path) -> None:  # noqa: F811
    run = runs / "encoder"
    first, *_, last = list_checkpoints(run)
    assert main(["convert", str(run), str(tmp_path / "export")]) == 0
    assert merge(f"{run}@{first.step}", tmp_path / "export", run, "--output", tmp_path / "out") == 0
    early, late = (flat(load_checkpoint(checkpoint).tensors) for checkpoint in (first, last))
    assert torch.equal(flat(tensors_of(tmp_path / "out")), ((early + 2 * late) / 3).float().double())
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"{run}@{first.step} (weight 1)" in card and "# Ettin encoder, tiny" in card
    record = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert [model["model"] for model in record["models"]] == [f"{run}@{first.step}", str(tmp_path / "export"), str(run)]
    assert record["models"][1]["checkpoint"] == record["models"][2]["checkpoint"] != record["models"][0]["checkpoint"]
    few = ["--rows", "4", "--sample", "5", "--row-length", "128", "--out", str(tmp_path / "evaluation")]
    assert main(["evaluate", str(tmp_path / "out"), *few]) == 0


def test_models_that_do_not_compute_alike_are_refused_by_name(
    make_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = make_folder("mlm", "ours")
    others = {
        "shape": make_folder("mlm", "shape", layers=4),
        "bases": make_folder("mlm", "bases", rope_base_local=10_000.0),
        "window": make_folder("mlm", "window", window=16, causal_window=15),
        "objective": make_folder("mntp", "objective"),
        "tokenizer": make_folder("mlm", "tokenizer"),
    }
    content = tokenizer_content() | {"normalizer": None}
    (others["tokenizer"] / "tokenizer.json").write_text(json.dumps(content))
    said = {
        "shape": f"layers 5 in {ours}, 4 in {others['shape']}",
        "bases": f"rope_base_local 160000.0 in {ours}, 10000.0 in {others['bases']}",
        "window": f"window 8 in {ours}, 16 in {others['window']}",
        "objective": f"objective mlm in {ours}, mntp in {others['objective']}",
        "tokenizer": "have two tokenizers (fingerprint",
    }
    for name, other in others.items():
        assert merge(ours, other, "--output", tmp_path / "out") == 2
        assert said[name] in capsys.readouterr().err
        assert merge(ours, ours, "--method", "ties", "--base", other, "--output", tmp_path / "out") == 2
        assert said[name] in capsys.readouterr().err
    (ours / "tokenizer.json").unlink()
    assert merge(ours, ours, "--output", tmp_path / "out") == 2
    assert f"{ours} has no tokenizer.json" in capsys.readouterr().err
    assert not list(tmp_path.glob("*out*")), "nothing is written"


@pytest.mark.parametrize("method", [[], ["--method", "ties", "--base", "good"]], ids=["mean", "ties"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_weight_that_is_no_number_is_refused_by_the_name_of_its_tensor(
    method: list[str], bad: float, make_folder: Callable[..., Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    make_folder("mlm", "good")
    folder = make_folder("mlm", "bad", seed=1)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.2.mlp.Wo.weight"][3, 1] = bad
    save_file(tensors, folder / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    assert merge("good", "bad", *method, "--output", "out") == 2
    assert "tensor model.layers.2.mlp.Wo.weight of bad/model.safetensors holds NaN" in capsys.readouterr().err
    assert not list(tmp_path.glob("*out*")), "nothing is written"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["A"], "merging takes two models or more"),
        (["A", "B", "--weights", "1"], "--weights has 1 numbers for 2 models"),
        (["A", "B", "--weights", "1", "0"], "each must be a number above 0"),
        (["A", "B", "--method", "ties"], "needs --base"),
        (["A", "B", "--base", "C"], "--base has no effect on --method mean"),
        (["A", "B", "--density", "0.5"], "--density has no effect on --method mean"),
        (["A", "B", "--method", "ties", "--base", "C", "--density", "0"], "a share above 0 and at most 1"),
        (["A", "B", "--method", "ties", "--base", "C", "--scale", "-1"], "--scale -1.0: give a number above 0"),
        (["A", "B"], "A is neither a run, a plan nor a Hugging Face folder"),
        (["A", "B", "--output", "."], "exists already and is never overwritten"),
    ],
)
def test_wrong_arguments_are_explained(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert merge("--output", "out", *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_run_of_both_kinds_of_rows_is_merged_as_the_kind_that_is_named(
    mixed: Path,  # noqa: F811 - the fixture
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert merge(mixed, mixed, "--output", tmp_path / "out") == 2
    assert "--as encoder or --as decoder" in capsys.readouterr().err
    assert merge(mixed, mixed, "--as", "decoder", "--output", tmp_path / "out") == 0
    read, loaded = read_folder(tmp_path / "out"), load_checkpoint(list_checkpoints(mixed)[-1])
    assert read.config.kind == "decoder"
    assert all(torch.equal(read.tensors[name], tensor) for name, tensor in loaded.tensors.items())
    assert merge(tmp_path / "out", tmp_path / "out", "--as", "encoder", "--output", tmp_path / "other") == 2
    assert "--as encoder: objective clm trains no encoder" in capsys.readouterr().err
    extend = ["vocabulary", "extend", str(mixed), "--tokens", str(tmp_path / "tokens.txt"), "--output"]
    (tmp_path / "tokens.txt").write_text("<wholly new>\n")
    assert main([*extend, str(tmp_path / "extended")]) == 2
    assert main([*extend, str(tmp_path / "extended"), "--as", "encoder"]) == 0
    assert read_folder(tmp_path / "extended").config.objective == "mntp"


def test_of_a_plan_the_last_stage_with_a_checkpoint_is_merged_and_exported(
    runs: Path,  # noqa: F811 - the fixture
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = tmp_path / "plan"
    for folder in ("1-words", "2-end"):
        shutil.copytree(runs / "encoder", plan / folder)
    shutil.rmtree(plan / "2-end" / "checkpoints")
    stages = [{"name": folder[2:], "folder": folder} for folder in ("1-words", "2-end")]
    (plan / "plan.json").write_text(json.dumps({"stages": stages}))
    capsys.readouterr()
    assert merge(plan, plan / "words", "--output", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert f"{plan / '1-words'} is taken, the last stage with a checkpoint" in said and "plan/words is " in said
    assert main(["convert", str(plan), str(tmp_path / "converted")]) == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "converted")]
    assert weights[0] == weights[1]
    assert main(["plot", str(plan / "end")]) == 0 and (plan / "2-end" / "plot.png").is_file()
    assert main(["order", str(plan), "--step", "1"]) == 0
    assert "as recorded" in capsys.readouterr().out
    for verb in ("status", "check", "estimate"):
        assert main([verb, str(plan / "words")]) == 0
    assert main(["check", str(plan)]) == 0
    assert "goes on with the run in it" in capsys.readouterr().out
