"""The arguments that check, estimate and pretrain share: a run by name, and any field of it by flag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import TypeVar

import tyro

from megatron_ettin.config import rules
from megatron_ettin.config.codec import with_fields
from megatron_ettin.config.counts import counts_tokens, token_count
from megatron_ettin.config.named_run import run_of
from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.config.recipes import STAGES, known_name
from megatron_ettin.config.run import (
    BatchConfig,
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    GuardConfig,
    LayoutConfig,
    ModelConfig,
    ObserveConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    StartConfig,
)
from megatron_ettin.config.shapes import PUBLISHED_SIZES, SHAPES
from megatron_ettin.errors import ConfigError, closest, suggest
from megatron_ettin.plans.chosen import chosen_run
from megatron_ettin.plans.plan import shipped_names
from megatron_ettin.plans.scale import scale_for, scaled, too_short
from megatron_ettin.run_folder import is_run, read_config
from megatron_ettin.typed_json import field_types

ALIASES = {
    "--run-folder": "--run",  # torchrun under Python 3.11 takes --run for one of its own options
    "--data": "--data.data",
    "--from": "--start.from-run",
    "--init-from": "--start.huggingface",
    "--tokens": "--schedule.tokens",
    "--tensor": "--layout.tensor",
    "--pipeline": "--layout.pipeline",
    "--context": "--layout.context",
    "--micro-batch": "--layout.micro-batch-rows",
    "--precision": "--compute.precision",
    "--freeze": "--optimizer.freeze",
    "--remember": "--observe.remember",
}
CHOICES = {
    "--layout.micro-batch-rows": "layout.fit_micro_batch",
    "--layout.overlap": "layout.choose_overlap",
    "--layout.no-overlap": "layout.choose_overlap",
}
"""Flags that make a choice which is else made for a GPU, and the field that says so."""
# Why arguments are looked through before tyro sees them. A recipe is chosen by name first, and its values are the
# defaults of the flags. tyro's constructors are chosen by type, after annotations of other makers are stripped, and
# config knows no tyro: so token counts are told by the name of the flag. tyro's aliases belong to annotated fields too.
# It ends the process on a misspelt flag, with a box of text; here one ConfigError names the nearest flag, which
# torchrun repeats in its summary.
NAMES = """\
SIZE is 17m 32m 68m 150m 400m 1b, tiny, or a .toml file; OBJECTIVE is mlm, clm, mntp or mixed (rows of mntp and of clm,
a share --data.causal-share of them clm); STAGE is pretrain, extension, decay or cross.
--variant released follows the published artifacts where they differ from the paper.
--scale X multiplies the token counts of the recipe, rise, fall and growth of the batch included: --scale 0.03.
The folder of a run in place of the three takes the settings from it.
SIZE --plan NAME|FILE.toml [--scale X] [--objective NAME] [--split X] [--data PREFIX STAGE=PREFIX ...] takes the stages
of a plan, in one folder: {plans}; docs/plans.md.
"""
USAGE = """\
Short forms: {aliases}.
Token counts take K, M, B and T: --tokens 250B. Every field of the run is a flag; defaults are the recipe's."""


@dataclass(frozen=True, kw_only=True)
class RunFlags:
    """Everything a run consists of, as flags. Verbs add their own fields in a subclass."""

    run: str = ""
    """The run's folder; default runs/SIZE-OBJECTIVE-STAGE."""
    model: ModelConfig
    schedule: ScheduleConfig
    data: DataConfig
    batch: BatchConfig
    optimizer: OptimizerConfig
    guard: GuardConfig
    layout: LayoutConfig
    compute: ComputeConfig
    checkpoint: CheckpointConfig
    observe: ObserveConfig
    start: StartConfig
    seed: int = 21
    """Key of the initial weights and of dropout."""

    def apply(self, base: RunConfig) -> RunConfig:
        """The recipe's run with these flags."""
        return replace(base, **{name: getattr(self, name) for name in RUN_FIELDS})


RUN_FIELDS = tuple(item.name for item in fields(RunFlags) if item.name != "run")
Flags = TypeVar("Flags", bound=RunFlags)


def run_folder(config: RunConfig, flags: RunFlags) -> Path:
    """The folder asked for, or the default one."""
    return Path(flags.run or f"runs/{config.model.size}-{config.objective}-{config.stage}")


def parse_flags(arguments: list[str], kind: type[Flags], verb: str, checked: bool = True) -> tuple[RunConfig, Flags]:
    """``SIZE OBJECTIVE STAGE [flags]`` as a run, and the verb's own flags.

    Raises ConfigError for unknown names and flags, settings without effect and, if ``checked``, broken rules.
    """
    base, rest = recipe_named(arguments, verb)
    config, flags = parse_over(base, rest, kind, f"ettin {verb} SIZE OBJECTIVE STAGE", checked)
    if (scale := asked_scale(arguments)) != 1.0 and not rules.problems(config) and (reason := too_short(config)):
        enough = scale_for(config, max(1, round(config.schedule.tokens / scale)))
        raise ConfigError(f"--scale {scale:g}: {reason}; use --scale {enough:g} or more")
    return config, flags


