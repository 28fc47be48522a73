"""``ettin status RUN...``: who owns a run, how far it is, what is saved, and what a start would do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from megatron_ettin.check.plan import plan_status
from megatron_ettin.check.status import run_status
from megatron_ettin.plans.chosen import chosen_run
from megatron_ettin.run_folder import is_plan
from megatron_ettin.tables import pairs


@dataclass(frozen=True, kw_only=True)
class StatusFlags:
    """One screen about each run: its owner, progress, last save, disk, and what the same command would do next."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of runs, of plans and of stages (PLAN/STAGE)."""


def main(arguments: list[str]) -> int:
    """Print what is known of each run; nothing is changed."""
    flags = tyro.cli(StatusFlags, args=arguments, prog="ettin status")
    found = [plan_status(run) if is_plan(run) else run_status(chosen_run(run, print)) for run in flags.runs]
    print("\n\n".join(pairs(list(lines)) for lines in found))
    return 0
