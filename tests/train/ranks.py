"""What needs several processes, in one launch: ``torchrun ... -m tests.train.ranks FOLDER CHECK...``."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from functools import partial
from pathlib import Path

import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from megatron_ettin.checkpoint.background import DeferredWriter
from megatron_ettin.checkpoint.load import find_newest
from megatron_ettin.config.codec import with_fields
from megatron_ettin.errors import CheckpointError
from megatron_ettin.observe import read_records
from megatron_ettin.parallel.groups import finish, initialize
from megatron_ettin.run_folder import list_checkpoints
from megatron_ettin.train.optimizer import ShardedOptimizer
from megatron_ettin.train.record import Recorder
from tests.checkpoint.layouts_round_trip import EVERY, resharded, round_trips
from tests.train.optimizer_under_layouts import every_layout
from tests.train.runs import ROW, config_of, go, losses, state_of, tensor_hashes, write_toy
from tests.train.small_memory import memory_for
from tools.diff_runs import differences

SHARED = {"layout__tensor": 2, "layout__pipeline": 1, "layout__sequence_parallel": True, "layout__overlap": True}


def rank() -> int:
    return torch.distributed.get_rank()


def barrier() -> None:
    torch.distributed.barrier()


def corpus_in(folder: Path) -> Path:
    """The toy corpus, written by the first rank."""
    if rank() == 0:
        write_toy(folder)
    barrier()
    return folder / "toy"


def resume(folder: Path) -> None:
    """Stopped at an odd step by a signal to the last rank alone, and continued: equal bit for bit."""
    config = config_of(corpus_in(folder), "mlm", steps=6, **SHARED)
    whole = go(config, folder / "whole").state
    record = Recorder.step

    def step_and_signal(self, state, *arguments):
        record(self, state, *arguments)
        if state.step == 2 and rank() == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    Recorder.step = step_and_signal
    outcome = go(config, folder / "parts")
    Recorder.step = record
    assert outcome.signal == signal.SIGTERM and outcome.state.step == 3, outcome
    assert go(config, folder / "parts").state == whole
    barrier()
    assert tensor_hashes(folder / "whole", whole.step) == tensor_hashes(folder / "parts", whole.step)
    assert differences(*(read_records(folder / name, "step") for name in ("whole", "parts"))) == []


def elsewhere(folder: Path) -> None:
    """A run continued under another layout goes on with the same losses."""
    corpus = corpus_in(folder)
    for name, layouts in (("one", [{}]), ("two", [SHARED, {"layout__pipeline": 2, "layout__data": 2}])):
        for steps, layout in zip((3, 6)[-len(layouts) :], layouts, strict=True):
            go(config_of(corpus, "clm", steps=steps, model__output_dropout=0.0, **layout), folder / name)
    barrier()
    for ours, theirs in zip(losses(folder / "two"), losses(folder / "one"), strict=True):
        assert abs(ours / theirs - 1) < 1e-5, (ours, theirs)


def overlapped(folder: Path) -> None:
    """Two data ranks that send while they compute learn the same, bit for bit, as two that send in between."""
    corpus = corpus_in(folder)
    for choice in ("on", "off"):
        go(config_of(corpus, steps=4, layout__tensor=2, layout__overlap=choice == "on"), folder / choice)
    barrier()
    assert losses(folder / "on") == losses(folder / "off")
    (last,) = list_checkpoints(folder / "on")
    assert tensor_hashes(folder / "on", last.step) == tensor_hashes(folder / "off", last.step)
    said = {choice: (folder / choice / "console.log").read_text() for choice in ("on", "off")}
    assert "sent while the passes compute: asked for" in said["on"] and "sent between the passes" in said["off"]


def rehearsal(folder: Path) -> None:
    """One of four data ranks has memory for one row: all take that, send beside the passes, and learn alike."""
    config = config_of(corpus_in(folder), steps=6, batch__rows=16, layout__overlap=True)
    with memory_for(1 if rank() == 2 else 4) as seen:
        last = go(config, folder / "chosen").state.step
    assert seen[:4] == [4, 2, 1, 1], seen
    go(with_fields(config, {"layout.fit_micro_batch": False}), folder / "given")
    barrier()
    assert losses(folder / "chosen") == losses(folder / "given")
    assert tensor_hashes(folder / "chosen", last) == tensor_hashes(folder / "given", last)


def resized(folder: Path) -> None:
    """In the middle of a growing batch from four data ranks to two: the steps of a run that nobody shares."""
    growing = {"batch__rows": 6, "batch__warmup_tokens": 15 * ROW, "batch__warmup_increment": 1}
    corpus, alone = corpus_in(folder), {"layout__tensor": 2, "layout__pipeline": 2}
    go(config_of(corpus, steps=5, **growing, **alone), folder / "alone")
    record = Recorder.step

    def step_and_signal(self, state, *arguments):
        record(self, state, *arguments)
        if state.step == 2 and rank() == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    Recorder.step = step_and_signal
    at = go(config_of(corpus, steps=5, **growing, layout__overlap=True), folder / "shared").state.step
    Recorder.step = record
    go(config_of(corpus, steps=5, **growing, layout__pipeline=2), folder / "shared")
    barrier()
    ours, theirs = (read_records(folder / name, "step") for name in ("shared", "alone"))
    assert at == 3 and len(ours) > 5, "it is stopped while the batch grows"
    for key in ("batch", "tokens", "labels"):
        assert [step[key] for step in ours] == [step[key] for step in theirs], key
    for step, other in zip(ours, theirs, strict=True):
        assert abs(step["loss"] / other["loss"] - 1) < 1e-5, (step, other)


def bad_gradient(folder: Path) -> None:
    """One bad number on one rank: no rank updates, all count."""
    config = config_of(corpus_in(folder), "mlm", steps=3, checkpoint__every_steps=1, **SHARED)
    gather, calls = ShardedOptimizer.gather_gradients, []

    def gather_and_spoil(self):
        gather(self)
        calls.append(0)
        if len(calls) == 2 and rank() == 2:
            self.optimizer.tensors()[0].grad.view(-1)[0] = float("nan")

    ShardedOptimizer.gather_gradients = gather_and_spoil
    go(config, folder / "run")
    ShardedOptimizer.gather_gradients = gather
    barrier()
    assert tensor_hashes(folder / "run", 1) == tensor_hashes(folder / "run", 2) != tensor_hashes(folder / "run", 3)
    assert state_of(folder / "run", 3)["refused"] == 1


def a_rank_cannot_write(config, run: Path, writer: type, method: str, *, step: int) -> None:
    """Train while the third rank's disk is full at the save of ``step``, in a method of the writer; all must say so."""
    write = getattr(writer, method)

    def write_or_fail(self, *arguments):
        if rank() == 2 and f"{step:08d}" in str(self.path):
            raise OSError(28, "No space left on device")
        return write(self, *arguments)

    setattr(writer, method, write_or_fail)
    try:
        go(config, run)
    except CheckpointError as error:
        assert "rank 2" in str(error) and "No space left" in str(error), error
    else:
        raise AssertionError("a failed save went unnoticed")
    finally:
        setattr(writer, method, write)