def parse_over(
    base: RunConfig, rest: list[str], kind: type[Flags], program: str, checked: bool = True, usage: str = NAMES
) -> tuple[RunConfig, Flags]:
    """A run whose defaults are ``base``, by flags; errors as ``parse_flags`` has. ``usage`` is a part of the help."""
    refuse_typos(kind, rest)
    rest = expanded(rest, ALIASES)
    if any(argument.partition("=")[0] == "--start.huggingface" for argument in rest):
        base = replace(base, start=replace(base.start, carry_optimizer=False))  # there is no state to carry over
    flags = parsed(kind, rest, base, program, usage)
    config = flags.apply(base)
    if config.model.size != base.model.size:
        raise ConfigError(f"model.size={config.model.size!r}: the size is the first argument; leave this flag out")
    idle = rules.without_effect(config, base)
    if idle:
        raise ConfigError("\n  ".join([*idle, "leave out what does nothing"]))
    if checked:
        rules.check(config)
    return config, flags


def parsed(kind: type[Flags], arguments: list[str], base: RunConfig, program: str, usage: str = NAMES) -> Flags:
    """The flags of a verb, by default those of ``base``."""
    given = {argument.partition("=")[0] for argument in arguments}
    base = with_fields(base, {field: False for flag, field in CHOICES.items() if flag in given})  # somebody has chosen
    sections = {name: getattr(base, name) for name in RUN_FIELDS}
    return tyro.cli(
        kind,
        args=arguments,
        default=kind(**sections),  # type: ignore[arg-type]
        prog=program,
        description=description(kind, usage),
    )


def asked_scale(arguments: list[str]) -> float:
    """The value of --scale; raises ConfigError when it is no number."""
    value, _ = taken(arguments, "--scale", "1")
    try:
        return float(value)
    except ValueError as error:
        raise ConfigError(f"--scale {value}: use a positive number, such as 0.01") from error


def description(kind: type[RunFlags], usage: str) -> str:
    """The head of a verb's help."""
    short = ", ".join(f"{alias} = {flag}" for alias, flag in ALIASES.items())
    own = (kind.__doc__ or "").strip() if kind is not RunFlags else "A run by name, and any field of it by flag."
    return f"{own}\n\n{usage.format(plans=', '.join(shipped_names()))}{USAGE.format(aliases=short)}"


def recipe_named(arguments: list[str], verb: str) -> tuple[RunConfig, list[str]]:
    """The recipe that the positional arguments name, and the flags."""
    if any(argument in ("-h", "--help") for argument in arguments):
        shown = arguments[:3] if len(arguments) > 3 else ["150m", "mlm", "pretrain"]
        return run_of(*shown), ["--help"]
    names = list(takewhile(lambda argument: not argument.startswith("-"), arguments[:3]))
    if len(names) == 1 and names[0] not in SHAPES and is_run(run := chosen_run(Path(names[0]), print)):
        return read_config(run), ["--run", str(run), *arguments[1:]]
    if len(names) < 3:
        sizes = [*PUBLISHED_SIZES, "tiny", "a .toml file"]
        kind, known = (("SIZE", sizes), ("OBJECTIVE", list(OBJECTIVES)), ("STAGE", list(STAGES)))[len(names)]
        raise ConfigError(
            f"ettin {verb} takes SIZE OBJECTIVE STAGE and then flags, for example: ettin {verb} 150m mlm pretrain; "
            f"{kind} is missing: {', '.join(known)}"
        )
    variant, rest = taken(arguments[3:], "--variant", "paper")
    _, rest = taken(rest, "--scale", "")
    size = names[0] if names[0].endswith(".toml") else known_name("size", names[0], list(SHAPES))
    return scaled(run_of(size, names[1], names[2], variant), asked_scale(arguments)), rest


def taken(arguments: list[str], flag: str, default: str) -> tuple[str, list[str]]:
    """The value of one flag (``--flag value`` or ``--flag=value``) and the arguments without it."""
    rest, value = [], default
    pending = iter(arguments)
    for argument in pending:
        if argument == flag:
            value = next(pending, "")
        elif argument.startswith(flag + "="):
            value = argument.partition("=")[2]
        else:
            rest.append(argument)
    return value, rest


def refuse_typos(
    kind: type[RunFlags], arguments: list[str], also: Sequence[str] = ("--variant", "--scale", "--plan")
) -> None:
    """Raise ConfigError for a flag that does not exist, naming the nearest one. ``also``: what else is known."""
    known = [*ALIASES, *also, "--help", "-h", *flag_names(kind)]
    for argument in arguments:
        name = argument.partition("=")[0].replace("_", "-")
        if name.startswith("--") and name not in known:
            raise ConfigError(f"no flag {name}{suggest(name, known) if closest(name, known) else '; --help lists all'}")


def flag_names(kind: type, prefix: str = "") -> list[str]:
    """Every flag of a dataclass, switches with both of their forms."""
    names: list[str] = []
    for name, field_type in field_types(kind).items():
        flag = prefix + name.replace("_", "-")
        if is_dataclass(field_type):
            names += flag_names(field_type, flag + ".")  # type: ignore[arg-type]
        else:
            names.append("--" + flag)
            if field_type is bool:
                names.append("--" + prefix + "no-" + name.replace("_", "-"))
    return names


def expanded(arguments: list[str], aliases: Mapping[str, str]) -> list[str]:
    """The arguments with short forms written out, and K, M, B and T in the values of token counts."""
    written: list[str] = []
    flag = ""
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            flag = aliases.get(name, name)
            written.append(flag + equals + (token_count(value) if counts_tokens(flag) else value))
        else:
            written.append(token_count(argument) if counts_tokens(flag) else argument)
    return written


def given_flags(arguments: list[str]) -> set[str]:
    """The names of the flags among the arguments, short forms written out."""
    names = (argument.partition("=")[0] for argument in arguments if argument.startswith("--"))
    return {ALIASES.get(name, name) for name in names}
