"""A plan walked from its first stage to its last: stopped anywhere it goes on, and ends bit for bit the same."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import time

import numpy as np
import pytest
from megatron.core.distributed import DistributedDataParallel

from megatron_ettin.check.plan import plan_status
from megatron_ettin.commands import check, estimate
from megatron_ettin.config.codec import run_from_dict
from megatron_ettin.errors import CheckpointError, ConfigError, DataError
from megatron_ettin.export.huggingface import read_canonical
from megatron_ettin.observe import read_records
from megatron_ettin.replay.replay import open_run_data, seen_step
from megatron_ettin.run_folder import list_checkpoints, read_config
from megatron_ettin.train import run as run_module
from megatron_ettin.train.record import Recorder
from tests.train.plans import (
    FOLDERS,
    PATIENCE,
    PLAN,
    SIZE,
    assert_same_end,
    go_through,
    kill,
    last_step,
    size_file,
    start,
)
from tests.train.runs import go, write_toy


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_toy(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def size(tmp_path_factory):
    return size_file(tmp_path_factory.mktemp("size"))


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "four.toml"
    path.write_text(PLAN)
    return str(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, corpus, size, plan):
    """The plan walked without a stop."""
    folder = tmp_path_factory.mktemp("walk") / "whole"
    assert go_through(size, plan, folder, "--data", corpus) == 0
    return folder


def stopping(monkeypatch, steps: list[tuple[int, int]]) -> None:
    """Send this process a signal when (stage, step) is recorded, each once."""
    record, left = Recorder.step, list(steps)

    def step_and_signal(self, state, *arguments):
        record(self, state, *arguments)
        if (int(self._run.name[0]), state.step) in left:
            left.remove((int(self._run.name[0]), state.step))
            os.kill(os.getpid(), signal.SIGUSR1)

    monkeypatch.setattr(Recorder, "step", step_and_signal)


def test_a_plan_stopped_in_every_stage_ends_bit_for_bit_as_one_that_is_not(
    tmp_path, monkeypatch, corpus, size, plan, whole
):
    """In the middle of a stage, at its last step, twice in one: records, weights and moments are the same."""
    last = last_step(whole / "2-masks")
    stopping(monkeypatch, [(1, 2), (1, 5), (2, 3), (2, last), (4, 1)])
    folder, signals = tmp_path / "parts", []
    while (received := go_through(size, plan, folder, "--data", corpus)) != 0:
        signals.append(received)
    assert signals == [signal.SIGUSR1] * 5
    assert_same_end(folder, whole)


def test_a_plan_that_is_killed_ends_bit_for_bit_as_one_that_is_not(tmp_path, corpus, size, plan, whole):
    """One command, in a process of its own, starts and resumes; killed once the second stage has saved."""
    files, folder = (size, plan, corpus), tmp_path / "killed"
    process, deadline = start(files, folder), time.monotonic() + PATIENCE
    while not list_checkpoints(folder / "2-masks"):
        assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()[-5000:]
        time.sleep(0.005)
    kill(process)
    assert not (folder / "4-end").exists()
    assert start(files, folder).wait(PATIENCE) == 0
    assert_same_end(folder, whole)
    log = (tmp_path / "log").read_text()
    assert "stage 2 of 4: masks" in log and "resuming" in log and "weights, optimizer, order" in log


def test_each_stage_starts_from_the_one_before_with_what_the_plan_says(whole):
    configs = [read_config(whole / name) for name in FOLDERS]
    assert [config.start.from_run for config in configs] == ["", *(str(whole / name) for name in FOLDERS[:-1])]
    assert [config.start.carry_optimizer for config in configs] == [False, True, False, True]
    assert [config.objective for config in configs] == ["clm", "mlm", "mlm", "mlm"]
    logs = [(whole / name / "console.log").read_text() for name in FOLDERS]
    assert "weights and optimizer" in logs[1] and "starting from" in logs[2] and "optimizer" not in logs[2]
    record = json.loads((whole / "plan.json").read_text())
    assert [stage["folder"] for stage in record["stages"]] == list(FOLDERS)
    assert record["plan"]["source"] == "a test" and run_from_dict(record["stages"][3]["config"]).stage == "decay"


def test_rows_of_a_carried_order_follow_and_other_stages_read_their_own(whole):
    """What was trained on, by the digests of the records: one order through two stages, another in the third."""
    data = [open_run_data(whole / name) for name in FOLDERS[:3]]
    steps = [last_step(whole / name) for name in FOLDERS[:3]]
    rows = [np.concatenate([d.step_rows(step) for step in range(n)]) for d, n in zip(data, steps, strict=True)]
    consumed = data[0].order.position_of(np.concatenate(rows[:2]))
    assert (consumed == np.arange(len(consumed))).all()
    assert (rows[2][:8] != rows[0][:8]).any()
    for name, opened, last in zip(FOLDERS, data, steps, strict=False):
        for record in read_records(whole / name, "step"):
            assert seen_step(opened, record["step"]).digest() == record["batch"]
        assert last > 0


def test_a_plan_that_is_over_is_left_alone(whole, corpus, size, plan):
    said: list[str] = []
    before = sorted(path for path in whole.rglob("*") if "owner" not in path.name)
    assert go_through(size, plan, whole, "--data", corpus, said=said) == 0
    assert sorted(path for path in whole.rglob("*") if "owner" not in path.name) == before
    assert said[-1].startswith("stage 4 of 4: end is over")


def test_what_a_later_stage_has_passed_need_not_be_kept(tmp_path, whole, corpus, size, plan):
    """Checkpoints of a stage are not asked for once the next one has saved; a moved folder goes on."""
    folder = tmp_path / "moved"
    shutil.copytree(whole, folder)
    for name in FOLDERS[:3]:
        shutil.rmtree(folder / name / "checkpoints")
    shutil.rmtree(folder / FOLDERS[3] / "checkpoints")
    shutil.rmtree(folder / FOLDERS[3])
    with pytest.raises(CheckpointError, match="3-again was at step"):
        go_through(size, plan, folder, "--data", corpus)
    shutil.copytree(whole / FOLDERS[3], folder / FOLDERS[3])
    assert go_through(size, plan, folder, "--data", corpus) == 0


def test_another_plan_in_the_folder_is_refused_with_what_differs(tmp_path, whole, corpus, size, plan):
    """Of a stage that has begun nothing may change, and its length neither once another goes on from it."""
    other = tmp_path / "four.toml"
    cases = [
        (PLAN.replace('name = "masks"', 'name = "masked"'), "stage 2 is 'masks' in the folder, and 'masked' here"),
        (PLAN.rpartition("[[stages]]")[0], "stage 4 is 'end' in the folder, and 'none' here"),
        (PLAN + "[stages.data]\nmask_share = 0.2\n", "stage 'end': data.mask_share: 0.15 -> 0.2"),
        (PLAN.replace('"masks"\n', '"masks"\nrate = 0.5\n'), "stage 'masks': schedule.peak_rate: 0.003 -> 0.0015"),
    ]
    for text, message in cases:
        other.write_text(text)
        with pytest.raises(ConfigError, match=message):
            go_through(size, str(other), whole, "--data", corpus)
    with pytest.raises(ConfigError, match=r"stage 'again': schedule.tokens: 12000 -> 24000"):
        go_through(size, plan, whole, "--data", corpus, "--scale", "2")
    assert json.loads((whole / "plan.json").read_text())["scale"] == 1.0


def test_a_folder_holds_a_run_or_a_plan(tmp_path, whole, corpus, size, plan):
    with pytest.raises(ConfigError, match="1-words: holds a single run"):
        go_through(size, plan, whole / "1-words", "--data", corpus)
    with pytest.raises(ConfigError, match="holds the stages of a plan; go on with --plan"):
        go(read_config(whole / "1-words"), whole)


def test_data_of_a_later_stage_is_looked_at_before_the_first_one_starts(tmp_path, corpus, size, plan):
    folder = tmp_path / "run"
    with pytest.raises(DataError, match="nothing"):
        go_through(size, plan, folder, "--data", corpus, f"end={tmp_path / 'nothing'}")
    assert not (folder / "plan.json").exists() and not (folder / "1-words").exists()


def test_a_stage_begins_again_where_a_person_says_so(tmp_path, whole, corpus, size, plan):
    folder = tmp_path / "again"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / FOLDERS[3])
    for checkpoint in list_checkpoints(folder / FOLDERS[2]):
        (checkpoint.path / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match="--start-over"):
        go_through(size, plan, folder, "--data", corpus)
    assert go_through(size, plan, folder, "--data", corpus, "--start-over") == 0
    assert_same_end(folder, whole)


def test_a_plan_goes_on_from_a_model_that_is_there(tmp_path, whole, corpus, size):
    """A finished encoder becomes a decoder."""
    flags = ("--data", corpus, "--objective", "clm", "--from", whole / FOLDERS[3])
    assert go_through(size, "cross", tmp_path / "run", *flags) == 0
    config = read_config(tmp_path / "run" / "1-cross")
    assert (config.objective, config.stage, config.start.from_run) == ("clm", "cross", str(whole / FOLDERS[3]))
    assert "weights; rope" in (tmp_path / "run" / "1-cross" / "console.log").read_text()


def test_a_screen_says_how_far_each_stage_is(tmp_path, whole, corpus, size, plan):
    lines = dict(plan_status(whole))
    assert lines["plan"] == str(whole) and lines["owner"] == "nobody"
    for place, name in enumerate(FOLDERS, start=1):
        assert lines[f"stage {place}"].startswith(f"{name[2:]}: over, step {last_step(whole / name)}, ")
    assert lines["run"].startswith(str(whole / "4-end")) and "would find the stage finished" in lines["a start"]
    folder = tmp_path / "part"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "4-end")
    for checkpoint in list_checkpoints(folder / "3-again"):
        shutil.rmtree(checkpoint.path)
    (folder / "3-again" / "saves.jsonl").unlink()
    (folder / "3-again" / "checkpoints" / "LATEST").unlink()
    lines = dict(plan_status(folder))
    assert lines["stage 3"].startswith("again: has begun; nothing of") and lines["stage 4"] == "end: has not begun"


def test_a_check_looks_at_every_stage_that_is_not_over_and_at_all_together(tmp_path, whole, corpus, size, plan, capsys):
    arguments = [size, "--plan", plan, "--data", str(corpus), "--quiet"]
    assert check.main([*arguments, "--run-folder", str(tmp_path / "new")]) == 0
    fresh = capsys.readouterr().out
    assert "weights, optimizer, order of stage words, when it is over" in fresh and "random weights from seed" in fresh
    assert [line for line in fresh.splitlines() if line.startswith("stage ")] == [
        f"stage {name[0]}: {name[2:]}" for name in FOLDERS
    ]
    together = fresh.rpartition("all stages\n")[2]
    assert "a fresh plan" in together and "made by one tokenizer" in together and "in 4 stages" in together
    assert "GiB on the fullest rank, in stage" in together and "at the end, " in together
    assert not (tmp_path / "new").exists()
    assert check.main([*arguments, "--run-folder", str(whole)]) == 0
    going = capsys.readouterr().out
    assert "goes on with stage 4 of 4, end" in going and "a checkpoint of its own" in going and "stage 1:" not in going
    assert check.main([*arguments, "--run-folder", str(whole), "--scale", "2"]) == 2
    assert "was begun with another plan" in capsys.readouterr().out
    missing = [size, "--plan", plan, "--data", str(corpus), f"end={tmp_path / 'nothing'}", "--quiet"]
    assert check.main([*missing, "--run-folder", str(tmp_path / "new")]) == 2
    assert "error  data" in capsys.readouterr().out
    assert estimate.main([size, "--plan", plan, "--data", str(corpus), "--json", str(tmp_path / "figures.json")]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    hours = {row[0]: row[-4] for row in rows if row and row[0] in ("words", "masks", "again", "end", "all")}
    assert len(hours) == 5 and len(json.loads((tmp_path / "figures.json").read_text())) == 4


def test_a_stage_that_is_over_leaves_its_memory_to_the_next(tmp_path, monkeypatch, corpus, size):
    """No model of an earlier stage is alive when the next one is built."""
    build, alive = run_module.build_parts, []

    def counted(*arguments, **settings):
        alive.append(sum(type(item) is DistributedDataParallel for item in gc.get_objects()))
        return build(*arguments, **settings)

    gc.collect()
    monkeypatch.setattr(run_module, "build_parts", counted)
    assert go_through(size, "clm-then-mlm", tmp_path / "run", "--data", corpus, "--scale", "1.5") == 0
    assert len(alive) == 2 and alive[1] <= alive[0]


def test_a_published_model_goes_through_next_tokens_and_back_to_masks(tmp_path, root):
    """The detour from a Hugging Face folder: weights from there, then from the stage before, 15 % masks at the end."""
    artifacts = root / "tests" / "artifacts"
    shape = json.loads((artifacts / "export-mlm" / "config.json").read_text())
    text = SIZE.replace("intermediate = 96", "intermediate = 64")
    assert (shape["num_hidden_layers"], shape["hidden_size"], shape["intermediate_size"]) == (2, 64, 64)
    for file in artifacts.glob("corpus.[bij]*"):
        shutil.copy(file, tmp_path / file.name)
    shutil.copy(artifacts / "corpus.tokenizer.json", tmp_path)
    flags = ("--data", tmp_path / "corpus", "--init-from", artifacts / "export-mlm", "--data.held-out-share", "0.1")
    folder = tmp_path / "run"
    assert go_through(size_file(tmp_path, text), "clm-detour", folder, *flags, read=read_canonical) == 0
    first, second = (read_config(folder / name) for name in ("1-clm", "2-mlm"))
    assert (first.objective, second.objective, second.data.mask_share) == ("clm", "mlm", 0.15)
    assert first.start.huggingface == str(artifacts / "export-mlm")
    assert second.start.from_run == str(folder / "1-clm") and second.data.stage_number == 17
    assert "starting from the weights in" in (folder / "1-clm" / "console.log").read_text()
