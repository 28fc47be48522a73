"""What a run does when something is wrong: ``python -m tests.faults.run_cases FOLDER`` prints one JSON line a case.

Torch is imported once, behind ``faulty_disk.so`` (LD_PRELOAD); every case is a process of its own, forked from here.
A case begins with a copy of a run that was stopped after step 8 of 12 with checkpoints every 2 steps, harms it, starts
it, and looks at what came of it: ``goes on`` must end as the run that nobody harmed, ``stops`` must end with an error
that says what and how to go on, and must have renamed, cut or deleted nothing.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch  # noqa: F401 - imported before the forks

from megatron_ettin.check.status import run_status
from megatron_ettin.checkpoint import background as background_module
from megatron_ettin.checkpoint import save as save_module
from megatron_ettin.checkpoint.manifest import files_of, hash_share, write_manifest
from megatron_ettin.errors import EttinError
from megatron_ettin.run_folder import list_checkpoints, own_run, path_of
from megatron_ettin.train import store as store_module
from megatron_ettin.train.run import train
from tests.train.runs import config_of, no_folder, write_toy

STEPS, STOPPED_AT, SAVE_EVERY = 12, 8, 2
SHARD = "__0_0.distcp"
REFUSED = 3
FORETOLD = {"goes on": "would go on", "stops": "would be refused", "begins again": "would begin"}
"""What ``ettin status`` says of a start, for each outcome."""
CRASHED = 4
PATIENCE = 120.0


def nothing(run: Path) -> None:
    """Leave the folder as it is."""


@dataclass(frozen=True)
class Case:
    """One harm and what must come of it."""

    name: str
    outcome: Literal["goes on", "stops", "begins again"]
    harm: Callable[[Path], None] = nothing
    """Done to the folder before the start."""
    inside: Callable[[Path], None] = lambda run: None
    """Done in the process that trains, before it does."""
    disk: tuple[str, int, str] | None = None
    """Calls of this kind fail with this error where the path holds this word."""
    after: int = 0
    """Such calls that go well first."""
    says: str = ""
    """Part of what is said."""
    start_over: bool = False
    background: bool = False
    """Checkpoints are written beside the training."""
    told_before: bool = True
    """What is wrong can be seen in the folder without the content of tensors and the settings of the start."""


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def newest(run: Path) -> Path:
    return list_checkpoints(run)[-1].path


def sealed_again(folder: Path) -> None:
    """A manifest that fits what is there."""
    (folder / "manifest.json").unlink()
    write_manifest(folder, hash_share(folder, files_of(folder), 0, 1))


def without(name: str) -> Callable[[Path], None]:
    def harm(run: Path) -> None:
        (newest(run) / name).unlink()
        sealed_again(newest(run))

    return harm


def rewritten(name: str, change: Callable[[dict], dict], sealed: bool = True) -> Callable[[Path], None]:
    def harm(run: Path) -> None:
        path = newest(run) / name
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
        if sealed:
            sealed_again(newest(run))

    return harm


def cut_shard(run: Path) -> None:
    path = newest(run) / "shards" / SHARD
    os.truncate(path, path.stat().st_size - 100)
    sealed_again(newest(run))


def noisy_shard(run: Path) -> None:
    path = newest(run) / "shards" / SHARD
    path.write_bytes(bytes(reversed(path.read_bytes())))
    sealed_again(newest(run))


def pipe_for(name: str) -> Callable[[Path], None]:
    def harm(run: Path) -> None:
        (newest(run) / name).unlink()
        os.mkfifo(newest(run) / name)

    return harm


def every_manifest(run: Path) -> None:
    for checkpoint in list_checkpoints(run):
        content = bytearray((checkpoint.path / "manifest.json").read_bytes())
        content[0] ^= 1
        (checkpoint.path / "manifest.json").write_bytes(content)


def no_checkpoints(run: Path) -> None:
    for checkpoint in list_checkpoints(run):
        shutil.rmtree(checkpoint.path)
    (run / "checkpoints" / "LATEST").unlink()


def broken_record(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join([*lines[:3], '{"step": 4, "lo\n', *lines[3:]]))


def other_settings(run: Path) -> None:
    (run / "config.json").unlink()
    for checkpoint in list_checkpoints(run):
        path = checkpoint.path / "state.json"
        content = json.loads(path.read_text())
        content["config"]["schedule"]["peak_rate"] = 0.5
        path.write_text(json.dumps(content))
        sealed_again(checkpoint.path)


def leftovers(run: Path) -> None:
    (run / "checkpoints" / ".step-00000010.incomplete-1234" / "shards").mkdir(parents=True)
    (run / "checkpoints" / ".step-00000004.deleted-").mkdir()


def dead_owner(run: Path) -> None:
    child = os.fork()
    if child == 0:
        from megatron_ettin.ownership import claim_folder

        claim_folder(run, "run", "a start that is killed")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


LIVING: list[int] = []


def living_owner(run: Path) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        from megatron_ettin.ownership import claim_folder

        claim_folder(run, "run", "another start")
        os.write(write, b"x")
        time.sleep(600)
    os.read(read, 1)
    LIVING.append(child)


def no_patience(run: Path) -> None:
    from megatron_ettin import ownership

    ownership.GRACE = 0.3


def raising(module: object, name: str, error: BaseException) -> Callable[[Path], None]:
    def inside(run: Path) -> None:
        def fail(*arguments: object, **options: object) -> None:
            raise error

        setattr(module, name, fail)

    return inside


def lacking_shards(run: Path) -> None:
    write = save_module.write_shards

    def incomplete(folder: Path, *rest: object) -> None:
        write(folder, *rest)
        (folder / "common.pt").unlink()

    save_module.write_shards = incomplete


def taken_over(run: Path) -> None:
    """Another host takes the run over while a checkpoint is being written."""
    write = save_module.write_shards

    def slowly(folder: Path, *rest: object) -> None:
        write(folder, *rest)
        claims = sorted(run.glob(".run.owner-*"))
        content = json.loads(claims[-1].read_text())
        name = f".run.owner-{int(claims[-1].name[-8:]) + 1:08d}"
        (run / name).write_text(json.dumps(content | {"host": "another", "boot": "other"}))

    save_module.write_shards = background_module.write_shards = slowly


def stopped_by(number: int) -> Callable[[Path], None]:
    """The signal comes while step 10 is recorded; the next start, here the same process, goes on."""

    def inside(run: Path) -> None:
        signal.signal(number, signal.SIG_DFL)  # nohup leaves SIGHUP ignored, and a run respects that
        from megatron_ettin.train import record as record_module

        observe = record_module.Recorder.step

        def step(self: object, state: object, *rest: object) -> None:
            observe(self, state, *rest)  # type: ignore[arg-type]
            if state.step == 9:  # type: ignore[attr-defined]
                os.kill(os.getpid(), number)

        record_module.Recorder.step = step  # type: ignore[method-assign]

    return inside


def slow_writing(number: int) -> Callable[[Path], None]:
    """The signal comes while a checkpoint is written beside the training, which takes longer than a step."""

    def inside(run: Path) -> None:
        write, times = background_module.DeferredWriter.write_copies, iter([True])

        def slowly(self: object) -> object:
            if next(times, False):
                time.sleep(1.0)
                os.kill(os.getpid(), number)
                time.sleep(1.0)
            return write(self)  # type: ignore[arg-type]

        background_module.DeferredWriter.write_copies = slowly  # type: ignore[method-assign]

    return inside


def output_closed(run: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    os.dup2(write, 1)
    os.dup2(write, 2)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)


def failing_observer(name: str) -> Callable[[Path], None]:
    def inside(run: Path) -> None:
        from megatron_ettin.observe import sinks as sinks_module

        def fail(self: object, record: object) -> None:
            raise RuntimeError("an observer is broken")

        getattr(sinks_module, name).write = fail

    return inside


def evaluation_fails(run: Path) -> None:
    from megatron_ettin.rows import run_data as run_data_module

    def fail(self: object, *rest: object) -> None:
        raise RuntimeError("the held-out rows cannot be evaluated")

    run_data_module.RunData.held_out = fail  # type: ignore[method-assign]


CASES = [
    Case("nothing is wrong", "goes on"),
    Case(
        "a flipped bit in the newest shards", "goes on",
        lambda run: flip(newest(run) / "shards" / SHARD), says="damaged-step",
    ),
    Case(
        "no manifest in the newest", "goes on",
        lambda run: (newest(run) / "manifest.json").unlink(), says="never completed",
    ),
    Case(
        "an empty manifest", "goes on",
        lambda run: (newest(run) / "manifest.json").write_text(""), says="is damaged",
    ),
    Case("no common.pt, with a manifest that fits", "goes on", without("shards/common.pt"), says="had to be written"),
    Case("no index, with a manifest that fits", "goes on", without("shards/.metadata"), says="is missing"),
    Case("no shard, with a manifest that fits", "goes on", without(f"shards/{SHARD}"), says="had to be written"),
    Case("a shard cut short, with a manifest that fits", "goes on", cut_shard, says="names tensors up to"),
    Case(
        "a shard of noise, with a manifest that fits", "stops", noisy_shard, says="cannot be read", told_before=False,
    ),
    Case("a pipe in the place of the manifest", "goes on", pipe_for("manifest.json"), says="is a pipe"),
    Case("a pipe in the place of a shard", "goes on", pipe_for(f"shards/{SHARD}"), says="is a pipe"),
    Case(
        "a state without its numbers", "goes on",
        rewritten("state.json", lambda state: {"reason": "steps"}), says="holds no state",
    ),
    Case(
        "a shards folder that is a file", "goes on",
        lambda run: (shutil.rmtree(newest(run) / "shards"), (newest(run) / "shards").write_text("x")),
    ),
    Case("a broken line in metrics.jsonl", "goes on", broken_record),
    Case("metrics.jsonl is lost", "goes on", lambda run: (run / "metrics.jsonl").unlink()),
    Case("config.json is lost", "goes on", lambda run: (run / "config.json").unlink()),
    Case("config.json is damaged", "goes on", lambda run: (run / "config.json").write_text("{")),
    Case(
        "LATEST names what is not there", "goes on",
        lambda run: (run / "checkpoints" / "LATEST").write_text("step-00000900"),
    ),
    Case("leftovers of killed saves", "goes on", leftovers),
    Case("a dead owner", "goes on", dead_owner),
    Case("no hard links", "goes on", disk=("link", errno.EPERM, "owner")),
    Case("no flock", "goes on", disk=("flock", errno.ENOLCK, "")),
    Case("no room for metrics.jsonl", "goes on", disk=("write", errno.ENOSPC, "metrics.jsonl"), says="metrics.jsonl"),
    Case("no room for console.log", "goes on", disk=("write", errno.ENOSPC, "console.log")),
    Case("no room for LATEST", "goes on", disk=("write", errno.ENOSPC, "LATEST")),
    Case("TensorBoard cannot write", "goes on", disk=("open", errno.EACCES, "events.out"), says="TensorBoard"),
    Case("TensorBoard breaks", "goes on", inside=failing_observer("TensorBoard"), says="an observer is broken"),
    Case("nobody reads the output", "goes on", inside=output_closed),
    Case("the evaluation fails", "goes on", inside=evaluation_fails, says="cannot be evaluated"),
    *(
        Case(f"{number.name} while it trains", "goes on", inside=stopped_by(number), says="stopped by")
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT, signal.SIGUSR1)
    ),
    Case("state.json cannot be read", "stops", disk=("read", errno.EIO, "state.json"), says="Input/output error"),
    Case(
        "manifest.json cannot be read", "stops",
        disk=("read", errno.EIO, "manifest.json"), says="Input/output error",
    ),
    Case("shards cannot be read", "stops", disk=("read", errno.EIO, SHARD), says="Input/output error"),
    Case("the index cannot be read", "stops", disk=("read", errno.EIO, ".metadata"), says="Input/output error"),
    Case(
        "metrics.jsonl cannot be read", "stops",
        disk=("read", errno.EIO, "metrics.jsonl"), says="Input/output error",
    ),
    Case("config.json cannot be read", "stops", disk=("read", errno.EIO, "config.json"), says="Input/output error"),
    Case(
        "a checkpoint may not be opened", "stops",
        disk=("open", errno.EACCES, "step-00000008/"), says="Permission denied",
    ),
    Case(
        "a newer version's manifest", "stops",
        rewritten("manifest.json", lambda known: known | {"version": 2}, False), says="go on with the version",
    ),
    Case(
        "a newer version's state", "stops",
        rewritten("state.json", lambda known: known | {"config": known["config"] | {"new": 1}}),
        says="go on with the version",
    ),
    Case("a flipped bit in every manifest", "stops", every_manifest, says="--start-over"),
    Case("checkpoints/ is deleted", "stops", lambda run: shutil.rmtree(run / "checkpoints"), says="--start-over"),
    Case("every checkpoint is deleted", "stops", no_checkpoints, says="--start-over"),
    Case("other settings and config.json lost", "stops", other_settings, says="peak_rate", told_before=False),
    Case("a living owner", "stops", living_owner, no_patience, says="in use by process"),
    Case(
        "no memory for loading", "stops",
        inside=raising(store_module, "read_shards", MemoryError("no memory")), says="MemoryError",
    ),
    Case(
        "a module is missing for loading", "stops",
        inside=raising(store_module, "read_shards", ImportError("no module")), says="ImportError",
    ),
    Case("no room for shards", "stops", disk=("write", errno.ENOSPC, "checkpoints/.step"), says="make room"),
    Case(
        "no room for the manifest", "stops",
        disk=("open", errno.ENOSPC, "manifest.json"), says="No space left", after=4,
    ),
    Case("a flush fails", "stops", disk=("fsync", errno.EIO, "incomplete"), says="Input/output error"),
    Case("the rename fails", "stops", disk=("rename", errno.EIO, "checkpoints/step"), says="Input/output error"),
    Case("nothing is wrong, saved beside the training", "goes on", background=True),
    Case("SIGTERM while it saves beside the training", "goes on", inside=slow_writing(signal.SIGTERM), background=True),
    Case(
        "no room for shards, beside the training", "stops", disk=("write", errno.ENOSPC, "checkpoints/.step"),
        says="make room", background=True,
    ),
    Case(
        "a flush fails beside the training", "stops", disk=("fsync", errno.EIO, "incomplete"),
        says="Input/output error", background=True,
    ),
    Case(
        "the rename fails beside the training", "stops", disk=("rename", errno.EIO, "checkpoints/step"),
        says="Input/output error", background=True,
    ),
    Case(
        "taken over while it saves beside the training", "stops", inside=taken_over, says="taken over",
        background=True,
    ),
    Case("a save lacks a file", "stops", inside=lacking_shards, says="had to be written"),
    Case("taken over while it saves", "stops", inside=taken_over, says="taken over"),
    Case(
        "checkpoints/ is deleted, start over", "begins again",
        lambda run: shutil.rmtree(run / "checkpoints"), start_over=True,
    ),
    Case("every manifest is flipped, start over", "begins again", every_manifest, start_over=True),
    Case("nothing was saved yet", "begins again", lambda run: (no_checkpoints(run), (run / "saves.jsonl").unlink())),
]  # fmt: skip


def forked(work: Callable[[], None], log: Path) -> int:
    """Exit status of a child that runs ``work``, its output in ``log``."""
    child = os.fork()
    if child == 0:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        status = 0
        try:
            work()
        except EttinError as error:
            with contextlib.suppress(OSError):
                os.write(output, f"error: {error}\n".encode())
            status = REFUSED
        except BaseException:
            os.write(output, traceback.format_exc().encode())
            status = CRASHED
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def listing(run: Path) -> dict[str, bytes]:
    """Names and content below ``run`` that no start may change when it stops; its owner's claims and logs aside."""
    kept = [path for path in run.rglob("*") if path.is_file() and "owner-" not in path.name]
    free = ("environment.json", "command.txt", "console.log", "config.json", "data.json", "events.out", "LATEST")
    return {str(path.relative_to(run)): path.read_bytes() for path in kept if not path.name.startswith(free)}


