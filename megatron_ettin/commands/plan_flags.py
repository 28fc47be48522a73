"""``SIZE --plan NAME|FILE.toml [flags]``: the stages of a plan, for check, estimate and pretrain."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from megatron_ettin.commands.run_flags import (
    ALIASES,
    RunFlags,
    asked_scale,
    expanded,
    flag_names,
    parsed,
    refuse_typos,
    taken,
)
from megatron_ettin.config.codec import FREE_FIELDS, FREE_PREFIXES, flatten
from megatron_ettin.config.named_run import run_of
from megatron_ettin.config.recipes import known_name
from megatron_ettin.config.run import StartConfig
from megatron_ettin.config.shapes import SHAPES
from megatron_ettin.errors import ConfigError
from megatron_ettin.plans.plan import NAME, Plan, load_plan
from megatron_ettin.plans.resolve import Choices, Stage, resolve

Flags = TypeVar("Flags", bound=RunFlags)
FOR_ALL = (*FREE_PREFIXES, "model.", "guard.", "compute.")
"""Sections whose flags hold for every stage of a plan."""
FIELDS_FOR_ALL = (
    *FREE_FIELDS, "seed", "data.seed", "data.held_out_share", "data.packing", "data.temperature",
    "data.mask_token_share", "data.random_token_share", "start.from_run", "start.huggingface",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A plan as it was asked for."""

    plan: Plan
    choices: Choices
    stages: tuple[Stage, ...]
    folder: Path
    """Where its stages have their run folders."""


def asks_for_plan(arguments: list[str]) -> bool:
    """Whether the arguments name a plan in place of an objective and a stage, and ask for no help."""
    names = [argument.partition("=")[0] for argument in arguments]
    return "--plan" in names and not {"-h", "--help"} & set(names)


def parse_plan(arguments: list[str], kind: type[Flags], verb: str) -> tuple[Planned, Flags]:
    """``SIZE --plan NAME|FILE.toml [flags]`` as the runs of its stages, and the verb's own flags.

    Raises ConfigError for unknown names and flags, for flags that belong to a stage, and for a plan that cannot be.
    """
    name, rest = taken(arguments, "--plan", "")
    if not rest or rest[0].startswith("-") or (len(rest) > 1 and not rest[1].startswith("-")):
        raise ConfigError(
            f"ettin {verb} takes SIZE and then flags, when there is a --plan: ettin {verb} 17m --plan ettin-paper; "
            "objectives and stages are the plan's, and --objective chooses that of the stages which name none"
        )
    size = rest[0] if rest[0].endswith(".toml") else known_name("size", rest[0], list(SHAPES))
    plan = load_plan(name)
    scale = asked_scale(rest)
    objective, rest = taken(rest[1:], "--objective", "")
    split, rest = taken(rest, "--split", "")
    _, rest = taken(rest, "--scale", "")
    data, rest = data_of(expanded(rest, ALIASES))
    refuse_typos(kind, rest, also=("--plan", "--objective", "--split"))
    refuse_flags_of_stages(rest, kind)
    base = run_of(size, plan.objective, plan.stages[0].like, plan.variant)
    flags = parsed(kind, rest, replace(base, start=StartConfig()), f"ettin {verb} SIZE --plan NAME")
    values = flatten(flags.apply(base))
    given = [path for path in map(field_of, rest) if path in values and not path.startswith("start.")]
    choices = Choices(
        size=size,
        objective=objective,
        scale=scale,
        split=number(split, "--split") if split else None,
        data=data,
        start=flags.start,
        fields={path: values[path] for path in given},
    )
    folder = Path(flags.run or f"runs/{base.model.size}-{plan.name}")
    return Planned(plan=plan, choices=choices, stages=resolve(plan, choices), folder=folder), flags


def data_of(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """What ``--data PREFIX STAGE=PREFIX ...`` says, by stage ("": all others), and the arguments without it."""
    data: dict[str, str] = {}
    rest: list[str] = []
    inside = False
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if argument.startswith("--"):
            inside = flag == "--data.data"
            if not inside:
                rest.append(argument)
                continue
            if not equals:
                continue
        elif inside:
            value = argument
        else:
            rest.append(argument)
            continue
        stage, equals, path = value.partition("=")
        named = bool(equals) and NAME.fullmatch(stage) is not None
        data[stage if named else ""] = path if named else value
    return data, rest


def number(value: str, flag: str) -> float:
    """The value of a flag as a number. Raises ConfigError."""
    try:
        found = float(value)
    except ValueError as error:
        raise ConfigError(f"{flag} {value}: use a number, such as 0.5") from error
    if not math.isfinite(found):
        raise ConfigError(f"{flag} {value}: use a number, such as 0.5")
    return found


def field_of(argument: str) -> str:
    """The field that a flag sets, by its dotted path; the argument itself where it is no flag."""
    path = argument.partition("=")[0].removeprefix("--").replace("-", "_")
    section, dot, name = path.rpartition(".")
    return section + dot + name.removeprefix("no_") if argument.startswith("--") else argument


def refuse_flags_of_stages(arguments: list[str], kind: type[RunFlags]) -> None:
    """Raise ConfigError for a field that every stage of a plan has by itself."""
    known = {field_of(name) for name in flag_names(kind)}
    for argument in arguments:
        path = field_of(argument)
        if not argument.startswith("--") or path not in known or "." not in path:
            continue
        if not path.startswith(FOR_ALL) and path not in FIELDS_FOR_ALL:
            instead = "; --scale makes all stages shorter or longer" if path == "schedule.tokens" else ""
            raise ConfigError(
                f"{argument.partition('=')[0]} belongs to a stage: write {path} into the plan's file, beside what it "
                f"sets there{instead}"
            )
