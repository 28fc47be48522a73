"""The whole suite: every task for every kind, staged ones behind MNLI, nothing done twice, shards joined."""

import json

import pytest

from megatron_ettin.commands.evaluate import main
from megatron_ettin.errors import ConfigError, DataError
from megatron_ettin.evaluate.glue import fine_tunings
from megatron_ettin.evaluate.glue.kept import FOLDER
from megatron_ettin.evaluate.glue.settings import Budget, Setting
from megatron_ettin.evaluate.glue.suite import GlueSuite
from megatron_ettin.evaluate.glue.tasks import TASKS
from megatron_ettin.evaluate.suites.results import read_results
from megatron_ettin.evaluate.suites.session import evaluate_suites
from megatron_ettin.evaluate.suites.shard import ALONE, Shard
from megatron_ettin.evaluate.suites.subjects import opened_subjects
from megatron_ettin.evaluate.suites.suite import Options
from megatron_ettin.evaluate.suites.table import tables
from tests.evaluate.glue import synthetic
from tests.evaluate.glue.models import write_bert

pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install -e .[eval-glue]")

SHORT = "rate=1e-3,decay=1e-5,batch=6,epochs=1"


class Sweep(Budget):
    """Two settings; the second cannot learn."""

    def settings(self, task):
        return [Setting(rate=rate, decay=1e-6, batch=8, epochs=4) for rate in (3e-3, 1e-12)]


def evaluated(folders, local, output, tasks=(), shard=ALONE, budget=None, **options):
    chosen = Options(local=local, setting=SHORT, **options)
    suite = GlueSuite(chosen, budget or Budget.parse(chosen.budget, chosen.setting))
    with opened_subjects({name: str(folder) for name, folder in folders.items()}) as subjects:
        return evaluate_suites(subjects, [suite], chosen, output, tasks=tasks, shard=shard)["models"]


@pytest.fixture
def counted(monkeypatch):
    """Every fine-tuning that is begun, as (task's classes, examples, first row of the body)."""
    begun = []
    do = fine_tunings.fine_tune

    def counting(classifier, texts, *arguments):
        begun.append((classifier.classifier.weight.shape[0], len(texts)))
        return do(classifier, texts, *arguments)

    monkeypatch.setattr(fine_tunings, "fine_tune", counting)
    return begun


def test_every_task_runs_and_nothing_is_done_twice(make_folder, tmp_path, counted):
    local, folders = synthetic.write(tmp_path / "data"), {"m": make_folder("mlm")}
    results = evaluated(folders, local, tmp_path / "out")["m"]["suites"]["glue"]
    assert list(results) == list(TASKS)
    for name, result in results.items():
        assert result["status"] == "done" and result["metric"] == TASKS[name].metric and result["examples"] == 9
        assert result["details"]["training_examples"] == 12
        assert result["details"]["setting"] == str(Setting.parse(SHORT))
    assert "accuracy validation_mismatched" in results["mnli"]["others"]
    assert results["rte"]["identity"]["protocol"]["rules"]["start"] == "fine-tuned on mnli"
    assert "mnli, before" in results["rte"]["identity"]["data"]
    assert len(counted) == len(TASKS)
    (tmp_path / "out" / "parts" / "m--glue--rte.json").unlink()
    evaluated(folders, local, tmp_path / "out")
    assert len(counted) == len(TASKS), "the score is made again from the fine-tuning that was kept"


def test_all_four_kinds_run_and_share_a_column(make_folder, tmp_path):
    local = synthetic.write(tmp_path / "data", ["rte"])
    kinds = {"enc": "mlm", "dec": "clm", "enc-from-dec": "mntp", "dec-from-enc": "clm"}
    folders = {name: make_folder(objective, name=name) for name, objective in kinds.items()}
    (folders["dec-from-enc"] / "training.json").write_text(json.dumps({"run": {"stage": "cross"}}))
    models = evaluated(folders, local, tmp_path / "out", ["rte"])
    assert [model["kind"] for model in models.values()] == [
        "encoder", "decoder", "encoder-from-decoder", "decoder-from-encoder",
    ]  # fmt: skip
    protocols = [model["suites"]["glue"]["rte"]["identity"]["protocol"] for model in models.values()]
    assert ["last [SEP]" in protocol["reading"] for protocol in protocols] == [False, True, False, True]
    assert all(protocol["rules"] == protocols[0]["rules"] for protocol in protocols)
    (table,) = (line for line in "\n".join(tables(models)).splitlines() if line.startswith("| model"))
    assert table == "| model | kind | rte (accuracy) |"


def test_staged_tasks_begin_with_the_model_of_mnli(make_folder, tmp_path, monkeypatch, counted):
    starts = []
    load = fine_tunings.PackedClassifier.load

    def loading(subject, texts, classes, seed, start, dropout):
        classifier = load(subject, texts, classes, seed, start, dropout)
        starts.append((start, classifier.model.head.dense.weight.detach().clone()))
        return classifier

    monkeypatch.setattr(fine_tunings.PackedClassifier, "load", loading)
    local, folders = synthetic.write(tmp_path / "data"), {"m": make_folder("clm")}
    evaluated(folders, local, tmp_path / "out", ["rte", "cola"])
    (plain, first), (none, mnli), (stage, staged) = starts
    assert plain is None and none is None and stage.name.startswith("m--mnli--"), "cola, then mnli, then rte"
    assert (first == mnli).all() and (staged != mnli).any(), "dense of the head is kept, with what MNLI taught it"
    stage.unlink()
    (tmp_path / "out" / "parts" / "m--glue--rte.json").unlink()
    for path in (tmp_path / "out" / FOLDER).glob("m--rte*"):
        path.unlink()
    evaluated(folders, local, tmp_path / "out", ["rte", "cola"])
    assert stage.exists() and (starts[-1][1] == staged).all(), "lost weights are made again, the same ones"


