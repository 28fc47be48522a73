#!/usr/bin/env python3
"""What a training step pays for what it does not compute with: owner, watchdog, guard and records; and for dropout.

A step is one of `pretrain` on one thread: a micro-batch of the 17M shape, or the first step of the tiny recipe, the
smallest there is. The parts are timed one by one, since their sum is less than what two timings of a step differ by.
Dropout keyed by the row is compared with the former one, keyed by the micro-batch, in whole steps that take turns.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.reporting import Claim, claim, cpu_seconds, require, show

require("torch", "transformers", "megatron.core", "tensorboard", install="pip install .")

import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.utils.tensorboard import SummaryWriter  # noqa: E402

from benchmarks.train_step_sides import RATE, Work, batch_of, run_of  # noqa: E402
from megatron_ettin.checkpoint.state import TrainState  # noqa: E402
from megatron_ettin.config.recipes import recipe  # noqa: E402
from megatron_ettin.config.run import LayoutConfig, RunConfig  # noqa: E402
from megatron_ettin.kernels.dropout import Dropout  # noqa: E402
from megatron_ettin.model import layer as layer_module  # noqa: E402
from megatron_ettin.observe.records import MetricsRecord  # noqa: E402
from megatron_ettin.observe.sinks import TensorBoard  # noqa: E402
from megatron_ettin.ownership import HEARTBEAT, claim_folder  # noqa: E402
from megatron_ettin.parallel.groups import Groups, initialize  # noqa: E402
from megatron_ettin.parallel.seeds import generator  # noqa: E402
from megatron_ettin.parallel.watchdog import Watchdog  # noqa: E402
from megatron_ettin.train.guard import judge  # noqa: E402
from megatron_ettin.train.parts import build_parts  # noqa: E402
from megatron_ettin.train.record import Recorder  # noqa: E402
from megatron_ettin.train.step import Asks, StepResult, train_step  # noqa: E402

SHARE, DROPOUT_SHARE = 2.0, 3.0
"""Per cent of a step: for owner, watchdog, guard and records together; for dropout by rows over the former."""
WORKS = {
    "tiny": Work(objective="mlm", precision="fp32", row_length=256, rows=16, pieces=(256,)),
    "17m": Work(objective="mlm", precision="fp32", row_length=1024, rows=2, pieces=(1024,)),
}
REPEATS = 300
"""Steps that each part is timed over."""
IDLE = 5.0
"""Seconds that the threads are watched for while nothing else runs."""


class Step:
    """The training step of a shape."""

    def __init__(self, size: str, groups: Groups, dropout: float = 0.0) -> None:
        config = run_of(WORKS[size])
        model = replace(recipe(size, "mlm", "pretrain").model, vocabulary=config.model.vocabulary)
        self.config: RunConfig = replace(config, model=replace(model, output_dropout=dropout))
        self.parts, self.batch, self.steps = build_parts(self.config, groups, sources=1), batch_of(WORKS[size]), 0

    def __call__(self) -> StepResult:
        self.steps += 1
        return train_step(self.parts, [self.batch], step=self.steps, rate=RATE, asks=Asks())


def parts_of_a_step(step: Step, result: StepResult, groups: Groups, seconds: float, folder: Path) -> dict[str, float]:
    """CPU seconds a step, by what takes them; ``seconds`` is how long a step lasts."""
    config = replace(step.config, observe=recipe("tiny", "mlm", "pretrain").observe)
    recent = ((5.0, 1.0),) * config.guard.window
    state = TrainState(step=40, recent=recent)

    def guard() -> None:
        verdict = judge(result.totals, state, config)
        state.after(tokens=1, accepted=verdict.accepted, numbers=(5.0, 1.0), window=config.guard.window)

    recorder = Recorder(config, groups, folder, ["source"])
    recorder.open(state)
    numbers = iter(range(41, 41 + 2 * REPEATS))

    def records() -> None:
        for _ in range(REPEATS):
            recorder.step(replace(state, step=next(numbers), tokens=1), result, RATE, seconds)

    silenced = cpu_seconds(lambda: with_output_to(folder / "console", records))
    recorder.close_sinks()

    claimed = claim_folder(folder, "run", "a benchmark")
    beat = a_call(lambda: (os.utime(claimed.path), claimed.require())) / HEARTBEAT
    claimed.release()
    with Watchdog(0, 1, 600.0) as watchdog:
        looking = cpu_seconds(lambda: time.sleep(IDLE)) / IDLE
        moving = 3 * a_call(lambda: watchdog.moved(1, "taking a step"))
    return {
        "guard": a_call(guard), "records": silenced / REPEATS, "owner": beat * seconds,
        "watchdog": moving + looking * seconds,
    }  # fmt: skip


def with_output_to(path: Path, work: Callable[[], None]) -> None:
    """Run ``work`` with the process's output in a file."""
    sys.stdout.flush()
    kept = os.dup(1)
    with path.open("w") as file:
        os.dup2(file.fileno(), 1)
        work()
        sys.stdout.flush()
    os.dup2(kept, 1)
    os.close(kept)


