"""The runner does each step once, goes on where it stopped, and says what failed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_ettin.errors import DataError
from megatron_ettin.study.plan import Step
from megatron_ettin.study.runner import run_steps
from tests.support.launch import environment

COUNTING = (
    "import sys, pathlib; p = pathlib.Path(sys.argv[1]); p.write_text(p.read_text() + 'x' if p.exists() else 'x')"
)


def step(name: str, product: Path, needs: tuple[str, ...] = (), code: str = COUNTING, shown: bool = True) -> Step:
    return Step(
        name=name, command=(sys.executable, "-c", code, str(product)), product=product, needs=needs, shown=shown
    )


def test_finished_steps_are_not_repeated(tmp_path):
    steps = [step("one", tmp_path / "a"), step("two", tmp_path / "b", needs=("one",))]
    said: list[str] = []
    assert run_steps(steps, tmp_path, said.append) == []
    assert run_steps(steps, tmp_path, said.append) == []
    assert [(tmp_path / name).read_text() for name in "ab"] == ["x", "x"]
    assert said[-2:] == ["[1/2] one: done before", "[2/2] two: done before"]


def test_a_step_with_another_command_or_a_lost_product_runs_again(tmp_path):
    first = step("one", tmp_path / "a")
    run_steps([first], tmp_path, print)
    (tmp_path / "a").unlink()
    run_steps([first], tmp_path, print)
    assert (tmp_path / "a").read_text() == "x"
    run_steps([step("one", tmp_path / "a", code=COUNTING + " ")], tmp_path, print)
    assert (tmp_path / "a").read_text() == "xx"


def test_a_failure_stops_what_needs_it_and_nothing_else(tmp_path):
    steps = [
        step("bad", tmp_path / "a", code="print('what went wrong'); raise SystemExit(3)", shown=False),
        step("after", tmp_path / "b", needs=("bad",)),
        step("apart", tmp_path / "c"),
    ]
    said: list[str] = []
    assert run_steps(steps, tmp_path, said.append) == ["bad", "after"]
    text = "\n".join(said)
    assert "exit status 3" in text and "what went wrong" in text and "needs bad" in text
    assert (tmp_path / "c").exists() and not (tmp_path / "b").exists()
    assert "what went wrong" in (tmp_path / "logs" / "bad.log").read_text()
    repaired = [step("bad", tmp_path / "a"), *steps[1:]]
    assert run_steps(repaired, tmp_path, said.append) == []


def test_a_step_that_makes_nothing_has_failed(tmp_path):
    said: list[str] = []
    assert run_steps([step("idle", tmp_path / "a", code="pass")], tmp_path, said.append) == ["idle"]
    assert "was not made" in "\n".join(said)


def test_output_is_shown_and_kept(tmp_path, capfd):
    run_steps([step("talk", tmp_path / "a", code="print('hello'); " + COUNTING)], tmp_path, print)
    assert "hello" in capfd.readouterr().out
    assert "hello" in (tmp_path / "logs" / "talk.log").read_text()


def test_a_damaged_state_is_named(tmp_path):
    (tmp_path / "study.json").write_text(json.dumps([]))
    with pytest.raises(DataError, match="study.json is damaged"):
        run_steps([], tmp_path, print)


def test_ctrl_c_shows_what_a_step_says_while_it_saves_and_the_study_goes_on_later(tmp_path):
    """The terminal interrupts the study and what it runs; torchrun hands the signal on to its ranks."""
    saving = (
        "import os, pathlib, signal, sys, time\n"
        "def stop(*_): os.write(1, b'saved\\n'); sys.exit(130)\n"  # print may be at work when the signal comes
        "signal.signal(signal.SIGINT, stop); print('training', flush=True); time.sleep(60)"
    )
    study = (
        "import sys, pathlib, signal\n"
        "from megatron_ettin.study.runner import run_steps\n"
        "from tests.study.test_runner import step\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background ignores it
        f"run_steps([step('train', folder / 'a', code={saving!r})], folder, print)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", study, str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "[1/1] train" and child.stdout.readline().strip() == "training"
    os.killpg(child.pid, signal.SIGINT)
    shown, _ = child.communicate(timeout=60)
    assert "saved" in shown and child.returncode != 0
    assert "saved" in (tmp_path / "logs" / "train.log").read_text()
    assert run_steps([step("train", tmp_path / "a")], tmp_path, print) == []
