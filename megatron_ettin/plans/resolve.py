"""A plan for one size: each of its stages as a run like any other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from megatron_ettin.config import rules
from megatron_ettin.config.codec import flatten, with_fields
from megatron_ettin.config.compatible import SHAPE_FIELDS
from megatron_ettin.config.derived import stage_number
from megatron_ettin.config.named_run import run_of
from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.config.recipes import known_name
from megatron_ettin.config.run import RunConfig, StartConfig
from megatron_ettin.errors import ConfigError, suggest
from megatron_ettin.plans.plan import Carried, Plan, PlanStage, check_split
from megatron_ettin.plans.scale import scale_for, scaled, too_short

FIRST_NUMBER = 16
"""Number, in the keys of order and masks, of a plan's first stage where it needs one of its own; below are those of the
recipe's stages."""
SAME_ORDER = ("row_length", "piece_length", "packing", "held_out_share", "seed", "temperature", "data")
"""Fields of the data in which a stage agrees with the one whose order it carries on."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What a plan leaves open."""

    size: str
    """A size or a ``.toml`` file of one."""
    objective: str = ""
    """Objective of the stages that name none; empty: the plan's."""
    scale: float = 1.0
    """All token counts are multiplied by this."""
    split: float | None = None
    """Instead of the plan's split."""
    data: Mapping[str, str] = field(default_factory=dict)
    """Mixture or corpus by name of a stage; under "" that of all others."""
    start: StartConfig = field(default_factory=StartConfig)
    """Where the first stage starts from."""
    fields: Mapping[str, object] = field(default_factory=dict)
    """Fields of every stage, by dotted path."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of a plan as a run."""

    place: int
    """From 1."""
    name: str
    config: RunConfig
    """The run. What it starts from, where that is a stage before, and the row it begins with, where it carries on an
    order, are filled in once that stage has ended."""
    carries: tuple[Carried, ...]
    """What it takes over from what comes before; empty: nothing does."""
    whole_tokens: int
    """Its tokens at scale 1."""


def resolve(plan: Plan, choices: Choices) -> tuple[Stage, ...]:
    """The stages of a plan as runs. Raises ConfigError naming plan, stage and field for what cannot be."""
    refuse_bad_choices(plan, choices)
    stages: list[Stage] = []
    for place, entry in enumerate(plan.stages, start=1):
        try:
            stages.append(stage_of(plan, choices, place, entry, stages))
        except ConfigError as error:
            raise ConfigError(f"plan {plan.name}: stage {entry.name!r}: {error}") from error
    refuse_short(plan, choices, stages)
    return tuple(stages)


def refuse_bad_choices(plan: Plan, choices: Choices) -> None:
    """Raise ConfigError for a choice that the plan has no use for, or lacks."""
    where, start = f"plan {plan.name}", choices.start
    if choices.objective:
        known_name("objective", choices.objective, list(OBJECTIVES))
        if all(stage.objective for stage in plan.stages):
            raise ConfigError(f"{where}: --objective {choices.objective}: every stage names its own; leave it out")
    if choices.split is not None:
        if plan.split is None:
            raise ConfigError(f"{where}: --split {choices.split:g}: it splits nothing; leave it out")
        check_split(choices.split)
    if plan.starts_from == "model" and not (start.from_run or start.huggingface):
        raise ConfigError(f"{where} goes on from a model; give a run (--from) or a Hugging Face folder (--init-from)")
    if plan.starts_from == "random" and start.from_run:
        raise ConfigError(f"{where} starts from random weights or a Hugging Face folder (--init-from), not from a run")
    names = [stage.name for stage in plan.stages]
    for name in choices.data:
        if name and name not in names:
            raise ConfigError(f"{where}: --data {name}=...: no stage has this name{suggest(name, names)}")


