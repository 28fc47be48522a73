"""Examples come in the hub's columns, and each bad row is named with its rule and remedy."""

import sys
from types import SimpleNamespace

import pytest

from megatron_ettin.errors import DataError
from megatron_ettin.evaluate.glue.tasks import HUB, TASKS, TRAIN
from megatron_ettin.evaluate.suites import optional
from megatron_ettin.evaluate.suites.suite import NotRunError
from tests.evaluate.glue import synthetic


def test_every_task_is_read_in_the_hub_columns(tmp_path):
    local = synthetic.write(tmp_path)
    for task in TASKS.values():
        found = task.read(local, TRAIN, 5)
        assert len(found.labels_N) == 5 and (found.seconds is None) == (len(task.columns) == 1)
    assert list(TASKS["mnli"].facts(local)) == ["train", "validation_matched", "validation_mismatched"]
    (local / "glue/mnli/validation_mismatched.jsonl.gz").unlink()
    assert TASKS["mnli"].splits(local) == ["train", "validation_matched"], "the second score is left out"
    (local / "glue/rte/train.jsonl.gz").unlink()
    with pytest.raises(NotRunError, match="has no train.jsonl.gz"):
        TASKS["rte"].facts(local)


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [("sst2", {"label": -1}, "row 2: label -1 marks a test split, whose answers are not public"),
     ("stsb", {"label": -1.0}, "row 2: label -1 marks a test split"),
     ("sst2", {"label": 2}, "row 2: label is 2; in sst2 it is one of the classes 0, 1"),
     ("mnli", {"label": 3}, "in mnli it is one of the classes 0, 1, 2"),
     ("mnli", {"label": True}, "label is True"), ("cola", {"label": "1"}, "label is '1'"),
     ("stsb", {"label": 5.5}, "label is 5.5; in stsb it is a number from 0 to 5"),
     ("rte", {"sentence2": None}, "row 2: sentence2 is None; it is a text")],
)  # fmt: skip
def test_a_bad_row_is_named(task, change, message, tmp_path):
    split = TASKS[task].split
    content = synthetic.rows(TASKS[task], 3)
    content[1] |= change
    path = synthetic.write_split(synthetic.write(tmp_path, [task]), task, split, content)
    with pytest.raises(DataError, match=message) as caught:
        TASKS[task].read(tmp_path, split, None)
    assert str(path) in str(caught.value)


def test_a_missing_column_is_named(tmp_path):
    synthetic.write_split(synthetic.write(tmp_path, ["qnli"]), "qnli", "train", [{"question": "a", "label": 0}])
    with pytest.raises(DataError, match="row 1: no column sentence"):
        TASKS["qnli"].read(tmp_path, "train", None)
    with pytest.raises(DataError, match="has no rows"):
        TASKS["qnli"].checked([], "file")


def test_the_hub_is_asked_for_its_own_names(monkeypatch):
    asked = []

    def load_dataset(path, config, split):
        asked.append((path, config, split))
        return synthetic.rows(TASKS[config], 4)

    monkeypatch.setattr(optional, "library", lambda module, extra: SimpleNamespace(load_dataset=load_dataset))
    for task in TASKS.values():
        for split in task.splits(None):
            assert len(task.read(None, split, 3).labels_N) == 3
    assert asked[0] == (HUB, "cola", "train") and (HUB, "mnli", "validation_mismatched") in asked


def test_an_offline_hub_names_the_way_without_it(monkeypatch, tmp_path):
    pytest.importorskip("datasets", reason="datasets is not installed: pip install -e .[eval-glue]")
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="nyu-mll/glue rte cannot be fetched .*--local FOLDER"):
        TASKS["rte"].read(None, "validation", 3)


def test_a_missing_library_is_named_before_any_work(monkeypatch):
    from megatron_ettin.errors import ConfigError
    from megatron_ettin.evaluate.glue.scores import require_libraries

    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"sklearn is not installed.*pip install 'megatron-ettin\[eval-glue\]'"):
        require_libraries()