def test_without_mnli_staged_tasks_begin_plainly_and_their_rules_say_so(make_folder, tmp_path):
    local = synthetic.write(tmp_path / "data", ["rte"])
    found = evaluated({"m": make_folder("mlm")}, local, tmp_path / "out")["m"]["suites"]["glue"]
    assert found["rte"]["identity"]["protocol"]["rules"]["start"] == "pretrained, mnli is absent"
    assert found["mnli"]["status"] == "not run" and "no folder" in found["mnli"]["reason"]
    with pytest.raises(DataError, match="asked for by --tasks, but not run: glue mnli: no folder"):
        evaluated({"m": make_folder("mlm")}, local, tmp_path / "two", ["mnli"])


def test_a_session_that_is_killed_goes_on_with_the_fine_tuning_that_it_was_in(
    make_folder, tmp_path, monkeypatch, counted
):
    local, folders = synthetic.write(tmp_path / "data", ["sst2"]), {"m": make_folder("mlm")}
    predict = fine_tunings.predict
    calls = []

    def breaking(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return predict(*arguments)

    monkeypatch.setattr(fine_tunings, "predict", breaking)
    with pytest.raises(KeyboardInterrupt):
        evaluated(folders, local, tmp_path / "out", ["sst2"], seeds=4)
    assert len(list((tmp_path / "out" / FOLDER).iterdir())) == 2
    found = evaluated(folders, local, tmp_path / "out", ["sst2"], seeds=4)["m"]["suites"]["glue"]["sst2"]
    assert len(counted) == 3 + 2 and found["details"]["seeds"] == [42, 43, 44, 45]
    assert len(found["details"]["scores"]) == 4 and "standard deviation over seeds" in found["others"]


def test_a_sweep_takes_the_best_setting_and_shards_share_it(make_folder, tmp_path, counted):
    local = synthetic.write(tmp_path / "data", ["sst2", "rte", "mnli"], training=24)
    folders, tasks = {"m": make_folder("mlm")}, ["sst2", "rte"]
    alone = evaluated(folders, local, tmp_path / "alone", tasks, budget=Sweep(name="sweep"), seeds=2)
    done = len(counted)
    found = alone["m"]["suites"]["glue"]["sst2"]
    assert found["details"]["setting"] == "rate=0.003,decay=1e-06,batch=8,epochs=4"
    swept = found["details"]["swept"]
    assert len(swept) == 2 and max(swept.values()) == swept[found["details"]["setting"]] > min(swept.values())
    for turn in range(3):
        for index in (1, 2):
            joined = evaluated(
                folders, local, tmp_path / "joined", tasks, Shard(index, 2), Sweep(name="sweep"), seeds=2
            )
            if not turn and index == 1:
                reason = joined["m"]["suites"]["glue"]["sst2"]["reason"]
                assert "belong to other shards; give the same command again" in reason
    assert len(counted) == 2 * done, "every fine-tuning once"
    for task in tasks:
        one, other = (models["m"]["suites"]["glue"][task] for models in (alone, joined))
        assert one["details"] == other["details"] and one["value"] == other["value"]


def test_a_damaged_outcome_is_named(make_folder, tmp_path):
    local, folders = synthetic.write(tmp_path / "data", ["sst2"]), {"m": make_folder("mlm")}
    evaluated(folders, local, tmp_path / "out", ["sst2"])
    (kept,) = (tmp_path / "out" / FOLDER).iterdir()
    assert json.loads(kept.read_text())["identity"]["task"] == "sst2"
    kept.write_text(kept.read_text()[:50])
    (tmp_path / "out" / "parts" / "m--glue--sst2.json").unlink()
    with pytest.raises(ConfigError, match="is no outcome of a fine-tuning.*remove it, and it is done again"):
        evaluated(folders, local, tmp_path / "out", ["sst2"])


def test_another_maker_s_model_stands_in_the_same_table(make_folder, tmp_path, capsys):
    local = synthetic.write(tmp_path / "data", ["mnli", "rte"])
    command = [
        f"ours={make_folder('mlm')}", f"bert={write_bert(make_folder('mlm'))}", "--suite", "glue",
        "--local", str(local), "--setting", SHORT, "--output", str(tmp_path / "out"),
    ]  # fmt: skip
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "| model | kind | mnli (accuracy) | rte (accuracy) |" in shown, "one column each: the rules are the same"
    models = read_results(tmp_path / "out")["models"]
    reading = models["bert"]["suites"]["glue"]["rte"]["identity"]["protocol"]["reading"]
    assert reading == "classifier of transformers, with its dropout"


def test_real_data_runs_quickly(make_folder, shared, tmp_path):
    local = shared / "evaluation"
    if not (local / "glue").is_dir():
        pytest.skip(f"no evaluation data at {local}")
    models = evaluated({"m": make_folder("mlm", maximum_length=512)}, local, tmp_path / "out", limit=8)
    results = models["m"]["suites"]["glue"]
    ran = {name for name, result in results.items() if result["status"] == "done"}
    assert ran == {"cola", "sst2", "stsb", "mnli", "rte"}, "the others have no training split there"
