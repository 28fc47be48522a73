"""``ettin status RUN...``: who owns a run, how far it is, what is saved, and what a start would do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from megatron_ettin.check.plan import plan_status
from megatron_ettin.check.status import run_status
from megatron_ettin.run_folder import is_plan
from megatron_ettin.tables import pairs


@dataclass(frozen=True, kw_only=True)
class StatusFlags:
    """One screen about each run: its owner, progress, last save, disk, and what the same command would do next."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of runs and of plans."""


def main(arguments: list[str]) -> int:
    """Print what is known of each run; nothing is changed."""
    flags = tyro.cli(StatusFlags, args=arguments, prog="ettin status")
    print("\n\n".join(pairs(list((plan_status if is_plan(run) else run_status)(run))) for run in flags.runs))
    return 0