def a_call(work: Callable[[], object]) -> float:
    """CPU seconds of a call."""
    return cpu_seconds(lambda: [work() for _ in range(REPEATS)]) / REPEATS


def share_claim(size: str, groups: Groups, rounds: int) -> Claim:
    """Owner, watchdog, guard and records over a step."""
    step = Step(size, groups)
    result = step()
    seconds = min(cpu_seconds(step) for _ in range(rounds))
    with tempfile.TemporaryDirectory() as folder:
        parts = parts_of_a_step(step, result, groups, seconds, Path(folder))
    each = ", ".join(f"{name} {1e3 * value:.3f} ms" for name, value in parts.items())
    name = f"{size}: owner, watchdog, guard and records, of a step"
    note = f"{each}; a step {1e3 * seconds:.1f} ms"
    return claim(name, 100 * sum(parts.values()) / seconds, None, "%", SHARE, lower_is_better=True, note=note)


def written_together(run: Path, record: MetricsRecord) -> None:
    """REPEATS records by our sink."""
    sink = TensorBoard(run, 0)
    for _ in range(REPEATS):
        sink.write(record)
    sink.close()


def written_one_by_one(folder: str, record: MetricsRecord) -> None:
    """The same by torch's own function."""
    writer = SummaryWriter(folder)
    for _ in range(REPEATS):
        for name, value in record.items():
            if name not in ("kind", "step"):
                writer.add_scalar(f"step/{name}", value, record["step"])
    writer.close()


def tensorboard_claim(rounds: int) -> Claim:
    """One event a step against one a number."""
    record = {"kind": "step", "step": 1, **{f"number_{index}": 0.5 * index for index in range(13)}}
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            times["ours"].append(cpu_seconds(partial(written_together, Path(folder), record)))
            times["peer"].append(cpu_seconds(partial(written_one_by_one, f"{folder}/peer", record)))
    least = {side: 1e3 * min(values) / REPEATS for side, values in times.items()}
    return claim(
        "TensorBoard, 13 numbers a step", least["ours"], least["peer"], "ms of CPU time", lower_is_better=True,
        peer_name="SummaryWriter.add_scalar",
    )  # fmt: skip


@contextmanager
def dropout_by_micro_batch() -> Iterator[None]:
    """The former dropout: torch draws for the whole micro-batch, by a generator keyed by seed, step and layer."""

    def add_dropped(residual: Tensor, x: Tensor, dropout: Dropout) -> Tensor:
        draws = generator(x.device, "dropout", dropout.key, dropout.step, dropout.layer)
        kept = torch.empty_like(x).bernoulli_(1.0 - dropout.share, generator=draws)
        return torch.addcmul(residual, x, kept, value=1.0 / (1.0 - dropout.share))

    ours, layer_module.add_dropped = layer_module.add_dropped, add_dropped
    try:
        yield
    finally:
        layer_module.add_dropped = ours


def dropout_claim(groups: Groups, rounds: int) -> Claim:
    """Whole steps at the recipe's 0.1, in turns."""
    step = Step("17m", groups, dropout=0.1)
    step()
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(rounds):
        times["ours"].append(cpu_seconds(step))
        with dropout_by_micro_batch():
            times["peer"].append(cpu_seconds(step))
    least = {side: min(values) for side, values in times.items()}
    more = 100 * (least["ours"] / least["peer"] - 1)
    return claim(
        "17m: a step with dropout keyed by the row, over the former", more, None, "% more CPU time", DROPOUT_SHARE,
        lower_is_better=True, note=f"{least['ours']:.3f} s and {least['peer']:.3f} s",
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few rounds")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    groups = initialize(LayoutConfig())
    torch.set_num_threads(1)
    rounds = 4 if options.quick else options.rounds
    claims = [share_claim(size, groups, rounds) for size in WORKS]
    claims += [tensorboard_claim(min(rounds, 5)), dropout_claim(groups, rounds)]
    show(claims, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
