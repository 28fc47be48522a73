"""A plan as a table for people: a line a stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from megatron_ettin.config.derived import batch_sizes
from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.config.run import RunConfig
from megatron_ettin.plans.resolve import Stage
from megatron_ettin.plans.scale import steps_of
from megatron_ettin.progress import format_count
from megatron_ettin.schedule import learning_rate_factor
from megatron_ettin.tables import aligned

HEAD = (
    "",
    "stage",
    "objective",
    "tokens",
    "steps",
    "rows",
    "row",
    "piece",
    "masked",
    "rate",
    "rope",
    "carried",
    "anew",
)


def plan_table(stages: Sequence[Stage]) -> str:
    """What each stage is, what it takes over and what begins anew in it."""
    lines = [line(stage, stages[stage.place - 2].config if stage.place > 1 else None) for stage in stages]
    return aligned([HEAD, *lines], left=3)


def line(stage: Stage, before: RunConfig | None) -> tuple[str, ...]:
    """The cells of a stage."""
    config = stage.config
    sizes = batch_sizes(config.batch)
    bases = (config.model.rope_base_global, config.model.rope_base_local)
    return (
        str(stage.place),
        stage.name,
        config.objective,
        format_count(config.schedule.tokens),
        f"{steps_of(config):,}",
        f"{sizes[0]:,} to {sizes[-1]:,}" if len(sizes) > 1 else f"{sizes[-1]:,}",
        f"{config.data.row_length:,}",
        f"{config.data.piece_length:,}",
        masked(config) if OBJECTIVES[config.objective].masked else "-",
        " -> ".join(f"{rate:.3g}" for rate in rates(config)),
        " / ".join(f"{base / 1000:g}k" for base in bases),
        ", ".join(stage.carries) or "-",
        ", ".join(anew(stage, before)) or "-",
    )


def masked(config: RunConfig) -> str:
    """The share of masks, at the start and at the end where it changes."""
    data = config.data
    return f"{data.mask_share:.0%}" + (f" -> {data.mask_share_end:.0%}" if data.mask_share_end else "")


def rates(config: RunConfig) -> list[float]:
    """The learning rate at the start, at its top and at the end; what repeats itself once."""
    schedule = config.schedule
    marks = (0.0, float(schedule.warmup_tokens), float(schedule.tokens))
    factors = [learning_rate_factor(schedule, tokens) for tokens in marks]
    if schedule.warmup_tokens and schedule.shape != "one_minus_sqrt":
        factors[0] = 0.0
    found = [schedule.peak_rate * factor for factor in factors]
    return [rate for place, rate in enumerate(found) if place == 0 or rate != found[place - 1]]


def anew(stage: Stage, before: RunConfig | None) -> Iterator[str]:
    """What a stage does not take over from what comes before it."""
    if not stage.carries:
        return
    yield "clock"
    yield from (part for part in ("optimizer", "order") if part not in stage.carries)
    if before is None:
        return
    now, then = stage.config, before
    if now.objective != then.objective:
        yield "objective"
    if (now.data.row_length, now.data.piece_length) != (then.data.row_length, then.data.piece_length):
        yield "lengths"
    if (now.model.rope_base_global, now.model.rope_base_local) != (
        then.model.rope_base_global, then.model.rope_base_local,
    ):  # fmt: skip
        yield "rope"
