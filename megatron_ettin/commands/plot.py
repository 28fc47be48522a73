"""``ettin plot RUN...``: loss, rate, gradient norm and throughput of runs, as PNG and SVG."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class PlotFlags:
    """Draw runs: loss, learning rate, gradient norm and throughput over tokens, as PNG and SVG."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of runs, of plans (their last stage with a checkpoint) or of stages (PLAN/STAGE); several are drawn into
    one picture."""
    out: Path | None = None
    """The files without their endings; default: plot in the run's folder, or plots/comparison for several."""
    title: str = ""
    """Above the picture; default: the name of the run."""
    reference: float = 0.0
    """A loss to draw as a dashed line: the unigram entropy of the text; 0: none."""


def main(arguments: list[str]) -> int:
    """Draw and say where the pictures are."""
    flags = tyro.cli(PlotFlags, args=arguments, prog="ettin plot")
    from megatron_ettin.errors import ConfigError
    from megatron_ettin.observe.plot import plot_runs
    from megatron_ettin.plans.chosen import chosen_run

    if not flags.runs:
        raise ConfigError("ettin plot takes one or several run folders, for example: ettin plot runs/*")
    runs = [chosen_run(run, print) for run in flags.runs]
    for path in plot_runs(runs, flags.out, flags.title, flags.reference):
        print(path)
    return 0
