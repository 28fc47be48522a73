"""A plan as data: the stages that a model goes through, what each carries over, and where its figures come from."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from megatron_ettin.config.codec import from_dict
from megatron_ettin.config.counts import counts_tokens, token_count
from megatron_ettin.config.recipes import STAGES
from megatron_ettin.config.run import StageName, VariantName
from megatron_ettin.errors import ConfigError, suggest

Carried = Literal["weights", "optimizer", "order"]
Fields = dict[str, Any]
SHIPPED = Path(__file__).parent / "shipped"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
SECTIONS = ("model", "data", "schedule", "batch", "optimizer", "guard")
"""Sections of a run that a stage may set fields of."""


@dataclass(frozen=True, kw_only=True)
class PlanStage:
    """One stage, as a stage of the recipe and what differs from it."""

    name: str
    """Its name in tables, errors and folders; unique in the plan."""
    like: StageName
    """The stage of the recipe whose figures hold where nothing else is said."""
    objective: str = ""
    """mlm, clm, mntp or mixed; empty: the plan's."""
    carries: tuple[Carried, ...] = ()
    """What it takes over from what comes before: weights always; the optimizer's state; the order of the data, in which
    it goes on where the stage before ended. The clock, and what its fields change, begins anew."""
    part: Literal["whole", "split", "rest"] = "whole"
    """Which part of its tokens it takes: all, the plan's split, or what the split leaves."""
    rate: float = 0.0
    """Peak rate as a share of the pretraining peak of SIZE; 0: that of the stage it is like."""
    model: Fields = field(default_factory=dict)
    """Rotary bases, windows and whatever else of the model may change from stage to stage."""
    data: Fields = field(default_factory=dict)
    """Lengths, mask share, the mixture (a path relative to the plan's file), its temperature."""
    schedule: Fields = field(default_factory=dict)
    """Tokens, shape, rise and fall."""
    batch: Fields = field(default_factory=dict)
    """Rows per step, and over how many tokens they grow; of SIZE where nothing is said."""
    optimizer: Fields = field(default_factory=dict)
    """Betas, epsilon, weight decay."""
    guard: Fields = field(default_factory=dict)
    """What becomes of spikes."""

    def fields(self) -> dict[str, object]:
        """What it sets, by dotted path of a run; counts of tokens written out."""
        return {
            f"{section}.{name}": written_out(name, value)
            for section in SECTIONS
            for name, value in getattr(self, section).items()
        }


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Some stages, one after the other, of one model."""

    name: str
    source: str
    """Where its figures come from, and which the sources do not give."""
    objective: str = "mlm"
    """Objective of the stages that name none; --objective chooses another."""
    variant: VariantName = "paper"
    """Variant of the recipe that the stages are like."""
    starts_from: Literal["random", "model"] = "random"
    """random: new weights, or those of a Hugging Face folder. model: a run or a Hugging Face folder, which must be
    given."""
    split: float | None = None
    """Share of their tokens that stages with part = "split" take, between 0 and 1; --split chooses another."""
    stages: tuple[PlanStage, ...]


def written_out(name: str, value: object) -> object:
    """The value of a field, a number of tokens such as 2.3T written out."""
    if counts_tokens(name) and isinstance(value, str):
        digits = token_count(value)
        return int(digits) if digits.isdigit() else value
    return value


def shipped_names() -> list[str]:
    """The plans that need no file: those that ship, and each stage of the recipe as a plan of one entry."""
    return [*sorted(path.stem for path in SHIPPED.glob("*.toml")), *(name for name in STAGES if name != "cross")]


def load_plan(name: str) -> Plan:
    """A plan by name, or from a ``.toml`` file. Raises ConfigError naming the file, the stage and the field."""
    if name.endswith(".toml"):
        return read_plan(Path(name))
    if name not in shipped_names():
        raise ConfigError(f"no plan {name!r}{suggest(name, shipped_names())}; or give a .toml file")
    file = SHIPPED / f"{name}.toml"
    return read_plan(file) if file.is_file() else single(name)  # type: ignore[arg-type]


def single(stage: StageName) -> Plan:
    """A stage of the recipe as a plan of one entry."""
    later = stage != "pretrain"
    entry = PlanStage(name=stage, like=stage, carries=("weights", "optimizer") if later else ())
    return Plan(name=stage, source="The recipe of SIZE.", starts_from="model" if later else "random", stages=(entry,))


def read_plan(path: Path) -> Plan:
    """The plan in a file."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such plan; plans without a file: {', '.join(shipped_names())}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not a readable TOML file: {error}") from error
    try:
        plan = from_dict(Plan, {"name": path.stem} | content)
        check_plan(plan)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    for stage in plan.stages:
        if isinstance(data := stage.data.get("data"), str):
            stage.data["data"] = str(path.parent / data)
    return plan


def check_plan(plan: Plan) -> None:
    """Raise ConfigError for what contradicts itself in a plan, whatever the size it is for."""
    if not plan.stages:
        raise ConfigError("stages is empty; a plan needs at least one [[stages]]")
    names = [stage.name for stage in plan.stages]
    for place, stage in enumerate(plan.stages):
        where = f"stage {stage.name!r}"
        if not NAME.fullmatch(stage.name):
            raise ConfigError(f"{where}: name must be letters, digits, '-', '_' and '.': it names a folder")
        if names.count(stage.name) > 1:
            raise ConfigError(f"{where}: two stages have this name; every stage needs one of its own")
        follows = place > 0 or plan.starts_from == "model"
        if follows and "weights" not in stage.carries:
            raise ConfigError(
                f'{where}: carries={list(stage.carries)} lacks "weights", but the stage goes on from '
                f'{f"stage {names[place - 1]!r}" if place else "a model"}; add "weights", or make it a plan of its own'
            )
        if not follows and stage.carries:
            raise ConfigError(f"{where}: carries={list(stage.carries)}, but nothing comes before it; leave it out")
        if place == 0 and "order" in stage.carries:
            raise ConfigError(f'{where}: carries "order", which goes on from stage to stage of one plan; take it out')
        if stage.part != "whole" and plan.split is None:
            raise ConfigError(f"{where}: part={stage.part!r} needs the plan's split, such as split = 0.5")
        if stage.rate < 0:
            raise ConfigError(f"{where}: rate={stage.rate} must be above 0: a share of the pretraining peak")
        if stage.rate and "peak_rate" in stage.schedule:
            raise ConfigError(f"{where}: rate and schedule.peak_rate are two sources of one figure; give one")
    if plan.split is not None:
        check_split(plan.split)
        if all(stage.part == "whole" for stage in plan.stages):
            raise ConfigError(f'split={plan.split}: no stage has part = "split" or "rest"; leave it out')


def check_split(split: float) -> None:
    """Raise ConfigError for a split that leaves a stage nothing."""
    if not 0.0 < split < 1.0:
        raise ConfigError(
            f"split={split:g} must lie between 0 and 1, without either: a stage without tokens is none; the whole with "
            "one objective is the plan `pretrain`"
        )
