"""The run folder: what is written before the first step, and what a later start may not change."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from megatron_ettin import __version__
from megatron_ettin.checkpoint.folder import checkpoints_of, remove_leftovers
from megatron_ettin.config import codec
from megatron_ettin.config.run import RunConfig
from megatron_ettin.errors import ConfigError
from megatron_ettin.publish import write_atomically

CONFIG, ENVIRONMENT, COMMAND = "config.json", "environment.json", "command.txt"
_PACKAGES = ("torch", "megatron-core", "numpy", "tokenizers", "transformers", "safetensors", "transformer-engine")


def open_run_folder(run: Path, config: RunConfig) -> bool:
    """Make the folder of a new run, or check that ``config`` continues the run in it; whether it was there already.

    Raises ConfigError when the folder cannot be written to or holds another run. One rank calls this.
    """
    try:
        checkpoints_of(run).mkdir(parents=True, exist_ok=True)
        remove_leftovers(run)
        known = (run / CONFIG).exists()
        if known:
            refuse_changes(run, config)
        write_atomically(run / CONFIG, codec.to_json(config))
        write_atomically(run / ENVIRONMENT, json.dumps(environment(), indent=2) + "\n")
        write_atomically(run / COMMAND, shlex.join(sys.orig_argv) + "\n")
    except OSError as error:
        raise ConfigError(f"--run {run}: cannot write there ({error}); choose another folder") from error
    return known


def refuse_changes(run: Path, config: RunConfig) -> None:
    """Raise ConfigError when ``config`` differs from the run's own in a field that changes what is learned."""
    path = run / CONFIG
    try:
        stored = codec.run_from_dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ConfigError(f"{path} cannot be read: {error}; give another --run folder") from error
    codec.check_resume(stored, config)


def environment() -> dict[str, Any]:
    """What the run was started on: versions, machine, devices."""
    return {
        "megatron-ettin": __version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "machine": platform.node(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "devices": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "ranks": int(os.environ.get("WORLD_SIZE", "1")),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
