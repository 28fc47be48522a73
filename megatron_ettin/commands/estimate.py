"""``ettin estimate``: what a run, or every published size, needs before it starts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from megatron_ettin.commands.plan_flags import asks_for_plan, parse_plan
from megatron_ettin.commands.run_flags import RunFlags, parse_flags
from megatron_ettin.config import rules
from megatron_ettin.config.derived import model_ranks, with_vocabulary, with_world_size
from megatron_ettin.config.overlapping import overlap_line
from megatron_ettin.config.recipes import recipe
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.shapes import PUBLISHED_SIZES
from megatron_ettin.cost.buckets import save_memory
from megatron_ettin.cost.disk import disk
from megatron_ettin.cost.estimate import Estimate, Speed, estimate_run, figures, measured_flops, notes, on_device
from megatron_ettin.cost.fit import fitting_micro_batch
from megatron_ettin.cost.fp8 import fp8_line
from megatron_ettin.cost.hardware import GIBI, H100_CLUSTER, accelerator, peak_flops
from megatron_ettin.cost.scaling import (
    efficiency,
    fastest,
    layout_name,
    layouts,
    on_gpus,
    stage_seconds,
    step_time,
)
from megatron_ettin.errors import ConfigError
from megatron_ettin.plans.table import plan_table
from megatron_ettin.progress import format_count
from megatron_ettin.publish import write_atomically
from megatron_ettin.tables import aligned, pairs

HOURS_PER_DAY = 24
GPU_COUNTS = (8, 64, 256)
"""What the modelled step is shown for."""


@dataclass(frozen=True, kw_only=True)
class SpeedFlags:
    """Parameters, work, time, memory and pipeline bubble; without SIZE OBJECTIVE STAGE: all published sizes."""

    device: str = "H100"
    """Part of a known accelerator's name."""
    mfu: float = 0.0
    """Share of the device's peak that it reaches, waiting for other ranks apart, such as 0.4; 0: not known."""
    measured: str = ""
    """A run folder whose measured speed is taken instead of --mfu."""
    mean_piece: int = 0
    """Mean length of the pieces; 0: all of full length, the most expensive case."""
    json: str = ""
    """Write the figures to this file as well."""


@dataclass(frozen=True, kw_only=True)
class EstimateFlags(SpeedFlags, RunFlags):
    """Parameters, work, time, memory of the fullest rank, pipeline bubble and traffic of a run."""

    world: int = 0
    """Ranks; 0: one copy of the model, or layout.data copies."""
    fastest: bool = False
    """Also the fastest layout of 8, 64 and 256 H100 that the model of a step finds; takes seconds."""


def main(arguments: list[str]) -> int:
    """Estimate one run, or every published size when none is named."""
    if asks_for_plan(arguments):
        return plan(arguments)
    if arguments and not arguments[0].startswith("-"):
        config, asked = parse_flags(arguments, EstimateFlags, "estimate")
        one = estimated(config, asked)
        print(detail(one))
        if accelerator(asked.device) == accelerator("H100") and config.compute.precision == "bf16":
            print(f"\n{scaling(one.config, search=asked.fastest)}\n")
        finish([one], asked)
        return 0
    flags = tyro.cli(SpeedFlags, args=arguments, prog="ettin estimate")
    found = [
        estimate_run(recipe(size, objective, "pretrain"), speed(flags))
        for size in PUBLISHED_SIZES
        for objective in ("mlm", "clm")
    ]
    print(overview(found))
    finish(found, flags)
    return 0


def estimated(config: RunConfig, flags: EstimateFlags) -> Estimate:
    """The estimate of a run on the ranks that were asked for, with the vocabulary of its data."""
    if not config.model.vocabulary and config.data.data:
        from megatron_ettin.rows.run_data import stored_vocabulary  # only here: without data nothing of it is needed

        config = with_vocabulary(config, stored_vocabulary(config))
    if flags.world:
        rules.check(config, flags.world)
        config = with_world_size(config, flags.world)
        rules.check(config, flags.world)
    return estimate_run(config, speed(flags))


def plan(arguments: list[str]) -> int:
    """Print the estimate of each stage of a plan, and of all."""
    planned, flags = parse_plan(arguments, EstimateFlags, "estimate")
    found = [estimated(stage.config, flags) for stage in planned.stages]
    print(f"plan {planned.plan.name}\n{plan_table(planned.stages)}\n")
    print(sums(found, [stage.name for stage in planned.stages]))
    finish(found, flags)
    return 0


