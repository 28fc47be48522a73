#!/usr/bin/env python3
"""How long ``ettin adapt`` takes from the command to its first step, on a corpus that is prepared.

STARTs of random weights and a corpus are made first. A start is timed by the clock, from the launch of the process to
the beginning of the first step, which is when its record appears less the seconds that it says it took; then the run is
killed. Where others use the machine the CPU seconds of all its processes, the first step included, say more. Rows are
short so that the first step ends soon: it begins no sooner for that. The evaluation before the first step, of 16,384
tokens, is compute as the steps are, and is told beside the rest. Files are in the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.reporting import Claim, claim, show  # noqa: E402

TARGET = 10.0
PATIENCE = 600.0
FLAGS = (
    "--tokens", "20M", "--precision", "fp32", "--data.row-length", "1024", "--data.piece-length", "1024",
    "--layout.micro-batch-rows", "1", "--batch.rows", "2",
)  # fmt: skip


def make(place: Path, sizes: list[str]) -> None:
    """A corpus of Python's own library, and a START of each size with its tokenizer."""
    import torch

    from megatron_ettin.config.objective import OBJECTIVES
    from megatron_ettin.config.recipes import recipe
    from megatron_ettin.config.weights import shapes
    from megatron_ettin.corpus.build.build import build_corpus
    from megatron_ettin.export import Export, write_folder
    from megatron_ettin.tokenizer.train import train_tokenizer

    texts = [path.read_text(encoding="utf-8") for path in sorted(Path(json.__file__).parents[1].glob("*.py"))[:150]]
    train_tokenizer(iter(texts), 4_000).save(str(place / "tokenizer.json"))
    (place / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    for size in sizes:
        model, generator = recipe(size, "mlm", "extension").model, torch.Generator().manual_seed(0)
        tensors = {name: torch.randn(shape, generator=generator) / 50 for name, shape in shapes(model).items()}
        (place / size).mkdir()
        write_folder(place / size, Export(model=model, objective=OBJECTIVES["mlm"], tensors=tensors,
                                          tokenizer_json=place / "tokenizer.json"))  # fmt: skip
    build_corpus(place / "text.jsonl", place / "corpus", place / sizes[0])


@dataclass(frozen=True)
class Start:
    """One start, in seconds from the launch."""

    began: float
    """To the beginning of the first step."""
    cpu: float
    """CPU seconds of all processes up to the end of the first step."""


def cpu_of(group: int) -> float:
    """CPU seconds of the processes of a group, and of those of their children that have ended."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(fields[2]) == group:
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def first_step(place: Path, size: str, ranks: int, evaluate: bool) -> Start:
    """Launch a run and kill it after its first step."""
    run = place / "run"
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m"] if ranks > 1 else []
    command = [sys.executable, "-m", *launcher, "megatron_ettin", "adapt", str(place / size), "--run-folder", str(run)]
    command += ["--data", str(place / "corpus"), *FLAGS, *([] if evaluate else ["--observe.no-evaluate-start"])]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2" if ranks == 1 else "1"}
    log = (place / "log").open("w")
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True, cwd=place)
    try:
        while time.perf_counter() - began < PATIENCE and process.poll() is None:
            path = run / "metrics.jsonl"
            records = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
            passed = time.perf_counter() - began
            for record in records:
                if record["kind"] == "step":
                    return Start(passed - record["step_seconds"], cpu_of(process.pid))
            time.sleep(0.02)
        raise SystemExit(f"{' '.join(command)} made no step:\n{(place / 'log').read_text()[-3000:]}")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(run, ignore_errors=True)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["17m", "150m"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round of 17m on one process")
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    sizes, rounds, worlds = (["17m"], 1, [1]) if flags.quick else (flags.sizes, flags.rounds, [1, 2])
    cases = [(size, ranks) for size in sizes for ranks in worlds]
    starts: dict[tuple[str, int], list[Start]] = {case: [] for case in cases}
    shown: list[Claim] = []
    with tempfile.TemporaryDirectory(prefix="ettin-adapt-start-") as temporary:
        make(Path(temporary), sizes)
        for case in (case for _ in range(rounds) for case in cases):
            starts[case].append(first_step(Path(temporary), *case, evaluate=False))
        for (size, ranks), found in starts.items():
            seconds = [start.began for start in found]
            note = f"from {min(seconds):.1f} to {max(seconds):.1f} s in {rounds} rounds; CPU "
            note += f"{statistics.median(start.cpu for start in found):.1f} s, first step included; "
            note += f"load {os.getloadavg()[0]:.1f}"
            if size == "17m":
                whole = first_step(Path(temporary), size, ranks, evaluate=True)
                note += f"; with the evaluation before it {whole.began:.1f} s, CPU {whole.cpu:.1f} s"
            where = "alone" if ranks == 1 else f"under torchrun, {ranks} ranks"
            shown.append(
                claim(f"adapt {size}, {where}", statistics.median(seconds), None, "s", TARGET,
                      lower_is_better=True, note=note)
            )  # fmt: skip
    show(shown, flags.json)


if __name__ == "__main__":
    main()
