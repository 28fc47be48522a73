"""Run commands as a user would: Python modules, and torchrun with several gloo ranks on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 600


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a child: one thread a process, no progress bars, the checkout first on the path."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **(extra or {})}


def run(
    arguments: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    extra: Mapping[str, str] | None = None,
    status: int | None = 0,
    timeout: float = TIMEOUT,
) -> subprocess.CompletedProcess[str]:
    """Run a command and return its output; fails with all of it when the exit status is not ``status``."""
    result = subprocess.run(
        [str(argument) for argument in arguments],
        cwd=cwd or ROOT, env=environment(extra), text=True, capture_output=True, timeout=timeout, check=False,
    )  # fmt: skip
    return ended_as_expected(result, status)


def ended_as_expected(
    result: subprocess.CompletedProcess[str], status: int | None
) -> subprocess.CompletedProcess[str]:
    """The same; fails with all it printed when its exit status is not ``status``."""
    if status is not None and result.returncode != status:
        raise AssertionError(
            f"{' '.join(map(str, result.args))} ended with {result.returncode}, expected {status}\n"
            f"--- stdout\n{result.stdout[-8000:]}\n--- stderr\n{result.stderr[-8000:]}"
        )
    return result


def ettin(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    """``python -m megatron_ettin ARGUMENTS``."""
    return run([sys.executable, "-m", "megatron_ettin", *arguments], **options)  # type: ignore[arg-type]


def torchrun(ranks: int, *arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    """``torchrun --nproc-per-node RANKS ARGUMENTS`` on a free port; ARGUMENTS start with a script or ``-m MODULE``."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return run([*launcher, *arguments], **options)  # type: ignore[arg-type]


def with_programs(folder: Path, programs: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child that finds these programs, written into ``folder``, before all others.

    They may note what they are asked in the folder, which PRETENDED names.
    """
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return environment({"PATH": f"{folder}:{os.environ['PATH']}", "PRETENDED": str(folder), **variables})
