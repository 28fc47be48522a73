"""Spikes: judged by the steps before, reported, skipped, stopped at or gone back from; and changes on record."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from megatron_ettin.checkpoint.state import TrainState
from megatron_ettin.config.codec import fingerprint, with_fields
from megatron_ettin.config.recipes import recipe
from megatron_ettin.errors import CheckpointError, ConfigError, TrainingError
from megatron_ettin.observe import read_records
from megatron_ettin.rows.run_data import open_data
from megatron_ettin.run_folder import list_checkpoints, read_changes
from megatron_ettin.train import step as step_module
from megatron_ettin.train.guard import REFUSALS_BEFORE_STOP, REWINDS_BEFORE_STOP, judge
from megatron_ettin.train.run import train
from tests.support.launch import ettin
from tests.support.warm import warm
from tests.train.runs import ROW, config_of, go, no_folder, state_of, tensor_hashes
from tests.train.test_state import totals

CONFIG = with_fields(recipe("tiny", "mlm", "pretrain"), {"model.vocabulary": 50_368})
STEADY = TrainState(step=40, recent=((5.0, 2.0),) * 40)
EARLY = {"guard__after": 2, "guard__window": 8}


def spoil(monkeypatch, config, steps, **numbers):
    """The rows of these steps have these numbers, whenever they are read."""
    stage = open_data(config)
    bad = {stage.batch(stage.step_rows(step - 1), config.objective).digest() for step in steps}
    add_up = step_module.add_up

    def add_up_and_spoil(local, groups):
        found = add_up(local, groups)
        return replace(found, **numbers) if found.digest in bad else found

    monkeypatch.setattr(step_module, "add_up", add_up_and_spoil)


@pytest.mark.parametrize(
    ("numbers", "kind"),
    [
        ({"loss": 14.9, "gradient_norm": 19.9}, "good"), ({"loss": 15.1}, "spike"), ({"gradient_norm": 20.1}, "spike"),
        ({"loss": math.nan}, "not finite"), ({"gradient_norm": math.inf}, "not finite"),
    ],
)  # fmt: skip
def test_numbers_are_judged_by_the_median_of_the_accepted_steps_before(numbers, kind):
    verdict = judge(totals(**numbers), STEADY, CONFIG)
    assert (verdict.kind, verdict.accepted) == (kind, kind != "not finite")
    skip = with_fields(CONFIG, {"guard.on_spike": "skip"})
    assert judge(totals(**numbers), STEADY, skip).accepted == (kind == "good")
    assert not judge(totals(), STEADY, CONFIG, rewound=(41,)).accepted


def test_one_outlier_does_not_move_what_is_usual():
    state = replace(STEADY, recent=((5.0, 2.0),) * 20 + ((500.0, 300.0),) * 15)
    assert judge(totals(loss=30.0), state, CONFIG).kind == "spike"


def test_before_there_is_a_median_a_loss_far_beyond_guessing_is_a_spike():
    guessing = math.log(CONFIG.model.vocabulary)
    assert judge(totals(loss=2.9 * guessing, gradient_norm=1e9), TrainState(), CONFIG).kind == "good"
    assert judge(totals(loss=3.1 * guessing), TrainState(), CONFIG).kind == "spike"


def test_only_a_guard_that_acts_is_part_of_what_a_run_is():
    for fields, same in (
        ({"guard.on_spike": "stop", "guard.window": 5}, True), ({"guard.on_spike": "skip"}, False),
        ({"guard.on_spike": "rewind"}, False),
    ):  # fmt: skip
        assert (fingerprint(with_fields(CONFIG, fields)) == fingerprint(CONFIG)) == same


def test_a_report_changes_no_number_and_is_said_once_a_spell(corpus, tmp_path, monkeypatch):
    config = config_of(corpus, steps=7, **EARLY)
    whole = go(config, tmp_path / "whole").state.step
    spoil(monkeypatch, config, (4, 5), loss=1e3)
    go(config, tmp_path / "spikes")
    assert tensor_hashes(tmp_path / "whole", whole) == tensor_hashes(tmp_path / "spikes", whole)
    records = read_records(tmp_path / "spikes", "step")
    assert [record["step"] for record in records if "spike: loss 1000" in record.get("note", "")] == [4, 5]
    log = (tmp_path / "spikes" / "console.log").read_text()
    assert len(re.findall(r"^.*step \d+: spike.*$", log, re.MULTILINE)) == 1
    record = records[3]
    named = re.search(rf"ettin (order {tmp_path / 'spikes'} --step 4 --row ([\d ]+)) --text", log)
    assert named and [str(row) for row, _ in record["worst_rows"]] == named[2].split() and "not_finite" not in record
    printed = re.findall(r"^row (\d+):", ettin(*named[1].split()).stdout, re.MULTILINE)
    assert printed == named[2].split()


def test_a_skipped_spike_changes_nothing_but_the_count_also_across_a_resume(corpus, tmp_path, monkeypatch):
    config = config_of(corpus, steps=7, checkpoint__every_steps=1, guard__on_spike="skip", **EARLY)
    spoil(monkeypatch, config, (4,), gradient_norm=1e6)
    last = go(config, tmp_path / "whole").state
    assert tensor_hashes(tmp_path / "whole", 3) == tensor_hashes(tmp_path / "whole", 4)
    assert last.refused == 1 and last.updates == last.step - 1
    short = with_fields(config, {"schedule.tokens": config.schedule.tokens // 2})
    half = go(short, tmp_path / "parts").state.step
    assert go(config, tmp_path / "parts").state.step == last.step > half
    assert tensor_hashes(tmp_path / "whole", last.step) == tensor_hashes(tmp_path / "parts", last.step)
    assert state_of(tmp_path / "whole", last.step) == state_of(tmp_path / "parts", last.step)


def test_a_plateau_of_spikes_ends_a_run_that_skips_them(corpus, tmp_path, monkeypatch):
    config = config_of(corpus, steps=30, guard__on_spike="skip", checkpoint__every_steps=2, **EARLY)
    spoil(monkeypatch, config, range(6, 30), loss=1e3)
    with pytest.raises(TrainingError, match=f"{REFUSALS_BEFORE_STOP} steps in a row.*--change-at 4 "):
        go(config, tmp_path)


def test_a_spike_stops_the_run_with_the_last_good_checkpoint_and_saves_nothing(corpus, tmp_path, monkeypatch):
    config = config_of(corpus, steps=7, guard__on_spike="stop", checkpoint__every_steps=2, **EARLY)
    spoil(monkeypatch, config, (6,), loss=1e3)
    message = "step 6: loss 1000 is .* times the median .*step 4.*--change-at 4 --schedule.*--step 6 --row .* --text"
    with pytest.raises(TrainingError, match=message):
        go(config, tmp_path)
    assert [checkpoint.step for checkpoint in list_checkpoints(tmp_path)] == [2, 4]


def test_a_rewind_takes_the_same_rows_without_the_updates_that_led_to_the_spike(corpus, tmp_path, monkeypatch):
    """It ends as a run that refuses these updates from the start, and what was undone is kept."""
    fields = EARLY | {"guard__on_spike": "rewind", "guard__rewind_steps": 3, "checkpoint__every_steps": 2}
    config = config_of(corpus, steps=9, **fields)
    with monkeypatch.context() as patch:
        spoil(patch, config, (6,), loss=1e3)
        last = go(config, tmp_path / "rewound").state
        assert last.refused == 3 and last.refused_in_a_row == 0
        change = read_changes(tmp_path / "rewound")
        assert [(line["kind"], line["step"], line["refused"]) for line in change] == [("rewind", 2, [4, 5, 6])]
        assert [path.name for path in (tmp_path / "rewound" / "checkpoints").glob("undone-*")] == [
            "undone-step-00000004-0"
        ]
        assert (tmp_path / "rewound" / "metrics.repeated-1.jsonl").exists()
    notes = {record["step"]: record.get("note", "") for record in read_records(tmp_path / "rewound", "step")}
    assert [step for step, note in notes.items() if note.startswith("rewound")] == [4, 5, 6]
    lines = ettin("order", tmp_path / "rewound", "--step", 5, "--rows", 1).stdout
    assert "its update was refused" in lines and "as recorded" in lines
    assert "refused" not in ettin("order", tmp_path / "rewound", "--step", 3, "--rows", 1).stdout
    file = tmp_path / "order.parquet"
    said = ettin("order", tmp_path / "rewound", "--between", 2, 8, "--output", file).stdout
    assert re.findall(r"step (\d+): its update was refused \(rewound", said) == ["4", "5", "6"]
    table = pq.read_table(file).to_pydict()
    assert {step for step, updated in zip(table["step"], table["updated"], strict=True) if not updated} == {4, 5, 6}
    document = table["documents"][table["step"].index(5)][0]
    seen = ettin("order", tmp_path / "rewound", "--document", document).stdout
    refused = [int(step) for step in re.findall(r"step (\d+): .*; its update was refused \(rewound", seen)]
    assert 5 in refused and set(refused) <= {4, 5, 6}
    other = tmp_path / "refused"
    other.mkdir()
    (other / "changes.jsonl").write_text((tmp_path / "rewound" / "changes.jsonl").read_text())
    assert go(config, other).state.step == last.step
    assert tensor_hashes(other, last.step) == tensor_hashes(tmp_path / "rewound", last.step)


def test_a_run_does_not_go_back_for_ever(corpus, tmp_path, monkeypatch):
    fields = EARLY | {"guard__on_spike": "rewind", "guard__rewind_steps": 1, "checkpoint__every_steps": 4}
    config = config_of(corpus, steps=14, **fields)
    spoil(monkeypatch, config, range(6, 14), loss=1e3)
    with pytest.raises(TrainingError, match=f"gone back to step 4 {REWINDS_BEFORE_STOP} times.*--change-at 4"):
        go(config, tmp_path)
    assert len(read_changes(tmp_path)) == REWINDS_BEFORE_STOP


def test_a_change_at_a_checkpoint_is_recorded_and_the_same_command_goes_on(corpus, tmp_path):
    config = config_of(corpus, steps=6, checkpoint__every_steps=2)
    go(config, tmp_path)
    lower = with_fields(config, {"schedule.peak_rate": config.schedule.peak_rate / 2})
    with pytest.raises(ConfigError, match="--change-at STEP"):
        go(lower, tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint of step 3; steps there: 2, 4, 6"):
        train(lower, tmp_path, no_folder, change_at=3)
    with pytest.raises(ConfigError, match="no setting of the run changes"):
        train(config, tmp_path, no_folder, change_at=2)
    with pytest.raises(ConfigError, match="neither its model nor its rows:\n  batch.rows"):
        train(with_fields(config, {"batch.rows": 8}), tmp_path, no_folder, change_at=2)
    assert [checkpoint.step for checkpoint in list_checkpoints(tmp_path)][:3] == [2, 4, 6]
    last = train(lower, tmp_path, no_folder, change_at=2).state.step
    expected = tensor_hashes(tmp_path, last)
    (change,) = read_changes(tmp_path)
    assert change["step"] == 2 and list(change["fields"]) == ["schedule.peak_rate"]
    rates = [record["lr"] for record in read_records(tmp_path, "step")]
    assert rates[:4] == [rates[0]] * 2 + [rates[0] / 2] * 2 and len(rates) == last
    (tmp_path / "config.json").unlink()
    assert train(lower, tmp_path, no_folder, change_at=2).state.finished and go(lower, tmp_path).state.finished
    assert len(read_changes(tmp_path)) == 1 and tensor_hashes(tmp_path, last) == expected


def test_the_printed_remedy_of_a_run_that_diverges_works(corpus, tmp_path):
    """Real processes at a rate of up to 1e3; the flags that the error prints are added to its command."""
    tokens = 4 * ROW
    command = [
        "pretrain", "tiny", "mlm", "pretrain", "--run-folder", tmp_path / "run", "--data", corpus,
        "--data.row-length", ROW, "--data.piece-length", ROW, "--model.maximum-length", ROW, "--batch.rows", 4,
        "--batch.warmup-tokens", 0, "--layout.micro-batch-rows", 1, "--tokens", 12 * tokens, "--precision", "fp32",
        "--schedule.warmup-tokens", 6 * tokens, "--schedule.peak-rate", 1e3, "--checkpoint.every-steps", 1,
        "--model.layers", 3, "--model.hidden", 64, "--model.intermediate", 96, "--guard.on-spike", "stop",
    ]  # fmt: skip
    failed = warm(0, "megatron_ettin", *map(str, command), status=None)
    assert failed.returncode == 2 and "Traceback" not in failed.stderr, failed.stderr
    flags = re.search(r"(--change-at \d+) --schedule.peak-rate ([\d.e+]+)", failed.stderr)
    assert flags and float(flags[2]) == 500, failed.stderr
    lower = [*command, *flags[1].split(), "--schedule.peak-rate", 1e-3]
    warm(0, "megatron_ettin", *map(str, lower))
    assert read_changes(tmp_path / "run")[0]["fields"] == {"schedule.peak_rate": [1e3, 1e-3]}
    assert read_records(tmp_path / "run", "step")[-1]["loss"] < 10
    question = re.search(r"ettin (order \S+ --step \d+ --row [\d ]+) --text", failed.stderr)
    assert question and "digest" in ettin(*question[1].split()).stdout
