"""The start of a run in its folder: what is written before the first step, and what a later start may not change."""

from __future__ import annotations

import contextlib
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
from megatron_ettin.checkpoint.standing import Found, refuse_to_begin_again
from megatron_ettin.config import codec
from megatron_ettin.config.run import RunConfig
from megatron_ettin.errors import ConfigError
from megatron_ettin.publish import write_atomically
from megatron_ettin.run_folder import (
    COMMAND,
    CONFIG,
    ENVIRONMENT,
    checkpoints_of,
    go_back,
    known_settings,
    note_change,
    put_away,
    read_changes,
    refuse_plan_folder,
    remove_leftovers,
)
from megatron_ettin.sources.remote.address import redacted

PACKAGES = ("torch", "megatron-core", "numpy", "tokenizers", "transformers", "safetensors", "transformer-engine")


def open_run_folder(
    run: Path, config: RunConfig, *, start_over: bool = False, change_at: int | None = None
) -> None:
    """Make the folder of a new run, or check that ``config`` continues the run in it, and say how it was started.

    With ``start_over`` the run in it is put away first. With ``change_at`` the checkpoint of that step, which is there
    and whole, becomes the newest and the settings may be others; where both are so already, nothing is done.
    Raises ConfigError when the folder cannot be written to or holds another run, CheckpointError when its checkpoints
    are gone. The owner's first rank calls this.
    """
    refuse_plan_folder(run)
    try:
        run.mkdir(parents=True, exist_ok=True)
        if start_over:
            put_away(run)
        elif not checkpoints_of(run).is_dir():
            refuse_to_begin_again(run, Found(checkpoint=None, skipped=()))
        checkpoints_of(run).mkdir(exist_ok=True)
        remove_leftovers(run)
        if (settings := known_settings(run)) is not None:
            if change_at is None:
                codec.check_resume(settings, config)
            else:
                change_settings(run, settings, config, change_at)
        write_atomically(run / CONFIG, codec.to_json(config))
        write_atomically(run / ENVIRONMENT, json.dumps(environment(), indent=2) + "\n")
        write_atomically(run / COMMAND, redacted(shlex.join(sys.orig_argv)) + "\n")
    except OSError as error:
        raise ConfigError(f"--run {run}: cannot write there ({error}); choose another folder") from error


def change_settings(run: Path, old: RunConfig, new: RunConfig, step: int) -> None:
    """Go back to the checkpoint of ``step`` for other settings, on record. The same command again just goes on."""
    found = {item.path: [codec.to_dict(item.old), codec.to_dict(item.new)] for item in codec.check_change(old, new)}
    if found:
        note_change(run, {"kind": "settings", "step": step, "fields": found})
        go_back(run, step)
    elif not any((change["kind"], change["step"]) == ("settings", step) for change in read_changes(run)[-1:]):
        raise ConfigError(f"--change-at {step}: no setting of the run changes; leave it out to go on")


def environment() -> dict[str, Any]:
    """What the run was started on: versions, machine, devices."""
    versions: dict[str, str | None] = dict.fromkeys(PACKAGES)
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "megatron-ettin": __version__,
        "python": platform.python_version(),
        "packages": versions,
        "machine": platform.node(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "devices": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "ranks": int(os.environ.get("WORLD_SIZE", "1")),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }
