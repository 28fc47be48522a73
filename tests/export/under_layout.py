"""On 8 ranks: ``-m tests.export.under_layout RUN COPY`` saves RUN's newest checkpoint in COPY, under 2 x 2 x 2."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from megatron_ettin.checkpoint.load import find
from megatron_ettin.config.run import LayoutConfig
from megatron_ettin.parallel.groups import initialize
from megatron_ettin.run_folder import read_config
from megatron_ettin.train.parts import build_parts
from megatron_ettin.train.store import load_run, save_run

LAYOUT = LayoutConfig(tensor=2, pipeline=2, context=2)


def main(run: Path, copy: Path) -> None:
    """Load under the layout what one rank has saved, and save it."""
    parts = build_parts(replace(read_config(run), layout=LAYOUT), initialize(LAYOUT), sources=1)
    save_run(parts, copy, load_run(parts, find(run)), "end", "data")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
