"""Ranks end with the launcher that started them: nobody is left training in a folder that another start takes."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2)."""
LOOK_EVERY = 1.0
"""Seconds between two looks at the parent, where the system sends no signal."""


def end_with_launcher() -> None:
    """Let this rank be killed when torchrun has ended without ending it; without torchrun nothing happens.

    A shell may end while its job goes on (nohup): only a launcher that says so, as torchrun does, is watched.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    launcher = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(launcher,), name="launcher", daemon=True).start()
    if os.getppid() != launcher or not _is_python(launcher):  # it ended before it was watched
        os.kill(os.getpid(), signal.SIGKILL)


def _is_python(process: int) -> bool:
    """Whether a process runs Python, as every launcher that sets TORCHELASTIC_RUN_ID does.

    A rank whose launcher has ended already is the child of init or of what stands in for it.
    """
    if sys.platform != "linux":
        return process != 1
    try:
        return "python" in os.path.basename(os.readlink(f"/proc/{process}/exe"))
    except OSError:  # it has ended, or is another user's
        return False


def _watch(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(LOOK_EVERY)
    os.kill(os.getpid(), signal.SIGKILL)