def stage_of(plan: Plan, choices: Choices, place: int, entry: PlanStage, before: list[Stage]) -> Stage:
    """One stage as a run: the recipe's, what the plan sets, the scale, and what the user chose for all."""
    objective = known_name("objective", entry.objective or choices.objective or plan.objective, list(OBJECTIVES))
    recipe = run_of(choices.size, objective, entry.like, plan.variant)
    fields = entry.fields()
    for path in fields:
        if path.removeprefix("model.") in (*SHAPE_FIELDS, "size"):
            raise ConfigError(f"{path} belongs to SIZE, which all stages share; take it out")
        if path in ("data.stage_number", "data.first_row"):
            raise ConfigError(f"{path} follows from the stages before and from what is carried; take it out")
    if entry.rate:
        peak = run_of(choices.size, objective, "pretrain", plan.variant).schedule.peak_rate
        fields["schedule.peak_rate"] = entry.rate * peak
    if entry.part != "whole":
        split = choices.split if choices.split is not None else plan.split
        assert split is not None
        tokens = flatten(with_fields(recipe, fields))["schedule.tokens"]
        fields["schedule.tokens"] = round(tokens * (split if entry.part == "split" else 1 - split))  # type: ignore[operator]
    planned = with_fields(recipe, fields)
    data = choices.data.get(entry.name) or planned.data.data or choices.data.get("", "")
    config = with_fields(scaled(planned, choices.scale), dict(choices.fields))
    config = replace(config, data=replace(config.data, data=data), start=StartConfig())
    if idle := rules.without_effect(config, replace(recipe, start=StartConfig())):
        raise ConfigError("; ".join([*idle, "leave out what does nothing"]))
    carries = entry.carries
    if before:
        config = following(config, before, carries)
    elif carries or choices.start.huggingface:
        if choices.start.huggingface:
            carries = ("weights",)  # there is no optimizer state in a Hugging Face folder
        leaps = bool(choices.start.from_run) and config.stage == "pretrain"
        start = replace(choices.start, carry_optimizer="optimizer" in carries, planned=leaps)
        config = replace(config, start=start)
    broken = [message for rule in rules.POSITIVE_RULES for message in rule(config)]
    if broken or not too_short(config):  # what is too short is refused with all others that are
        broken = broken or rules.problems(config)
    if broken:
        raise ConfigError("; ".join(broken))
    return Stage(place=place, name=entry.name, config=config, carries=carries, whole_tokens=planned.schedule.tokens)


def following(config: RunConfig, before: list[Stage], carries: tuple[Carried, ...]) -> RunConfig:
    """The run of a stage after others: what it starts with, and which rows it reads."""
    last = before[-1].config
    leaps = config.stage == "pretrain" or (config.stage != "cross" and config.objective != last.objective)
    if "order" in carries:
        ours, theirs = flatten(config.data), flatten(last.data)
        if different := [f"data.{name}={theirs[name]!r} -> {ours[name]!r}" for name in SAME_ORDER
                         if ours[name] != theirs[name]]:  # fmt: skip
            raise ConfigError(
                f'carries "order", but reads other rows than stage {before[-1].name!r}: {", ".join(different)}; keep '
                'these, or take "order" out'
            )
        number = stage_number(last)
    else:
        repeated = stage_number(config) in {stage_number(stage.config) for stage in before}
        number = FIRST_NUMBER + len(before) if repeated else -1
    return replace(
        config,
        data=replace(config.data, stage_number=number),
        start=StartConfig(carry_optimizer="optimizer" in carries, planned=leaps),
    )


def refuse_short(plan: Plan, choices: Choices, stages: list[Stage]) -> None:
    """Raise ConfigError naming the stages with too few steps, and a scale at which all have enough."""
    short = [(stage.name, reason) for stage in stages if (reason := too_short(stage.config))]
    if short:
        enough = max(scale_for(stage.config, stage.whole_tokens) for stage in stages)
        reasons = "; ".join(f"stage {name!r}: {reason}" for name, reason in short)
        raise ConfigError(f"plan {plan.name}: {reasons}; use --scale {enough:g} or more")


def begun_from(stage: Stage, run: Path, first_row: int) -> RunConfig:
    """The run of a stage that follows another, whose folder is ``run`` and whose order ends before ``first_row``."""
    config = stage.config
    if "order" in stage.carries:
        config = replace(config, data=replace(config.data, first_row=first_row))
    return replace(config, start=replace(config.start, from_run=str(run)))