def sums(found: Sequence[Estimate], names: Sequence[str]) -> str:
    """One line a stage and one for all: time, memory and disk."""
    ranks = [model_ranks(item.config.layout) * max(1, item.config.layout.data) for item in found]
    hours = [item.device_hours for item in found]
    days = [spent / count / HOURS_PER_DAY for spent, count in zip(hours, ranks, strict=True)]
    memory, held = [item.memory.total / GIBI for item in found], [disk(item.config).most for item in found]
    work, tokens = [item.training_flops for item in found], [item.config.schedule.tokens for item in found]
    lines = [
        (name, format_count(t), f"{w:.3g}", f"{h:,.1f}", f"{d:,.2f}", f"{m:.2f}", format_count(b, "B"))
        for name, t, w, h, d, m, b in zip(
            [*names, "all"], [*tokens, sum(tokens)], [*work, sum(work)], [*hours, sum(hours)], [*days, sum(days)],
            [*memory, max(memory)], [*held, sum(held)], strict=True,
        )
    ]  # fmt: skip
    head = ("stage", "tokens", "FLOP", "device hours", f"days on {ranks[0]}", "GiB/rank", "disk")
    return f"{found[0].speed.device}, {basis(found[0])}\n\n" + aligned([head, *lines], left=1)


def speed(flags: SpeedFlags) -> Speed:
    """How fast devices are taken to be."""
    if flags.mfu and flags.measured:
        raise ConfigError("--mfu and --measured are two sources of one figure; give one")
    achieved = measured_flops(Path(flags.measured)) if flags.measured else 0.0
    return Speed(device=flags.device, mfu=flags.mfu, achieved=achieved, mean_piece=flags.mean_piece)


def overview(found: Sequence[Estimate]) -> str:
    """One line a size and objective."""
    rows = [
        (
            item.config.model.size,
            item.config.objective,
            f"{item.parameters.total:,}",
            f"{item.parameters.backbone:,}",
            f"{item.flops.forward / 1e6:,.1f}",
            f"{item.flops.training / 1e6:,.1f}",
            format_count(item.config.schedule.tokens),
            f"{item.memory.total / GIBI:.1f}",
            f"{item.tokens_per_second / 1e3:,.0f}k",
            f"{item.device_hours:,.0f}",
            f"{item.device_hours / HOURS_PER_DAY:,.1f}",
        )
        for item in found
    ]
    head = (
        "size", "objective", "parameters", "backbone", "forward MF/token", "training MF/token", "tokens", "GiB/rank",
        "tokens/s", "device hours", "device days",
    )  # fmt: skip
    return f"pretraining on {found[0].speed.device}, {basis(found[0])}\n\n" + aligned([head, *rows])


def basis(found: Estimate) -> str:
    """What the times rest on, in words."""
    if found.speed.achieved:
        return f"{found.speed.achieved / 1e12:.3g} TFLOP/s per device as measured"
    if found.speed.mfu:
        return f"{found.speed.mfu:.0%} of {found.peak / 1e12:.0f} TFLOP/s"
    return f"at its peak of {found.peak / 1e12:.0f} TFLOP/s"


