"""Tables compare like with like only, and say which differences lie within the intervals."""

import json
from pathlib import Path

import pytest

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluate.suites import published
from megatron_ettin.evaluate.suites.results import SCHEMA
from megatron_ettin.evaluate.suites.table import compare


def result(value, error=0.01, examples=100, limit=None, **changes):
    identity = {
        "version": "1", "protocol": {"rules": {"shots": 0}, "reading": "any"}, "data": {}, "limit": limit, "seeds": 1,
    }  # fmt: skip
    return {
        "status": "done", "metric": "acc", "value": value, "standard_error": error, "unit": "share",
        "interval": [value - 2 * error, value + 2 * error], "higher_is_better": True, "examples": examples,
        "identity": identity,
    } | changes  # fmt: skip


def write(folder: Path, suite: str, **models):
    folder.mkdir()
    content = {
        name: {"kind": "encoder", "fingerprint": name, "suites": {suite: tasks}} for name, tasks in models.items()
    }
    (folder / "results.json").write_text(json.dumps({"schema": SCHEMA, "models": content}))
    return folder


def test_the_best_is_bold_and_what_may_be_chance_is_marked(tmp_path):
    text = compare([
        write(tmp_path / "x", "s", strong={"t": result(0.60)}, near={"t": result(0.59)}),
        write(tmp_path / "y", "s", weak={"t": result(0.50)}),
    ])  # fmt: skip
    assert "| strong | encoder | **60.0 [58.0, 62.0]** |" in text
    assert "| near | encoder | 59.0 [57.0, 61.0] \u2248 |" in text
    assert "| weak | encoder | 50.0 [48.0, 52.0] |" in text


def test_lower_is_better_for_losses(tmp_path):
    loss = {"unit": "nats", "higher_is_better": False}
    text = compare([write(tmp_path / "x", "s", a={"t": result(2.0, **loss)}, b={"t": result(3.0, **loss)})])
    assert "| a | encoder | **2.000 [1.980, 2.020]** |" in text


def test_scores_of_different_rules_never_share_a_column(tmp_path):
    other = result(0.7)
    other["identity"]["protocol"]["rules"] = {"shots": 5}
    text = compare([
        write(tmp_path / "x", "s", a={"t": result(0.6)}), write(tmp_path / "y", "s", b={"t": other}),
        write(tmp_path / "z", "s", c={"t": result(0.5, limit=10)}),
    ])  # fmt: skip
    assert "| model | kind | t (acc) rules 1 | t (acc) rules 2 | t (acc) rules 3 |" in text
    assert "| a | encoder | 60.0 [58.0, 62.0] | - | - |" in text, "alone in its column it is not the best of any"
    assert '- t (acc) rules 2: limit null, rules {"shots": 5}' in text


def test_losses_of_different_readings_never_share_a_column(tmp_path):
    """With one side of a token alone it is another question; a generative task is the same for all."""
    loss = {"unit": "nats", "higher_is_better": False, "metric": "nats per token"}

    def read(reading, value):
        made = result(value, **loss)
        made["identity"]["protocol"]["reading"] = reading
        return made

    models = {name: {"masked": read(reading, value)} for name, reading, value in (
        ("encoder", "both sides", 2.0), ("decoder", "left context", 3.0), ("other", "left context", 4.0))}  # fmt: skip
    text = compare([write(tmp_path / "x", "losses", **models)])
    both, left = "masked, both sides (nats per token)", "masked, left context (nats per token)"
    assert f"| model | kind | {both} | {left} |" in text
    assert "| encoder | encoder | 2.000 [1.980, 2.020] | - |" in text, "nothing to compare with: not the best"
    assert "| decoder | encoder | - | **3.000 [2.980, 3.020]** |" in text
    assert "| model | kind | masked (nats per token) |" in compare([write(tmp_path / "y", "generative", **models)])


def test_models_of_one_name_and_other_weights_are_told_apart(tmp_path):
    first, second = write(tmp_path / "x", "s", a={"t": result(0.6)}), write(tmp_path / "y", "s", a={"t": result(0.5)})
    content = json.loads((second / "results.json").read_text())
    content["models"]["a"]["fingerprint"] = "other"
    (second / "results.json").write_text(json.dumps(content))
    text = compare([first, second])
    assert "| a |" in text and "| a (y) |" in text


def test_tasks_that_did_not_run_are_listed_with_their_reason(tmp_path):
    missing = {"status": "not run", "reason": "no folder x"}
    text = compare([write(tmp_path / "x", "s", a={"t": result(0.6), "u": missing}, b={"u": missing})])
    assert "- u (a, b): no folder x" in text


def test_published_figures_stand_beside_ours_where_the_split_is_whole(tmp_path):
    tasks = {"arc_challenge": result(0.3, examples=1_172), "hellaswag": result(0.4, examples=3_000)}
    text = compare([write(tmp_path / "x", "generative", a=tasks)])
    assert "| Ettin-Dec-150m (published) | | 28.6 | - |" in text


def test_published_figures_of_fine_tuned_models_stand_beside_those_trained_on_the_whole_split(tmp_path):
    rules = {"version": "1", "data": {}, "limit": None, "seeds": 1}
    for examples, shown in (("all", True), (3_200, False)):
        protocol = {"rules": {"training_examples": examples}, "reading": "any"}
        tasks = {"sst2": result(0.9, examples=872, identity={**rules, "protocol": protocol})}
        text = compare([write(tmp_path / str(examples), "glue", a=tasks)])
        assert ("| Ettin-Enc-150m (published) | | 95.8 |" in text) == shown


def test_published_figures_stand_in_no_column_of_other_examples(tmp_path):
    whole, part = {"arc_challenge": result(0.3, examples=1_172)}, {"arc_challenge": result(0.4, limit=100)}
    text = compare([
        write(tmp_path / "x", "generative", a=whole), write(tmp_path / "y", "generative", b=part),
    ])  # fmt: skip
    assert "| Ettin-Dec-150m (published) | | 28.6 | - |" in text


def test_no_result_takes_the_place_of_another_whatever_folders_are_called(tmp_path):
    """One name in three folders of one name: the same weights by other rules, and other weights."""
    folders = []
    for number, (fingerprint, shots) in enumerate((("f", 0), ("f", 5), ("f", 7), ("g", 0), ("f", 0))):
        score = result(0.1 + number / 10)
        score["identity"]["protocol"]["rules"] = {"shots": shots}
        (tmp_path / str(number)).mkdir()
        folders.append(write(tmp_path / str(number) / "same", "s", a={"t": score}))
        content = json.loads((folders[-1] / "results.json").read_text())
        content["models"]["a"]["fingerprint"] = fingerprint
        (folders[-1] / "results.json").write_text(json.dumps(content))
    rows = [line.split("|")[1].strip() for line in compare(folders).splitlines() if line.startswith("| a")]
    assert rows == ["a", "a (same)", "a (2/same)", "a (3/same)"], "the last is the first one's again"


def test_the_average_is_the_plain_mean_of_the_ten_tasks(tmp_path):
    tasks = {task: result(0.1 * number) for number, task in enumerate(published.TEN_TASKS)}
    text = compare([write(tmp_path / "x", "generative", a=tasks, b={"piqa": result(0.5)})])
    assert "mean (mean of 10)" in text
    row = next(line for line in text.splitlines() if line.startswith("| a |"))
    assert row.endswith("| 45.0 [44.4, 45.6] |")


def test_without_files_there_is_no_table():
    with pytest.raises(ConfigError, match="--table needs"):
        compare([])
