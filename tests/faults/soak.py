"""Random faults against real trainings: ``python -m tests.faults.soak --minutes N [--seed S] [--json FILE]``.

Each trial is a run of some steps on 1, 2 or 4 ranks. It is started again and again, each time with one fault drawn at
random, and at last without one. The end must be that of the run that nobody disturbed, bit for bit: every step's record
and every tensor of the last checkpoint. After each fault no process may be left after five seconds, no step that was
saved may be lost, and at the end nothing may lie in the folder that does not belong there.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.launch import ROOT, environment
from tests.train.runs import write_toy

ORPHANS_GONE = 5.0
"""Seconds after the end of a start within which all of its processes have ended."""
PATIENCE = 240.0
"""Seconds after which a start that does not end counts as hung."""
STEPS = 36
SAVE_EVERY = 4
TOKENS_PER_STEP = 512
BESIDE = 0.5
"""Share of the starts that write their checkpoints beside the training."""
FAULTS_OF_A_TRIAL = 6
"""How often a run is disturbed before it is left to finish."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)
DISK = [
    ("read", errno.EIO, "state.json"), ("read", errno.EIO, "manifest.json"), ("read", errno.EIO, ".distcp"),
    ("read", errno.EIO, "metrics.jsonl"), ("read", errno.EIO, "config.json"), ("open", errno.EIO, "checkpoints/step"),
    ("write", errno.ENOSPC, ".distcp"), ("write", errno.ENOSPC, "state.json"), ("write", errno.ENOSPC, "metrics.jsonl"),
    ("write", errno.ENOSPC, "console.log"), ("write", errno.EIO, ".metadata"), ("fsync", errno.EIO, "checkpoints"),
    ("rename", errno.EIO, "checkpoints/step"), ("rename", errno.ENOSPC, "LATEST"), ("flock", errno.ENOLCK, ""),
    ("link", errno.EPERM, "owner"), ("open", errno.EACCES, "tensorboard"),
]  # fmt: skip


class Failure(AssertionError):
    """What must never happen, with the trial's story."""


