"""Importing large packages without looking for garbage among what they make."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def heavy_imports() -> Iterator[None]:
    """Imports inside do without the cyclic collector, and what they made is left out of later collections.

    For programs, not for libraries: what is garbage at the end of the block stays. Torch and Megatron-Core make a
    million objects that live as long as the process; looking through them again and again is a sixth of their import.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
