"""What ``ettin status`` says of a run: who owns it, how far it is, what is saved, and what a start would do."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from megatron_ettin.checkpoint.standing import foresee
from megatron_ettin.config.run import RunConfig
from megatron_ettin.cost.disk import milestones
from megatron_ettin.errors import CheckpointError, DamagedError
from megatron_ettin.observe.records import MetricsRecord, last_records
from megatron_ettin.ownership import owner_of
from megatron_ettin.progress import format_count, format_seconds
from megatron_ettin.run_folder import (
    OWNER,
    Checkpoint,
    checkpoints_of,
    free_bytes,
    is_run,
    known_settings,
    list_checkpoints,
    read_config,
    read_numbers,
)


def run_status(run: Path) -> Iterator[tuple[str, str]]:
    """Names and what they are, in reading order. Reads no tensor and hashes nothing.

    Raises CheckpointError when ``run`` is no run, OSError when it cannot be read.
    """
    if not is_run(run):
        raise CheckpointError(f"{run} is not the folder of a run; give the folder that was given to --run")
    config = known_settings(run) or read_config(run)
    records = last_records(run)
    steps = [record for record in records if record.get("kind") == "step"]
    evaluations = [record for record in records if record.get("kind") == "evaluation"]
    yield "run", f"{run}: {config.model.size} {config.objective} {config.stage}"
    yield "owner", owner_line(run)
    total, last = config.schedule.tokens, steps[-1] if steps else {"step": 0, "tokens": 0}
    share = min(1.0, last["tokens"] / total)
    done = f"{format_count(last['tokens'])} of {format_count(total)} tokens ({share:.0%})"
    yield "progress", f"step {last['step']:,}, {done}"
    if steps:
        loss = f"{last['loss']:.4f}" if isinstance(last.get("loss"), float) else "not finite"
        if evaluations:
            loss += f"; held out {evaluations[-1]['loss']:.4f} at step {evaluations[-1]['step']:,}"
        yield "loss", f"{loss}; {last['refused']:,} steps refused" if last.get("refused") else loss
        rate = f"learning rate {last['lr']:.2e}"
        if speed := last.get("tokens_per_second"):
            left = format_seconds(max(0, total - last["tokens"]) / speed)
            rate += f"; {format_count(speed)} tokens/s, {left} left at that rate"
        yield "rate", rate
    checkpoints = list_checkpoints(run)
    yield "saved", saved_line(checkpoints)
    yield "disk", disk_line(run, config, checkpoints, steps)
    if others := [path.name for path in checkpoints_of(run).glob("damaged-*")] if checkpoints else []:
        yield "damaged", f"{len(others)} set aside: {', '.join(sorted(others))}; look at them, then delete them"
    yield "a start", next_start(run)


def owner_line(run: Path) -> str:
    """Who trains it."""
    owner, standing = owner_of(run, OWNER)
    if owner is None or standing == "free":
        return "nobody"
    return {
        "alive": f"{owner}; it lives",
        "gone": f"{owner}; it is gone",
        "undecided": f"{owner}; its heart has beaten within the last minute",
    }[standing]


def saved_line(checkpoints: list[Checkpoint]) -> str:
    """The newest checkpoint, why and when it was saved."""
    if not checkpoints:
        return "no checkpoint"
    newest = checkpoints[-1]
    ago = format_seconds(time.time() - newest.path.stat().st_mtime)
    return f"step {newest.step:,} ({reason_of(newest)}), {ago} ago; {len(checkpoints)} checkpoints"


def reason_of(checkpoint: Checkpoint) -> str:
    """Why a checkpoint was saved."""
    try:
        return str(read_numbers(checkpoint).get("reason"))
    except DamagedError:
        return "damaged"


def disk_line(run: Path, config: RunConfig, checkpoints: list[Checkpoint], steps: list[MetricsRecord]) -> str:
    """Bytes that the run holds, that it will still take for its milestones, and that are free."""
    held = bytes_below(run)
    text = f"{format_count(held, 'B')} held"
    if checkpoints:
        one = bytes_below(checkpoints[-1].path)
        left = milestones(config, steps[-1]["step"], steps[-1]["tokens"]) if steps else milestones(config)
        text += f", about {format_count(left * one, 'B')} to come ({format_count(one, 'B')} a checkpoint)"
    return f"{text}, {format_count(free_bytes(run), 'B')} free"


def bytes_below(folder: Path) -> int:
    """Sizes of all files in a folder; what vanishes meanwhile counts nothing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except FileNotFoundError:
                continue
    return total


def next_start(run: Path) -> str:
    """What the same command would do."""
    if owner_of(run, OWNER)[1] == "alive":
        return "would be refused: the owner lives"
    try:
        found = foresee(run)
    except CheckpointError as error:
        return f"would be refused: {error}"
    if found.checkpoint is None:
        return "would begin at step 0: nothing has been saved yet"
    reasons = "; ".join(f"{checkpoint.path.name} is damaged ({reason})" for checkpoint, reason in found.skipped)
    skipped = f", setting aside {reasons}" if reasons else ""
    if reason_of(found.checkpoint) == "end":
        return f"would find the stage finished at step {found.checkpoint.step:,}{skipped}"
    step = f"{found.checkpoint.step:,}"
    return f"would go on from step {step}{skipped} (sizes fit; the content is verified at the start)"