class Trial:
    """One run and what is done to it."""

    def __init__(self, folder: Path, corpus: Path, ranks: int, library: Path, chance: random.Random) -> None:
        self.folder, self.corpus, self.ranks, self.library, self.chance = folder, corpus, ranks, library, chance
        self.run = folder / "run"
        self.story: list[str] = []
        self.mark = f"soak-{os.urandom(8).hex()}"
        self.saved = 0
        self.last_command: list[str] = []

    def command(self) -> list[str]:
        options = (
            f"tiny mlm pretrain --run-folder {self.run} --data {self.corpus} --data.row-length 128"
            f" --data.piece-length 128 --model.layers 2 --model.hidden 64 --model.intermediate 96"
            f" --tokens {STEPS * TOKENS_PER_STEP} --schedule.warmup-tokens 0 --batch.rows 4 --batch.warmup-tokens 0"
            f" --micro-batch 1 --precision fp32 --data.held-out-share 0.05 --checkpoint.every-steps {SAVE_EVERY}"
        ).split()
        if self.chance.random() < BESIDE:
            options.append("--checkpoint.background")
        launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(self.ranks)]
        self.last_command = [sys.executable, "-m", *launcher, "-m", "megatron_ettin", "pretrain", *options]
        return self.last_command

    def start(self, extra: dict[str, str] | None = None, **options: object) -> subprocess.Popen[bytes]:
        log = (self.folder / "log").open("ab")
        variables = environment({"ETTIN_SOAK": self.mark, "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "60", **(extra or {})})
        settings: dict[str, object] = {"stdout": log, "stderr": subprocess.STDOUT, "start_new_session": True}
        return subprocess.Popen(self.command(), cwd=ROOT, env=variables, **(settings | options))  # type: ignore[call-overload]

    def processes(self) -> list[int]:
        """Living processes of this trial."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    ours = f"ETTIN_SOAK={self.mark}".encode() in (entry / "environ").read_bytes()
                    if ours and (entry / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                        found.append(int(entry.name))
        return found

    def ranks_of(self, launcher: int) -> list[int]:
        children = Path(f"/proc/{launcher}/task/{launcher}/children")
        return [int(child) for child in children.read_text().split()] if children.exists() else []

    def ended(self, process: subprocess.Popen[bytes]) -> int:
        """Wait for the end, check for orphans and lost checkpoints; the exit status."""
        try:
            status = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            for left in self.processes():
                os.kill(left, signal.SIGKILL)
            raise Failure(f"hung for {PATIENCE} s") from None
        deadline = time.monotonic() + ORPHANS_GONE
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        if left:
            for orphan in left:
                os.kill(orphan, signal.SIGKILL)
            raise Failure(f"{len(left)} processes alive {ORPHANS_GONE} s after the end")
        steps = self.steps()
        if steps and max(steps) < self.saved:
            raise Failure(f"step {self.saved} was saved, the newest is {max(steps)}")
        self.saved = max(steps, default=self.saved)
        return status

    def steps(self) -> list[int]:
        """Published checkpoints."""
        folder = self.run / "checkpoints"
        return [int(path.name[5:]) for path in folder.glob("step-*")] if folder.is_dir() else []

    def disturb(self, typical: float) -> str:
        """Start, do one harm, wait for the end; what was done."""
        kind = self.chance.choice(
            ["kill rank", "kill launcher", "kill all", "signal launcher", "signal rank", "disk", "second start",
             "closed output", "stopped rank"]
        )  # fmt: skip
        moment = self.chance.uniform(0.0, typical)
        if kind == "disk":
            call, number, word = self.chance.choice(DISK)
            after, times = self.chance.choice([0, 0, 1, 3, 8]), self.chance.choice([0, 0, 1])
            faults = {
                "LD_PRELOAD": str(self.library), "FAULTY_CALL": call, "FAULTY_ERRNO": str(number), "FAULTY_WORD": word,
                "FAULTY_BELOW": str(self.run), "FAULTY_AFTER": str(after), "FAULTY_TIMES": str(times),
            }  # fmt: skip
            self.story.append(f"disk: {call} {errno.errorcode[number]} {word!r} after {after} times {times}")
            status = self.ended(self.start(faults))
        elif kind == "closed output":
            read, write = os.pipe()
            process = self.start(stdout=write, stderr=write)
            os.close(write)
            time.sleep(moment)
            os.close(read)
            self.story.append(f"closed output at {moment:.1f}")
            status = self.ended(process)
        else:
            process = self.start()
            time.sleep(moment)
            self.story.append(f"{kind} at {moment:.1f}")
            self.harm(kind, process)
            status = self.ended(process)
        beside = ", saves beside" if "--checkpoint.background" in self.last_command else ""
        self.story[-1] += f" -> {status}, saved {self.saved}{beside}"
        return kind

    def harm(self, kind: str, process: subprocess.Popen[bytes]) -> None:
        ranks = self.ranks_of(process.pid)
        if kind == "kill all":
            os.killpg(process.pid, signal.SIGKILL)
            for rank in ranks:
                self.send(rank, signal.SIGKILL)
        elif kind == "kill launcher":
            self.send(process.pid, signal.SIGKILL)
        elif kind == "signal launcher":
            self.send(process.pid, self.chance.choice(SIGNALS[:4]))
        elif kind == "second start":
            second = self.start()
            if second.wait(PATIENCE) == 0 and process.poll() is None:
                raise Failure("a second start ended well beside the first")
        elif ranks:
            rank = self.chance.choice(ranks)
            if kind == "kill rank":
                self.send(rank, signal.SIGKILL)
            elif kind == "signal rank":
                self.send(rank, self.chance.choice(SIGNALS))
            else:
                self.send(rank, signal.SIGSTOP)
                time.sleep(self.chance.uniform(0.1, 3.0))
                self.send(rank, signal.SIGCONT)

    @staticmethod
    def send(process: int, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)

    def finish(self) -> None:
        """The start that nobody disturbs."""
        status = self.ended(self.start())
        if status != 0:
            raise Failure(f"the undisturbed start ended with {status}")

    def outcome(self) -> dict[str, object]:
        """All that must be equal: the records of the steps, and the tensors of the last checkpoint."""
        kept = ("kind", "step", "tokens", "loss", "lr", "gradient_norm", "labels", "batch", "sources", "refused")
        lines = [json.loads(line) for line in (self.run / "metrics.jsonl").read_text().splitlines()]
        records = [{name: line.get(name) for name in kept} for line in lines]
        last = self.run / "checkpoints" / f"step-{max(self.steps()):08d}"
        return {"records": records, "tensors": tensors_of(last)}

    def differs(self, expected: dict[str, object]) -> bool:
        """Whether the end is not that of the undisturbed run; records that a full disk never took may be missing."""
        found = self.outcome()
        if any("'metrics.jsonl'" in line and "ENOSPC" in line for line in self.story):
            records = expected["records"]
            assert isinstance(found["records"], list) and isinstance(records, list)
            if all(record in records for record in found["records"]):
                found["records"] = records
        return found != expected

    def leftovers(self) -> list[str]:
        """Files that no finished run has."""
        names = [path.relative_to(self.run).as_posix() for path in self.run.rglob("*")]
        return [
            name for name in names
            if "incomplete" in name or "deleted-" in name or "damaged-" in name or name.startswith("checkpoints/.")
        ]  # fmt: skip


def tensors_of(checkpoint: Path) -> dict[str, str]:
    """Hashes of all tensors of a checkpoint."""
    import torch
    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = FileSystemReader(str(checkpoint / "shards"))
    described = reader.read_metadata().state_dict_metadata
    state = {
        name: torch.empty(about.size, dtype=about.properties.dtype)
        for name, about in described.items()
        if isinstance(about, TensorStorageMetadata)
    }
    load(state, storage_reader=reader, no_dist=True)
    return {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in state.items()}


def build_library(folder: Path) -> Path:
    library = folder / "faulty_disk.so"
    source = Path(__file__).with_name("faulty_disk.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    return library


def soak(minutes: float, seed: int, worlds: list[int], keep: Path) -> dict[str, object]:
    """Trials until the time is over; counts. Failures are kept with their folder and story."""
    counts: collections.Counter[str] = collections.Counter()
    failures: list[dict[str, object]] = []
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ettin-soak-") as temporary:
        base = Path(temporary)
        library, corpus = build_library(base), write_toy(base)
        expected: dict[int, tuple[dict[str, object], float]] = {}
        trials = 0
        while time.monotonic() - started < 60 * minutes:
            chance = random.Random(seed * 1_000_003 + trials)
            ranks = chance.choice(worlds)
            if ranks not in expected:
                calm = Trial(base / f"calm-{ranks}", corpus, ranks, library, chance)
                calm.folder.mkdir()
                begun = time.monotonic()
                calm.finish()
                expected[ranks] = (calm.outcome(), time.monotonic() - begun)
            trial = Trial(base / f"trial-{trials}", corpus, ranks, library, chance)
            trial.folder.mkdir()
            trials += 1
            try:
                for _ in range(FAULTS_OF_A_TRIAL):
                    counts[trial.disturb(1.1 * expected[ranks][1])] += 1
                trial.finish()
                if trial.differs(expected[ranks][0]):
                    raise Failure("the end differs from that of the undisturbed run")
                if left := trial.leftovers():
                    raise Failure(f"left behind: {left}")
            except Failure as failure:
                failures.append({"trial": trials - 1, "ranks": ranks, "what": str(failure), "story": trial.story})
                shutil.copytree(trial.folder, keep / f"trial-{seed}-{trials - 1}", dirs_exist_ok=True)
                print(json.dumps(failures[-1], indent=1), flush=True)
            finally:
                for left in trial.processes():
                    os.kill(left, signal.SIGKILL)
                shutil.rmtree(trial.folder, ignore_errors=True)
            print(f"{trials} trials, {sum(counts.values())} events, {len(failures)} failures", flush=True)
    return {
        "minutes": round((time.monotonic() - started) / 60, 1), "seed": seed, "trials": trials,
        "events": sum(counts.values()), "by_kind": dict(counts), "failures": failures,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--worlds", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--keep", type=Path, default=Path("soak-failures"), help="where failed trials are kept")
    parser.add_argument("--json", type=Path, help="write the counts there")
    options = parser.parse_args()
    result = soak(options.minutes, options.seed, options.worlds, options.keep)
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if result["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