def detail(found: Estimate) -> str:
    """Everything about one run."""
    config, work, held, sent = found.config, found.flops, found.memory, found.traffic
    layout = config.layout
    ranks = model_ranks(layout) * max(1, layout.data)
    hours = found.device_hours
    lines: list[tuple[str, str]] = [
        ("run", f"{config.model.size} {config.objective} {config.stage} ({config.variant})"),
        ("parameters", f"{found.parameters.total:,} (backbone {found.parameters.backbone:,}, embedding "
            f"{found.parameters.embedding:,}, head {found.parameters.head:,})"),
        ("forward", f"{work.forward / 1e6:,.1f} MFLOP per token (matrices {work.matrices / 1e6:,.1f}, "
            f"global attention {work.attention_global / 1e6:,.1f}, local {work.attention_local / 1e6:,.2f}, "
            f"head {work.head / 1e6:,.1f})"),
        ("training", f"{work.training / 1e6:,.1f} MFLOP per token, {found.training_flops:.3g} FLOP in "
            f"{format_count(config.schedule.tokens)} tokens"),
        ("speed", f"{found.tokens_per_second:,.0f} tokens/s per device ({basis(found)})"),
        ("time", f"{hours:,.1f} device hours; {hours / ranks:,.1f} hours = {hours / ranks / HOURS_PER_DAY:,.2f} days "
            f"on {ranks} {'such ranks' if found.speed.achieved else found.speed.device}"),
        ("layout", f"tensor {layout.tensor} x pipeline {layout.pipeline} x context {layout.context} x data "
            f"{max(1, layout.data)}; {found.micro_batches} micro-batches of {layout.micro_batch_rows} rows"),
    ]  # fmt: skip
    known = accelerator(found.speed.device)
    if known is not None and layout.fit_micro_batch:
        rows = fitting_micro_batch(config, known.memory)
        lines.append(("on one " + known.name, f"micro-batches of {rows} rows fit" if rows else "not one row fits"))
    if config.compute.precision != "fp32" and peak_flops(found.speed.device, "fp8"):
        lines.append(("fp8", fp8_line(on_device(config, found.speed.device), H100_CLUSTER)))
    if layout.data > 1:
        lost = found.idle
        growing = f", {lost.growing:.1%} while the batch grows" if config.batch.warmup_tokens else ""
        lines.append(
            (
                "idle",
                f"{lost.full:.1%} of the data ranks' time goes without rows in a full step{growing}, "
                f"{lost.stage:.1%} in the stage",
            )
        )
    if max(1, layout.data) * layout.context > 1:
        lines.append(("messages", overlap_line(config, "cuda")))
    if layout.pipeline > 1:
        lines += [
            ("placement", " ".join(map(str, found.placement)) + " layers per stage"),
            ("bubble", f"{found.bubble:.1%} of the device time is waiting"),
        ]
    lines.append(("memory", f"{held.total / GIBI:.2f} GiB on the fullest rank (pipeline rank {found.heaviest_rank})"))
    lines += [("  " + name, f"{value / GIBI:.3f} GiB") for name, value in asdict(held).items()]
    saving = save_memory(config)
    copies = f", {saving.copies / GIBI:.2f} GiB for copies" if saving.copies else ""
    lines.append(("save", f"host memory of a rank: {saving.joined / GIBI:.2f} GiB for tensors of several{copies}"))
    lines.append(("traffic", f"{sent.total / GIBI:.2f} GiB per step and rank"))
    lines += [("  " + name, f"{value / GIBI:.3f} GiB") for name, value in asdict(sent).items() if value]
    return pairs(lines)


def scaling(config: RunConfig, *, search: bool) -> str:
    """The modelled step of the run's layout on 8, 64 and 256 H100 and, where asked for, of the fastest layout."""
    head = ("GPUs", "layout", "rows", "step ms", "messages ms", "no rows", "efficiency", "GPU hours", "limit")
    ranks = model_ranks(config.layout)
    rows = [on_gpus(config, gpus, H100_CLUSTER) for gpus in GPU_COUNTS if gpus % ranks == 0]
    if search:
        rows += [fastest(list(layouts(config, gpus, H100_CLUSTER)), H100_CLUSTER) for gpus in GPU_COUNTS]
    lines = [
        (
            str(model_ranks(item.layout) * item.layout.data),
            layout_name(item.layout),
            str(item.layout.micro_batch_rows),
            f"{step.total * 1e3:,.1f}",
            f"{(step.exposed + step.shared) * 1e3:,.1f}",
            f"{step.idle:.1%}",
            f"{efficiency(item, H100_CLUSTER):.1%}",
            f"{stage_seconds(item, H100_CLUSTER) / 3600 * model_ranks(item.layout) * item.layout.data:,.0f}",
            step.limit,
        )
        for item, step in ((item, step_time(item, H100_CLUSTER)) for item in rows)
    ]
    links = f"NVLink {H100_CLUSTER.inside / 1e9:.0f} GB/s, InfiniBand {8 * H100_CLUSTER.across / 1e9:.0f} Gb/s a GPU"
    return (
        f"modelled, not measured on any GPU: H100 in nodes of {H100_CLUSTER.node}, {links}; own kernels, "
        f"layout.overlap; efficiency against one GPU\n\n{aligned([head, *lines])}"
    )


def finish(found: Sequence[Estimate], flags: SpeedFlags) -> None:
    """Notes, and the JSON file when one is asked for."""
    for line in dict.fromkeys(line for item in found for line in notes(item)):
        print(f"note: {line}")
    if flags.json:
        write_atomically(Path(flags.json), json.dumps([figures(item) for item in found], indent=2) + "\n")