def failing_save(folder: Path) -> None:
    """One rank cannot write: every rank says so, nothing is published, the older checkpoint stays."""
    config = config_of(corpus_in(folder), "mlm", steps=3, checkpoint__every_steps=1)
    a_rank_cannot_write(config, folder / "run", FileSystemWriter, "write_data", step=2)
    assert [checkpoint.step for checkpoint in list_checkpoints(folder / "run")] == [1]
    assert find_newest(folder / "run").checkpoint.step == 1


def background(folder: Path) -> None:
    """Written while two more steps are taken, on every rank: what was copied is what a save in the loop writes."""
    fields = {"steps": 7, "checkpoint__every_steps": 3, **SHARED}
    corpus = corpus_in(folder)
    whole = go(config_of(corpus, **fields), folder / "loop").state
    record, write, later = Recorder.step, DeferredWriter.write_copies, threading.Event()

    def step(self, state, *arguments):
        record(self, state, *arguments)
        if state.step == 5:
            later.set()

    def write_later(self):
        assert later.wait(60)
        return write(self)

    Recorder.step, DeferredWriter.write_copies = step, write_later
    assert go(config_of(corpus, checkpoint__background=True, **fields), folder / "beside").state == whole
    Recorder.step, DeferredWriter.write_copies = record, write
    barrier()
    steps = [checkpoint.step for checkpoint in list_checkpoints(folder / "beside")]
    assert steps == [checkpoint.step for checkpoint in list_checkpoints(folder / "loop")] == [3, 6, whole.step]
    for number in steps:
        assert tensor_hashes(folder / "beside", number) == tensor_hashes(folder / "loop", number), number
        assert state_of(folder / "beside", number) == state_of(folder / "loop", number)
    assert find_newest(folder / "beside").checkpoint.step == whole.step


def failing_background(folder: Path) -> None:
    """One rank cannot write beside the training: every rank says so after the next step, and nothing is published."""
    config = config_of(corpus_in(folder), steps=9, checkpoint__every_steps=2, checkpoint__background=True)
    a_rank_cannot_write(config, folder / "run", DeferredWriter, "write_copies", step=4)
    barrier()
    assert [checkpoint.step for checkpoint in list_checkpoints(folder / "run")] == [2]
    assert not [path for path in (folder / "run" / "checkpoints").iterdir() if path.name.startswith(".")]
    assert len(losses(folder / "run")) <= 6, "it is told after the next step, or by the next save"


CHECKS = {
    "optimizer": lambda folder: every_layout(),
    "round_trips": round_trips,
    "resharded": resharded,
    "every_round_trip": partial(round_trips, cases=EVERY),
    "resume": resume,
    "elsewhere": elsewhere,
    "overlapped": overlapped,
    "rehearsal": rehearsal,
    "resized": resized,
    "bad_gradient": bad_gradient,
    "failing_save": failing_save,
    "background": background,
    "failing_background": failing_background,
}


def main(arguments: list[str]) -> None:
    """Run the named checks, all in the folder given first; prints one line for each that held."""
    warnings.simplefilter("ignore")
    folder, *names = arguments
    initialize(config_of(Path("none")).layout)
    for name in names:
        (Path(folder) / name).mkdir(parents=True, exist_ok=True)
        CHECKS[name](Path(folder) / name)
        barrier()
        if rank() == 0:
            print(f"held: {name}", flush=True)
    finish()


if __name__ == "__main__":
    main(sys.argv[1:])
