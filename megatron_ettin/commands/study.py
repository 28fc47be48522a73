"""``ettin study --data PREFIX --run DIR``: the paired experiment from first step to report."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import tyro

from megatron_ettin.commands.run_flags import expanded
from megatron_ettin.ownership import owned
from megatron_ettin.progress import say
from megatron_ettin.study.settings import StudySettings, refuse_bad_data

OWNER = "study"
"""What a study's owner owns."""


@dataclass(frozen=True, kw_only=True)
class StudyFlags(StudySettings):
    """The settings of a study and what to do with them."""

    dry_run: bool = False
    """Check the settings and print the steps; start and write nothing."""


def main(arguments: list[str]) -> int:
    """Run, or go on with, a study. Status 0 when every step is done, 1 when one failed."""
    if any(argument.partition("=")[0] == "--plans" for argument in arguments):
        return main_of_plans(arguments)
    from megatron_ettin.study.plan import plan
    from megatron_ettin.study.report import write_report
    from megatron_ettin.study.runner import run_steps

    flags = tyro.cli(StudyFlags, args=expanded(arguments, {}), prog="ettin study", description=DESCRIPTION)
    settings = StudySettings(**{item.name: getattr(flags, item.name) for item in fields(StudySettings)})
    steps = plan(settings)
    if flags.dry_run:
        say("\n".join(f"[{number}/{len(steps)}] {step.name}" for number, step in enumerate(steps, start=1)))
        return 0
    refuse_bad_data(settings)
    with owning(settings.run):
        failed = run_steps(steps, settings.run, say)
        report = write_report(settings, failed)
    tell(report, settings.run)
    return 1 if failed else 0


def main_of_plans(arguments: list[str]) -> int:
    """Run, or go on with, a study of plans."""
    from megatron_ettin.rows.plan_data import refuse_bad_data
    from megatron_ettin.study.plan_report import table, write_plan_report
    from megatron_ettin.study.plan_study import PlanStudySettings, entries, plan_steps
    from megatron_ettin.study.runner import run_steps

    dry = "--dry-run" in arguments
    rest = [argument for argument in arguments if argument != "--dry-run"]
    settings = tyro.cli(PlanStudySettings, args=expanded(rest, {}), prog="ettin study", description=OF_PLANS)
    found = entries(settings)
    steps = plan_steps(settings, found)
    if dry:
        say("\n".join(f"[{number}/{len(steps)}] {step.name}" for number, step in enumerate(steps, start=1)))
        return 0
    refuse_bad_data([stage for entry in found for stage in entry.stages])
    with owning(settings.run):
        failed = run_steps(steps, settings.run, say)
        report = write_plan_report(settings, found, failed)
    say(table(report))
    for step in failed:
        say(f"NOT DONE: {step}")
    say(f"{settings.run / 'report.md'}, {settings.run / 'report.json'}, {settings.run / 'plans.png'}")
    return 1 if failed else 0


@contextlib.contextmanager
def owning(folder: Path) -> Iterator[None]:
    """Own the folder of a study, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    with owned(folder, OWNER, shlex.join(sys.orig_argv), say=say):
        try:
            yield
        except KeyboardInterrupt:
            say("what is done is kept; the same command goes on")
            raise


OF_PLANS = """Train several plans at some sizes with some seeds, export the end of each with a parity check, ask all of
them one held-out text, and write one table and one picture of all: report.md, report.json, plans.png, plans.svg. The
same command resumes. --dry-run checks the settings and prints the steps."""
DESCRIPTION = """Train an encoder and a decoder of one size on the same rows through pretraining, extension and decay,
turn each into the other (encoder-from-decoder by MNTP, decoder-from-encoder by CLM), export all four with a parity
check, evaluate them on one held-out text and by the suites of --evaluate, and write one report: report.html, a page of
its own, report.md and report.json. The same command resumes. With --plans NAME NAME:split=0.25 ... it compares plans
instead, at --sizes and with --seeds (docs/plans.md)."""


def tell(report: dict[str, object], folder: Path) -> None:
    """The table and where the report is."""
    from typing import Any, cast

    from megatron_ettin.evaluate.report import print_results

    content = cast(dict[str, Any], report)
    if content["evaluation"]:
        print_results(content["evaluation"])
    for name, model in content["models"].items():
        if parity := model["parity"]:
            say(f"{name}: logits equal transformers within {parity['largest_difference']:.1e} "
                f"of {parity['largest_logit']:.1f}")  # fmt: skip
    for run in content["training"]:
        speed = f"{run['tokens_per_second']:,.0f} tokens/s" if run["tokens_per_second"] else "-"
        say(f"{run['run']}: {run['steps']} steps, {run['tokens']:,} tokens, {speed}")
    for line in content["conclusions"]:
        say(f"- {line}")
    for step in content["failed"]:
        say(f"NOT DONE: {step}")
    say(f"{folder / 'report.html'}, {folder / 'report.md'}, {folder / 'report.json'}, {folder / 'curves.png'}")
