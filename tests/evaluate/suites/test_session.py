"""Outcomes are kept one by one, results are never mixed, and the same command goes on."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_ettin.errors import ConfigError, DataError
from megatron_ettin.evaluate.suites.results import SCHEMA, part_path, read_results
from megatron_ettin.evaluate.suites.session import chosen_tasks, evaluate_suites
from megatron_ettin.evaluate.suites.shard import Shard
from megatron_ettin.evaluate.suites.subjects import Subject
from megatron_ettin.evaluate.suites.suite import Measured, NotRunError, Options


def subject(name: str = "a", kind: str = "encoder", fingerprint: str = "f") -> Subject:
    return Subject(
        name=name, source=name, folder=Path(name), kind=kind, label_offset=0, ours=True, fingerprint=fingerprint
    )


class Counting:
    """A suite of three tasks: one works, one has no data, one breaks until it is mended."""

    name = "counting"
    version = "1"

    def __init__(self) -> None:
        self.ran, self.loads, self.broken, self.rules = [], 0, False, {"shots": 0}

    def tasks(self):
        return ["works", "absent", "breaks"]

    def data(self, task):
        if task == "absent":
            raise NotRunError("no folder absent")
        return {"file": task}

    def protocol(self, task, subject):
        return {"rules": self.rules, "reading": subject.kind}

    @contextlib.contextmanager
    def opened(self, subject):
        self.loads += 1

        def run(task):
            if task == "breaks" and self.broken:
                raise RuntimeError("power cut")
            self.ran.append((subject.name, task))
            return Measured(metric="acc", value=0.5, examples=10, standard_error=0.1, interval=(0.3, 0.7))

        yield run


def evaluate(suite, output, *names, **changes):
    options = changes.pop("options", Options())
    return evaluate_suites([subject(name) for name in names or ("a",)], [suite], options, output, **changes)


def test_a_task_without_data_is_listed_with_its_reason_and_the_others_run(tmp_path):
    suite = Counting()
    found = evaluate(suite, tmp_path)["models"]["a"]["suites"]["counting"]
    assert found["absent"] == {
        "status": "not run", "reason": "no folder absent", "identity": {},
        "environment": found["works"]["environment"], "command": found["works"]["command"],
    }  # fmt: skip
    assert found["works"]["value"] == 0.5 and found["works"]["identity"]["protocol"]["reading"] == "encoder"
    assert suite.loads == 1, "the model is loaded once for all tasks"
    assert read_results(tmp_path)["schema"] == SCHEMA


def test_a_task_asked_for_by_name_must_exist(tmp_path):
    with pytest.raises(ConfigError, match="--tasks work: no task of counting; did you mean 'works'"):
        evaluate(Counting(), tmp_path, tasks=["work"])
    suite = Counting()
    with pytest.raises(DataError, match="asked for by --tasks, but not run: counting absent: no folder absent"):
        evaluate(suite, tmp_path, tasks=["absent", "works"])
    assert suite.ran == [("a", "works")], "the rest is done all the same"


def test_a_finished_part_survives_what_comes_after_it_and_the_same_command_goes_on(tmp_path):
    suite = Counting()
    suite.broken = True
    with pytest.raises(RuntimeError, match="power cut"):
        evaluate(suite, tmp_path)
    assert read_results(tmp_path)["models"]["a"]["suites"]["counting"]["works"]["status"] == "done"
    suite.broken = False
    evaluate(suite, tmp_path)
    assert suite.ran == [("a", "works"), ("a", "breaks")], "what was done is not done again"
    assert suite.loads == 2
    evaluate(suite, tmp_path)
    assert suite.loads == 2, "and a model with nothing left is not loaded"


@pytest.mark.parametrize("change", ["rules", "limit", "weights"])
def test_results_of_other_settings_are_never_overwritten(change, tmp_path):
    suite = Counting()
    evaluate(suite, tmp_path)
    before = part_path(tmp_path, "a", "counting", "works").read_text()
    options, model = Options(), subject()
    if change == "rules":
        suite.rules = {"shots": 5}
    elif change == "limit":
        options = Options(limit=3)
    else:
        model = replace(model, fingerprint="other")
    with pytest.raises(ConfigError, match="with another .*give another --output"):
        evaluate_suites([model], [suite], options, tmp_path)
    assert part_path(tmp_path, "a", "counting", "works").read_text() == before


def test_shards_share_the_work_and_join_into_one_result(tmp_path):
    suite = Counting()
    for index in range(1, 5):
        evaluate(suite, tmp_path, "a", "b", shard=Shard.parse(f"{index}/4"))
    assert sorted(suite.ran) == [("a", "breaks"), ("a", "works"), ("b", "breaks"), ("b", "works")]
    models = read_results(tmp_path)["models"]
    assert {name: list(model["suites"]["counting"]) for name, model in models.items()} == {
        name: ["works", "absent", "breaks"] for name in ("a", "b")
    }


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "-1/2"])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match="--shard"):
        Shard.parse(text)


def test_tasks_without_names_are_all():
    assert chosen_tasks([Counting()], []) == {"counting": ["works", "absent", "breaks"]}


def test_a_damaged_part_is_named(tmp_path):
    evaluate(Counting(), tmp_path)
    path = part_path(tmp_path, "a", "counting", "works")
    path.write_text(path.read_text()[:40])
    with pytest.raises(ConfigError, match="is no result of a task"):
        evaluate(Counting(), tmp_path)


def test_results_of_another_schema_are_refused(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"text": {}, "models": {}}))
    with pytest.raises(ConfigError, match="has schema None"):
        read_results(tmp_path)
