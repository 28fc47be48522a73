"""Suites over a training: the scores are those of each checkpoint alone, shared by shards, and never made twice."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_ettin.commands.evaluate import main
from megatron_ettin.errors import CheckpointError, ConfigError, DataError
from megatron_ettin.evaluate.dynamics.curves import curves_of
from megatron_ettin.evaluate.dynamics.points import points_of
from megatron_ettin.evaluate.suites import models, results
from megatron_ettin.evaluate.suites.results import read_results
from megatron_ettin.evaluate.suites.shard import Shard
from tests.evaluate.bias import test_suite as bias
from tests.evaluate.dynamics.conftest import STEPS

LOSSES = ["--suite", "losses", "--rows", "2", "--sample", "5"]


def dynamics(*arguments, output):
    return main([*(str(argument) for argument in arguments), "--dynamics", "--output", str(output)])


@pytest.fixture
def loads(monkeypatch):
    """Each model that is built, and each folder whose weights go into one that is there."""
    found = []
    for name, word in (("load_engine", "built"), ("load_full_state", "filled")):
        genuine = getattr(models, name)
        monkeypatch.setattr(
            models, name, lambda *given, word=word, genuine=genuine: (found.append(word), genuine(*given))[1]
        )
    return found


def test_a_run_is_evaluated_at_all_its_checkpoints_through_one_model(run, loads, tmp_path, capsys):
    local = bias.write(tmp_path)
    assert dynamics(run, "--suite", "losses,bias", *LOSSES[2:], "--local", local, output=tmp_path / "all") == 0
    assert loads == ["built", "filled", "filled"], "both suites share a model, whose weights change"
    found = read_results(tmp_path / "all")["models"]
    assert list(found) == [f"toy@step{step}" for step in STEPS]
    for step in STEPS:
        alone = [f"one={run}@{step}", "--suite", "losses,bias", *LOSSES[2:], "--local", str(local)]
        assert main([*alone, "--output", str(tmp_path / f"alone-{step}")]) == 0
        expected = read_results(tmp_path / f"alone-{step}")["models"]["one"]["suites"]
        for suite, tasks in found[f"toy@step{step}"]["suites"].items():
            for task, result in tasks.items():
                other = expected[suite][task]
                assert (result["status"], result.get("value")) == (other["status"], other.get("value")), task
    values = [found[f"toy@step{step}"]["suites"]["losses"]["masked"]["value"] for step in STEPS]
    assert len(set(values)) == 3, "each checkpoint is another model"
    for name in ("dynamics-losses.png", "dynamics-bias.png"):
        assert (tmp_path / "all" / name).read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "all" / "dynamics.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert "## losses: toy" in text and f"| step{STEPS[0]} |" in text
    assert f"ettin order {run} --between" in text and "web " in text and "code " in text


def test_the_same_command_goes_on_and_opens_only_what_is_new(run, loads, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "toy")
    later = shutil.move(copy / "checkpoints/step-00000006", tmp_path / "later")
    assert dynamics(copy, *LOSSES, output=tmp_path / "out") == 0
    shutil.move(later, copy / "checkpoints/step-00000006")
    loads.clear()
    before = results.part_path(tmp_path / "out", "toy@step4", "losses", "masked").read_bytes()
    assert dynamics(copy, *LOSSES, output=tmp_path / "out") == 0
    assert loads == ["built"]
    assert "2 of 3 checkpoints are there already" in capsys.readouterr().out
    assert results.part_path(tmp_path / "out", "toy@step4", "losses", "masked").read_bytes() == before
    assert len(read_results(tmp_path / "out")["models"]) == 3
    with pytest.raises(ConfigError, match="with another .*give another --output"):
        dynamics(copy, *LOSSES[:2], "--rows", "3", output=tmp_path / "out")


def test_shards_are_parts_without_gaps():
    for units, count in ((15, 4), (3, 5), (1_180, 16)):
        owners = [[i for i in range(1, count + 1) if Shard(i, count).holds(number, units)] for number in range(units)]
        assert all(len(found) == 1 for found in owners) and owners == sorted(owners)
        sizes = [owners.count([i]) for i in range(1, count + 1)]
        assert max(sizes) - min(sizes) <= 1


def test_shards_take_tasks_of_checkpoints_and_join_into_one_result(make_exports, tmp_path):
    folder, local = make_exports("exports", ["step1", "step2", "step3"]), bias.write(tmp_path)
    command = [folder, "--suite", "bias", "--local", local]
    assert dynamics(*command, output=tmp_path / "whole") == 0
    for number in (1, 2, 3, 4):
        assert dynamics(*command, "--shard", f"{number}/4", output=tmp_path / "shards") == 0
    parts, models = {}, {}
    for name in ("whole", "shards"):
        models[name] = read_results(tmp_path / name)["models"]
        parts[name] = {
            (model, task): result["value"]
            for model, content in models[name].items() for task, result in content["suites"]["bias"].items()
        }  # fmt: skip
    assert parts["shards"] == parts["whole"] and len(parts["whole"]) == 15
    assert list(models["shards"]) == list(models["whole"])


def test_a_checkpoint_that_cannot_be_evaluated_is_listed_and_the_others_are_done(make_exports, tmp_path):
    folder, local = make_exports("exports", ["step1", "step2", "step3"]), bias.write(tmp_path)
    path = folder / "step2" / "model.safetensors"
    good = load_file(path)
    broken = {name: tensor.clone() for name, tensor in good.items()}
    broken["model.final_norm.weight"][3] = torch.nan
    save_file(broken, path, metadata={"format": "pt"})
    command = [folder, "--suite", "bias", "--local", local]
    with pytest.raises(CheckpointError, match="1 of 3 .*exports@step2: tensor model.final_norm.weight .*NaN"):
        dynamics(*command, output=tmp_path / "out")
    found = read_results(tmp_path / "out")["models"]
    assert {name: model["suites"]["bias"]["winogender_male"]["status"] for name, model in found.items()} == {
        "exports@step1": "done", "exports@step2": "not run", "exports@step3": "done",
    }  # fmt: skip
    assert "holds NaN" in (tmp_path / "out" / "dynamics.md").read_text()
    save_file(good, path, metadata={"format": "pt"})
    assert dynamics(*command, output=tmp_path / "out") == 0
    assert read_results(tmp_path / "out")["models"]["exports@step2"]["kind"] == "encoder"


def test_weights_that_changed_under_an_old_name_are_refused(make_exports, tmp_path):
    folder, local = make_exports("exports", ["step1", "step2"]), bias.write(tmp_path)
    command = [folder, "--suite", "bias", "--local", local]
    assert dynamics(*command, output=tmp_path / "out") == 0
    shutil.copyfile(folder / "step1/model.safetensors", folder / "step2/model.safetensors")
    with pytest.raises(ConfigError, match="of exports@step2 with another fingerprint"):
        dynamics(*command, output=tmp_path / "out")


def test_two_tokenizers_are_refused_before_any_work(make_exports, tmp_path):
    folder = make_exports("exports", ["step1", "step2"])
    path = folder / "step2" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["normalizer"] = None
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="exports@step2 .*has another tokenizer than exports@step1"):
        dynamics(folder, "--suite", "bias", "--local", bias.write(tmp_path), output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_decoders_and_encoders_are_two_curves_of_one_plot(make_exports, tmp_path):
    encoders, decoders = make_exports("enc", ["step1", "step2"]), make_exports("dec", ["step1"], objective="clm")
    command = [encoders, decoders, "--suite", "bias", "--local", bias.write(tmp_path)]
    assert dynamics(*command, output=tmp_path / "out") == 0
    names = {curve.name: len(curve.measurements) for curve in curves_of(read_results(tmp_path / "out")["models"])}
    assert names == {"enc": 2, "dec": 1}


def test_an_unknown_curve_is_no_mntp(make_exports, tmp_path):
    with pytest.raises(ConfigError, match="--mntp names x, but the curves are called exports"):
        dynamics(make_exports("exports", ["step1"]), "--suite", "bias", "--mntp", "x", output=tmp_path / "out")


def test_points_of_a_run_that_is_thinned_out_stay_in_the_results(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "toy")
    assert dynamics(copy, *LOSSES, output=tmp_path / "out") == 0
    shutil.rmtree(copy / "checkpoints/step-00000002")
    assert [point.revision for point in points_of([str(copy)])] == ["step4", "step6"]
    assert dynamics(copy, *LOSSES, output=tmp_path / "out") == 0
    (curve, *_) = curves_of(read_results(tmp_path / "out")["models"])
    assert [one.revision for one in curve.measurements] == ["step2", "step4", "step6"]
