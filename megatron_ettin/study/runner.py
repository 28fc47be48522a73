"""Run the steps of a plan in order; what is done stays done."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from megatron_ettin.errors import DataError
from megatron_ettin.progress import elapsed, format_seconds
from megatron_ettin.publish import write_atomically
from megatron_ettin.study.plan import Step
from megatron_ettin.typed_json import parse_json

STATE_FILE = "study.json"
TAIL = 40
"""Lines of a failed step's log that are shown."""
Say = Callable[[str], None]
State = dict[str, dict[str, Any]]
"""Step name -> {"command", "status": done or failed, "seconds"}."""


def run_steps(steps: Sequence[Step], folder: Path, say: Say) -> list[str]:
    """Run every step that is not done and whose needs are; the names of those that failed or could not start.

    A step is done when it ended well with this very command and its product is there. State is kept in
    ``folder``/study.json after each step, output in ``folder``/logs. Ctrl-C ends the running step and the study.
    """
    state = read_state(folder)
    for number, step in enumerate(steps, start=1):
        head = f"[{number}/{len(steps)}] {step.name}"
        if is_done(step, state):
            say(f"{head}: done before")
            continue
        missing = [need for need in step.needs if state.get(need, {}).get("status") != "done"]
        if missing:
            say(f"{head}: left out, it needs {', '.join(missing)}")
            state[step.name] = {"command": list(step.command), "status": "failed", "seconds": 0.0}
            continue
        say(head)
        state[step.name] = run_step(step, folder, say)
        write_atomically(folder / STATE_FILE, json.dumps({"steps": state}, indent=2) + "\n")
    return [step.name for step in steps if not is_done(step, state)]


def is_done(step: Step, state: State) -> bool:
    """Whether the step ended well with this command and its product is still there."""
    known = state.get(step.name, {})
    same = known.get("status") == "done" and known.get("command") == list(step.command)
    return same and step.product.exists()


def read_state(folder: Path) -> State:
    """What the study's folder remembers; raises DataError when study.json is damaged."""
    path = Path(folder) / STATE_FILE
    if not path.exists():
        return {}
    try:
        steps: State = parse_json(path.read_text(encoding="utf-8"))["steps"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged: {error}; delete it: finished trainings will only be looked at") from error
    return steps


def run_step(step: Step, folder: Path, say: Say) -> dict[str, Any]:
    """Run one command, its output on the terminal and in a log; its entry in the state."""
    log = folder / "logs" / f"{step.name.replace(' ', '-')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with contextlib.nullcontext() if step.shown else elapsed(f"  {step.name}"):
        status = stream(step.command, log, step.shown)
    seconds = time.monotonic() - started
    well = status == 0 and step.product.exists()
    if well:
        say(f"  done in {format_seconds(seconds)}")
    else:
        why = f"exit status {status}" if status else f"{step.product} was not made"
        if not step.shown:
            say("".join(f"  {line}\n" for line in log.read_text(encoding="utf-8").splitlines()[-TAIL:]))
        say(f"  FAILED: {why}; its output is in {log}\n  {shlex.join(step.command)}")
    return {"command": list(step.command), "status": "done" if well else "failed", "seconds": round(seconds, 1)}


def stream(command: Sequence[str], log: Path, shown: bool) -> int:
    """Run a command, copying its output line by line; its exit status. After Ctrl-C it is read and waited for to its
    end, since a training that is interrupted saves and says so; then KeyboardInterrupt is raised."""
    with log.open("a", encoding="utf-8") as kept, noted_interrupt() as noted:
        kept.write(f"$ {shlex.join(command)}\n")
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace",
            env=os.environ | {"PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS", "ignore")},
        )  # fmt: skip
        assert child.stdout is not None
        try:
            for line in child.stdout:
                kept.write(line)
                if shown:
                    sys.stdout.write(f"  {line}")
                    sys.stdout.flush()
        finally:
            status = child.wait()
    if noted:
        raise KeyboardInterrupt
    return status


@contextlib.contextmanager
def noted_interrupt() -> Iterator[list[int]]:
    """Ctrl-C is put on the list instead of being raised in the middle of a read; a second one is raised at once."""
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if noted:
            raise KeyboardInterrupt
        noted.append(number)

    before = signal.getsignal(signal.SIGINT)
    if before != signal.SIG_IGN:  # where a shell has put the study into the background
        signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)
