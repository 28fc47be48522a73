"""What a run needs before it starts: work, time, memory, waiting and traffic."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.config.run import RunConfig
from megatron_ettin.cost.communication import Traffic, traffic
from megatron_ettin.cost.count import Flops, Parameters, mean_flops_per_token, parameters
from megatron_ettin.cost.fit import fitted
from megatron_ettin.cost.hardware import ACCELERATORS, GIBI, accelerator, peak_flops
from megatron_ettin.cost.idle import Idle, advice, idle
from megatron_ettin.cost.memory import Memory, heaviest
from megatron_ettin.cost.placement import layer_placement, micro_batch_count, timeline
from megatron_ettin.errors import ConfigError, DataError
from megatron_ettin.observe.records import read_records
from megatron_ettin.run_folder import read_config, read_environment

SECONDS_PER_HOUR = 3600
SMALLEST_PIPELINED = 100_000_000
"""Below this many parameters the head outweighs the layers, and pipeline ranks mostly wait."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast devices are taken to be."""

    device: str = "H100"
    """Part of a known accelerator's name."""
    mfu: float = 0.0
    """Model FLOPs over peak FLOPs while a device works, waiting for others apart; 0: not known."""
    achieved: float = 0.0
    """Training FLOP/s of one device as measured, waiting included; it replaces peak and MFU; 0: not measured."""
    mean_piece: int = 0
    """Mean length of the pieces; 0: all of full length, the most expensive case."""


@dataclass(frozen=True)
class Estimate:
    """The figures of one run."""

    config: RunConfig
    speed: Speed
    parameters: Parameters
    flops: Flops
    """Forward, per token."""
    peak: float
    """FLOP/s of one device."""
    memory: Memory
    heaviest_rank: int
    bubble: float
    placement: tuple[int, ...]
    micro_batches: int
    """Of the busiest data rank in a full step."""
    idle: Idle
    traffic: Traffic

    @property
    def training_flops(self) -> float:
        """Of the whole stage."""
        return self.flops.training * self.config.schedule.tokens

    @property
    def flops_per_second(self) -> float:
        """Training FLOP/s of one device: as measured, or at the given MFU, or else at its peak."""
        working = (1.0 - self.bubble) * (1.0 - self.idle.stage)
        return self.speed.achieved or self.peak * (self.speed.mfu or 1.0) * working

    @property
    def device_hours(self) -> float:
        """Device hours of the stage; the least possible ones when no speed is known."""
        return self.training_flops / self.flops_per_second / SECONDS_PER_HOUR

    @property
    def tokens_per_second(self) -> float:
        """Of one device."""
        return self.flops_per_second / self.flops.training


def estimate_run(config: RunConfig, speed: Speed) -> Estimate:
    """Estimate a run whose vocabulary is known; raises ConfigError for an unknown device."""
    peak = peak_flops(speed.device, config.compute.precision)
    if peak is None:
        names = [item.name for item in ACCELERATORS if peak_flops(item.name, config.compute.precision) is not None]
        raise ConfigError(
            f"no peak FLOP/s known for device {speed.device!r}; known for this precision: {', '.join(names)}"
        )
    if not 0.0 <= speed.mfu <= 1.0:
        raise ConfigError(f"mfu={speed.mfu} must lie between 0 and 1, for example 0.4")
    if config.model.vocabulary == 0:
        raise ConfigError("model.vocabulary=0 is taken from the data; give --data or --model.vocabulary")
    length = min(speed.mean_piece or config.data.piece_length, config.data.piece_length)
    piece = replace(config.data, piece_length=length)
    rank, most = heaviest(config)
    return Estimate(
        config=config,
        speed=speed,
        parameters=parameters(config.model),
        flops=mean_flops_per_token(config.model, OBJECTIVES[config.objective], piece),
        peak=peak,
        memory=most,
        heaviest_rank=rank,
        bubble=timeline(config).bubble if config.layout.pipeline > 1 else 0.0,
        placement=layer_placement(config),
        micro_batches=micro_batch_count(config),
        idle=idle(on_device(config, speed.device)),
        traffic=traffic(config, rank),
    )


def on_device(config: RunConfig, device: str) -> RunConfig:
    """The run with the micro-batches that it takes on that device."""
    known = accelerator(device)
    return fitted(config, known.memory) if known else config


def measured_flops(run: Path) -> float:
    """Training FLOP/s of one rank that a run has reached in its later half. Raises ConfigError without a step."""
    try:
        steps = read_records(run, "step")
        config = read_config(run)
        ranks = int(read_environment(run)["ranks"])
        rates: list[float] = [record["tokens_per_second"] for record in steps[len(steps) // 2 :]]
        work = estimate_run(config, Speed()).flops.training
        return sum(rates) / len(rates) * work / ranks
    except (OSError, ValueError, KeyError, ZeroDivisionError, DataError) as error:
        raise ConfigError(f"--measured {run}: not the folder of a run that has made a step ({error!r})") from error


def notes(found: Estimate) -> list[str]:
    """What a person should know about these figures."""
    lines = []
    known = accelerator(found.speed.device)
    if known is not None and found.memory.total > known.memory:
        lines.append(
            f"does not fit: {found.memory.total / GIBI:.1f} GiB on a device of {known.memory / GIBI:.0f} GiB; raise "
            "layout.tensor, pipeline or data, lower layout.micro_batch_rows, or set layout.recompute=full"
        )
    if found.config.layout.pipeline > 1 and found.parameters.total < SMALLEST_PIPELINED:
        lines.append(
            f"pipeline ranks wait {found.bubble:.0%} of the time: at this size the head outweighs the layers; "
            "prefer data ranks"
        )
    if less := advice(on_device(found.config, found.speed.device)):
        lines.append(f"data ranks are without rows {found.idle.full:.1%} of the time of a full step: {less}")
    if not found.speed.mfu and not found.speed.achieved:
        lines.append("no --mfu and no --measured: times are the least possible ones, at the device's peak")
    return lines


def figures(found: Estimate) -> dict[str, object]:
    """An estimate as JSON-ready data."""
    return {
        "size": found.config.model.size,
        "objective": found.config.objective,
        "stage": found.config.stage,
        "parameters": {
            **asdict(found.parameters), "backbone": found.parameters.backbone, "total": found.parameters.total,
        },
        "forward_flops_per_token": found.flops.forward,
        "training_flops_per_token": found.flops.training,
        "training_flops": found.training_flops,
        "tokens_per_second": found.tokens_per_second,
        "device_hours": found.device_hours,
        "memory": {**asdict(found.memory), "total": found.memory.total},
        "bubble": found.bubble,
        "idle": asdict(found.idle),
        "placement": list(found.placement),
        "traffic": asdict(found.traffic),
    }  # fmt: skip
