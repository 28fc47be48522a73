"""A study as a list of steps: each one command, what it makes, and what it needs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from megatron_ettin.config.named_run import run_of
from megatron_ettin.config.objective import ObjectiveName
from megatron_ettin.config.run import StageName
from megatron_ettin.errors import ConfigError
from megatron_ettin.run_folder import latest_of
from megatron_ettin.study.settings import (
    StudySettings,
    check_run,
    flags_between,
    refuse_bad_settings,
    stage_run,
    suite_names,
)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command of a study."""

    name: str
    command: tuple[str, ...]
    """The whole command line."""
    product: Path
    """Exists once the step is done."""
    needs: tuple[str, ...] = ()
    """Names of steps whose products it reads."""
    shown: bool = True
    """Its output is copied to the terminal; else it goes to the log alone, and is shown when the step fails."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One of the four models: where it starts and which stages it goes through."""

    name: str
    objective: ObjectiveName
    stages: tuple[StageName, ...]
    start: str = ""
    """The member whose last run it starts from."""


MEMBERS: tuple[Member, ...] = (
    Member(name="encoder", objective="mlm", stages=("pretrain", "extension", "decay")),
    Member(name="decoder", objective="clm", stages=("pretrain", "extension", "decay")),
    Member(name="encoder-from-decoder", objective="mntp", stages=("cross",), start="decoder"),
    Member(name="decoder-from-encoder", objective="clm", stages=("cross",), start="encoder"),
)


def plan(settings: StudySettings) -> list[Step]:
    """All steps in order. Raises ConfigError for a stage that cannot run, before anything has started."""
    refuse_bad_settings(settings)
    steps = layout_steps(settings) if settings.check_layout else []
    steps += [step for member in MEMBERS for step in training_steps(settings, member)]
    steps += [export_step(settings, member) for member in MEMBERS]
    return [*steps, evaluation_step(settings), *(suite_step(settings, suite) for suite in suite_names(settings))]


def layout_steps(settings: StudySettings) -> list[Step]:
    """Three steps on one rank and on four, and the comparison."""
    if settings.launcher:
        raise ConfigError("--check-layout starts its own one and four ranks; leave it out with --launcher")
    recipe = run_of(settings.size, "mlm", "pretrain", settings.variant)
    steps = []
    for name, tensor, pipeline in (("one-rank", 1, 1), ("four-ranks", 2, 2)):
        folder = settings.run / "layout" / name
        config = check_run(settings, tensor, pipeline)
        command = pretrain_command(settings, torchrun(tensor * pipeline), "mlm", "pretrain", folder)
        steps.append(
            Step(
                name=f"check {name}", command=(*command, *flags_between(recipe, config)), product=latest_of(folder)
            )
        )
    result = settings.run / "layout" / "result.json"
    one, four = (str(settings.run / "layout" / name) for name in ("one-rank", "four-ranks"))
    compare = (sys.executable, "-m", "megatron_ettin.study.layout_check", one, four, str(result))
    needs = tuple(step.name for step in steps)
    return [*steps, Step(name="check layout", command=compare, product=result, needs=needs)]


def pretrain_command(
    settings: StudySettings, launch: tuple[str, ...], objective: ObjectiveName, stage: StageName, folder: Path
) -> tuple[str, ...]:
    """A training, without the flags that depart from its recipe."""
    names = ("pretrain", settings.size, objective, stage, "--variant", settings.variant)
    return (*launch, "-m", "megatron_ettin", *names, "--run-folder", str(folder))


def training_steps(settings: StudySettings, member: Member) -> Iterator[Step]:
    """The stages of one member, each from the run before it."""
    launch = tuple(shlex.split(settings.launcher)) if settings.launcher else torchrun(settings.ranks)
    before = last_run(member.start) if member.start else ""
    for stage in member.stages:
        name = f"{member.name}-{stage}"
        config = stage_run(settings, member.objective, stage)
        config = replace(
            config, start=replace(config.start, from_run=str(run_folder(settings, before)) if before else "")
        )
        recipe = run_of(settings.size, member.objective, stage, settings.variant)
        folder = run_folder(settings, name)
        command = pretrain_command(settings, launch, member.objective, stage, folder)
        yield Step(
            name=f"train {name}",
            command=(*command, *flags_between(recipe, config)),
            product=latest_of(folder),
            needs=(f"train {before}",) if before else (),
        )
        before = name


def export_step(settings: StudySettings, member: Member) -> Step:
    """The member's last checkpoint as a Hugging Face folder with its parity."""
    name, folder = last_run(member.name), export_folder(settings, member.name)
    run = str(run_folder(settings, name))
    return Step(
        name=f"export {member.name}",
        command=(sys.executable, "-m", "megatron_ettin", "convert", run, str(folder)),
        product=folder / "parity.json",
        needs=(f"train {name}",),
        shown=False,
    )


def evaluation_step(settings: StudySettings) -> Step:
    """All four on one held-out text."""
    folder = settings.run / "evaluation"
    return Step(
        name="evaluate",
        command=(*evaluate_command(settings, folder), *held_out_flags(settings)),
        product=folder / "results.json",
        needs=tuple(f"export {member.name}" for member in MEMBERS),
        shown=False,
    )


def suite_step(settings: StudySettings, suite: str) -> Step:
    """One suite on all four; its tasks are kept one by one, so that a step that was stopped goes on within it."""
    folder = suite_folder(settings, suite)
    flags = ["--suite", suite, "--seeds", str(settings.seeds)]
    if settings.local is not None:
        flags += ["--local", str(settings.local)]
    if settings.limit is not None:
        flags += ["--limit", str(settings.limit)]
    if suite in ("glue", "retrieval"):
        flags += ["--budget", settings.budget]
    if suite == "losses":
        flags += held_out_flags(settings)
    return Step(
        name=f"evaluate {suite}",
        command=(*evaluate_command(settings, folder), *flags),
        product=folder / "results.json",
        needs=tuple(f"export {member.name}" for member in MEMBERS),
    )


def evaluate_command(settings: StudySettings, folder: Path) -> tuple[str, ...]:
    """An evaluation of all four into ``folder``."""
    models = (f"{member.name}={export_folder(settings, member.name)}" for member in MEMBERS)
    return (sys.executable, "-m", "megatron_ettin", "evaluate", *models, "--output", str(folder))


def held_out_flags(settings: StudySettings) -> list[str]:
    """Which text is read, and how much of it."""
    return [
        "--data", settings.data, "--held-out-share", str(settings.held_out_share), "--rows", str(settings.rows),
        "--sample", str(settings.sample),
    ]  # fmt: skip


def torchrun(ranks: int) -> tuple[str, ...]:
    """Processes on this machine."""
    return (sys.executable, "-m", "megatron_ettin.study.launch", "--standalone", f"--nproc-per-node={ranks}")


def last_run(member: str) -> str:
    """Name of a member's last run."""
    stages = next(known.stages for known in MEMBERS if known.name == member)
    return f"{member}-{stages[-1]}"


def run_folder(settings: StudySettings, name: str) -> Path:
    """The folder of one training."""
    return settings.run / "runs" / name


def export_folder(settings: StudySettings, member: str) -> Path:
    """The Hugging Face folder of one member."""
    return settings.run / "exports" / member


def suite_folder(settings: StudySettings, suite: str) -> Path:
    """The results of one suite."""
    return settings.run / "suites" / suite
