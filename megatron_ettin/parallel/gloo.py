"""One transport for all gloo groups of a process.

By default each group brings a transport of its own, with a thread that wakes up a hundred times a second. Megatron-Core
makes some twenty groups a rank: that is 3 % of a core for nothing, on every rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from typing import Any

import torch.distributed as dist
from torch.distributed import distributed_c10d


@lru_cache(maxsize=1)
def _transport() -> Any:
    return dist.ProcessGroupGloo.create_default_device()


class OneTransportGloo(dist.ProcessGroupGloo):
    """Gloo over the transport that all groups of this process share."""

    def __init__(self, store: Any, rank: int, size: int, timeout: timedelta) -> None:
        options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._devices, options._timeout = [_transport()], timeout
        super().__init__(store, rank, size, options)


@contextmanager
def one_transport() -> Iterator[None]:
    """Gloo groups that are made meanwhile share a transport; torch has no option for it."""
    usual = distributed_c10d.ProcessGroupGloo
    distributed_c10d.ProcessGroupGloo = OneTransportGloo  # type: ignore[misc]
    try:
        yield
    finally:
        distributed_c10d.ProcessGroupGloo = usual  # type: ignore[misc]
