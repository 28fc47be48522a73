"""``ettin study --data PREFIX --run DIR``: the paired experiment from first step to report."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import tyro

from megatron_ettin.commands.run_flags import expanded
from megatron_ettin.ownership import owned
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
    settings.run.mkdir(parents=True, exist_ok=True)
    with owned(settings.run, OWNER, shlex.join(sys.orig_argv), say=say):
        try:
            failed = run_steps(steps, settings.run, say)
        except KeyboardInterrupt:
            say("what is done is kept; the same command goes on")
            raise
        report = write_report(settings, failed)
    tell(report, settings.run)
    return 1 if failed else 0


DESCRIPTION = """Train an encoder and a decoder of one size on the same rows through pretraining, extension and decay,
turn each into the other (encoder-from-decoder by MNTP, decoder-from-encoder by CLM), export all four with a parity
check, evaluate them on one held-out text and by the suites of --evaluate, and write one report: report.html, a page of
its own, report.md and report.json. The same command resumes."""


def say(text: str) -> None:
    """A line that is seen at once, also in a pipe."""
    print(text, flush=True)


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
