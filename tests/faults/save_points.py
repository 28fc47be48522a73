"""Kill a process at each point of a save: ``python -m tests.faults.save_points FOLDER [background]``, a line a point.

Torch is imported once; each save runs in a fork that makes its own world of one.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch  # noqa: F401 - imported before the forks

from megatron_ettin import run_folder as folder_module
from megatron_ettin.checkpoint import background as background_module
from megatron_ettin.checkpoint import save as save_module
from megatron_ettin.checkpoint import shards as shards_module
from megatron_ettin.checkpoint.background import DeferredWriter, HostCopies
from megatron_ettin.checkpoint.load import find_newest
from megatron_ettin.checkpoint.state import TrainState
from megatron_ettin.config.run import LayoutConfig
from megatron_ettin.parallel.groups import initialize
from megatron_ettin.run_folder import list_checkpoints
from megatron_ettin.train import store as store_module
from tests.checkpoint.layouts_round_trip import build

KILLED = 9
REFUSED = 3


def die(*arguments, **options):
    os._exit(KILLED)


def replaced(module, name: str) -> Callable[[], None]:
    """Die where ``module.name`` would be called."""
    return lambda: setattr(module, name, die)


def after(module, name: str) -> Callable[[], None]:
    """Die when ``module.name`` has done its work."""
    work = getattr(module, name)
    return lambda: setattr(module, name, lambda *a, **o: (work(*a, **o), die()))


# name -> (what to break, the step of the newest whole checkpoint afterwards)
POINTS: dict[str, tuple[Callable[[], None], int]] = {
    "staging folder made": (after(save_module, "stage"), 1),
    "before the shards": (replaced(save_module, "write_shards"), 1),
    "shards without their index": (replaced(shards_module.FileSystemWriter, "finish"), 1),
    "after the shards": (after(save_module, "write_shards"), 1),
    "before the hashes": (replaced(save_module, "hash_share"), 1),
    "before the manifest": (replaced(save_module, "write_manifest"), 1),
    "after the manifest": (after(save_module, "write_manifest"), 1),
    "flushed, not renamed": (after(save_module, "fsync_tree"), 1),
    "renamed, LATEST old": (replaced(save_module, "note_save"), 2),
    "before the thinning out": (replaced(store_module, "thin_out"), 2),
}

BESIDE_TRAINING: dict[str, tuple[Callable[[], None], int]] = {
    "staging folder made": (after(background_module, "stage"), 1),
    "before the copies": (replaced(HostCopies, "take"), 1),
    "copied, nothing written": (replaced(DeferredWriter, "write_copies"), 1),
    "after the shards": (after(DeferredWriter, "write_copies"), 1),
    "before the hashes": (replaced(background_module, "hash_share"), 1),
    "shards without their index": (replaced(DeferredWriter, "write_index"), 1),
    "after the index": (after(DeferredWriter, "write_index"), 1),
    "before the manifest": (replaced(background_module, "write_manifest"), 1),
    "after the manifest": (after(background_module, "write_manifest"), 1),
    "flushed, not renamed": (after(save_module, "fsync_tree"), 1),
    "renamed, LATEST old": (replaced(background_module, "note_save"), 2),
    "before the thinning out": (replaced(store_module, "thin_out"), 2),
}


def disk_full() -> None:
    """No file may grow beyond 10 kB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))


def in_a_fork(work: Callable[[], None]) -> int:
    """Exit status of a child that runs ``work``."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except Exception as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(REFUSED)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def save(run: Path, step: int, fault: Callable[[], None] = lambda: None, background: bool = False) -> None:
    """Save a model as of ``step``, with a fault."""
    initialize(LayoutConfig())
    parts = build(LayoutConfig(), "fp32")
    folder_module.remove_leftovers(run)
    fault()
    if background:
        store_module.begin_save(parts, run, TrainState(step=step), "steps", "data", HostCopies()).finish()
    else:
        store_module.save_run(parts, run, TrainState(step=step), "steps", "data")


def go_on(run: Path, step: int, background: bool) -> None:
    """The newest whole checkpoint is that of ``step`` and can be read, and the next one can be saved."""
    initialize(LayoutConfig())
    found = find_newest(run).checkpoint
    assert found is not None and found.step == step, found
    store_module.load_run(build(LayoutConfig(), "fp32"), found)
    save(run, step + 1, background=background)


def check(saved: Path, run: Path, fault: Callable[[], None], status: int, newest: int, background: bool) -> None:
    """After a fault in the save of step 2, on a copy of what was ``saved``: ``newest`` is whole, and saving goes on."""
    shutil.copytree(saved, run)
    assert in_a_fork(lambda: save(run, 2, fault, background)) == status
    assert in_a_fork(lambda: go_on(run, newest, background)) == 0
    assert [checkpoint.step for checkpoint in list_checkpoints(run)] == list(range(1, newest + 2))
    assert not any(path.name.startswith(".") for path in (run / "checkpoints").iterdir())


def main(arguments: list[str]) -> None:
    """Every point in turn."""
    warnings.simplefilter("ignore")
    folder, background = Path(arguments[0]), "background" in arguments[1:]
    saved = folder / "saved"
    assert in_a_fork(lambda: save(saved, 1)) == 0
    for number, (name, (fault, newest)) in enumerate((BESIDE_TRAINING if background else POINTS).items()):
        check(saved, folder / str(number), fault, KILLED, newest, background)
        print(f"held: {name}", flush=True)
    check(saved, folder / "full", disk_full, REFUSED, 1, background)
    print("held: disk full", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