KEPT = ("kind", "step", "tokens", "loss", "lr", "gradient_norm", "labels", "batch", "sources", "refused")


def records(run: Path) -> dict[int, dict]:
    """Step -> what its record says of the training."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: {name: line.get(name) for name in KEPT} for line in lines if line["kind"] == "step"}


def tensors(run: Path) -> bytes:
    return (path_of(run, STEPS) / "shards" / SHARD).read_bytes()


def judge(case: Case, run: Path, calm: Path, before: dict[str, bytes], status: int, said: str) -> list[str]:
    """What is not as it must be."""
    wrong = [] if case.says in said else [f"does not say {case.says!r}"]
    if "Traceback" in said:
        wrong.append("a traceback")
    if case.outcome == "stops":
        after = listing(run)
        lost = [name for name, content in before.items() if not after.get(name, b"").startswith(content)]
        if status != REFUSED:
            wrong.append(f"ended with {status}, must be refused")
        if lost:
            wrong.append(f"changed or removed {lost}")
        if any("incomplete" in name for name in after):
            wrong.append("left a staging folder")
        return wrong
    if status != 0:
        return [*wrong, f"ended with {status}, must go on"]
    if tensors(run) != tensors(calm):
        wrong.append("other tensors at the end")
    expected, found = records(calm), records(run)
    full = not (case.name.startswith("no room for metrics") or "lost" in case.name)
    if any(found.get(step, expected[step] if not full else None) != record for step, record in expected.items()):
        wrong.append("other records")
    if list(found) != sorted(set(found)):
        wrong.append("records out of order")
    if any(path.name.startswith(".") for path in (run / "checkpoints").iterdir()):
        wrong.append("left something behind")
    return wrong


def examine(case: Case, folder: Path, base: Path, calm: Path, corpus: Path) -> dict[str, object]:
    """One case, from its copy to its verdict."""
    run, log = folder / "run", folder / "log"
    shutil.copytree(base, run)
    case.harm(run)
    before = listing(run)
    foretold = dict(run_status(run))["a start"]

    def work() -> None:
        if case.disk:
            call, number, word = case.disk
            os.environ |= {
                "FAULTY_CALL": call, "FAULTY_ERRNO": str(number), "FAULTY_WORD": word, "FAULTY_BELOW": str(run),
                "FAULTY_AFTER": str(case.after),
            }  # fmt: skip
        case.inside(run)
        go(run, corpus, start_over=case.start_over, background=case.background)

    status = forked(work, log)
    while LIVING:
        os.kill(LIVING[-1], signal.SIGKILL)
        os.waitpid(LIVING.pop(), 0)
    said = log.read_text(errors="replace")
    wrong = judge(case, run, calm, before, status, said)
    seen = case.told_before and not case.start_over and (case.outcome != "stops" or case.harm is not nothing)
    if seen and not foretold.startswith(FORETOLD[case.outcome]):
        wrong.append(f"ettin status says that a start {foretold}")
    if case.outcome == "stops" and not wrong and case.disk:  # the same command goes on when the disk is well
        again = forked(lambda: go(run, corpus, background=case.background), log)
        wrong = judge(Case(case.name, "goes on"), run, calm, {}, again, log.read_text(errors="replace"))
    return {"case": case.name, "wrong": wrong, **({"said": said[-3000:]} if wrong else {})}


def go(run: Path, corpus: Path, *, start_over: bool = False, background: bool = False) -> None:
    """Own the run and train it to its end, as often as a signal stops it."""
    config = config_of(
        corpus, steps=STEPS, checkpoint__every_steps=SAVE_EVERY, observe__evaluate_every=4,
        checkpoint__background=background,
    )  # fmt: skip
    with own_run(run, "a case") as claim:
        for _ in range(3):
            outcome = train(config, run, no_folder, start_over=start_over, still_owned=claim.require)
            if not outcome.signal:
                return


def stopped_run(calm: Path, base: Path) -> None:
    """The run as it was after step 8."""
    shutil.copytree(calm, base)
    for checkpoint in list_checkpoints(base):
        if checkpoint.step > STOPPED_AT:
            shutil.rmtree(checkpoint.path)
    for name in ("metrics.jsonl", "saves.jsonl"):
        lines = (base / name).read_text().splitlines(keepends=True)
        (base / name).write_text("".join(line for line in lines if json.loads(line)["step"] <= STOPPED_AT))
    (base / "checkpoints" / "LATEST").write_text(f"step-{STOPPED_AT:08d}\n")


def main(arguments: list[str]) -> None:
    """Every case, or those whose names hold a word, or are one (=NAME)."""
    warnings.simplefilter("ignore")
    folder, words = Path(arguments[0]), arguments[1:]
    corpus = write_toy(folder)
    calm, base = folder / "calm", folder / "base"
    assert forked(lambda: go(calm, corpus), folder / "log") == 0, (folder / "log").read_text()
    stopped_run(calm, base)
    for number, case in enumerate(CASES):
        if not words or any(word in case.name if word[0] != "=" else word[1:] == case.name for word in words):
            place = folder / str(number)
            place.mkdir()
            print(json.dumps(examine(case, place, base, calm, corpus)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
