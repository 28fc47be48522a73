"""Command lines of training as runs."""

from __future__ import annotations

from pathlib import Path

from megatron_ettin.commands.run_flags import RunFlags, parse_flags, run_folder
from megatron_ettin.config.run import RunConfig


def parse_run(arguments: list[str]) -> tuple[RunConfig, Path]:
    """``SIZE OBJECTIVE STAGE [flags]`` as a checked run and its folder."""
    config, flags = parse_flags(arguments, RunFlags, "pretrain")
    return config, run_folder(config, flags)
