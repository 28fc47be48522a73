"""Time of data ranks that goes without rows, because a step cannot be dealt evenly, and which layouts lose less."""

from __future__ import annotations

from dataclasses import dataclass, replace

from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.sharing import Sharing, sharing_at, suits
from megatron_ettin.schedule import batch_schedule

WORTH_A_WORD = 0.005
"""A smaller share of the time needs no advice."""


@dataclass(frozen=True, kw_only=True)
class Idle:
    """Shares of the data ranks' time that go without rows."""

    full: float
    """In a full step."""
    growing: float
    """In all steps of the growing batch; 0 without one."""
    stage: float
    """In all steps of the stage."""


def idle(config: RunConfig) -> Idle:
    """The shares of a run; an unset data size counts as one rank, which waits for nobody."""
    table = batch_schedule(config.batch, config.data.row_length).table
    total = max(-(-config.schedule.tokens // config.data.row_length), config.batch.rows)
    firsts = [min(first, total) for first, _ in table] + [total]
    read, taken = [], []  # rows, and rows that the ranks had time for
    for (_, size), first, last in zip(table, firsts, firsts[1:], strict=False):
        read.append(last - first)
        taken.append((last - first) / (1.0 - sharing_at(config, size).idle))

    def share(rows: list[int], time: list[float]) -> float:
        return 1.0 - sum(rows) / sum(time) if sum(rows) else 0.0

    return Idle(
        full=sharing_at(config, config.batch.rows).idle,
        growing=share(read[:-1], taken[:-1]),
        stage=share(read, taken),
    )


def advice(config: RunConfig) -> str:
    """What loses less of a full step than the layout does: other micro-batches, or other data sizes; "" for nothing."""
    shared = sharing_at(config, config.batch.rows)
    if shared.idle < WORTH_A_WORD:
        return ""
    found = []
    others = [
        replace(shared, size=size)
        for size in range(1, shared.rows // shared.ranks + 1)
        if shared.rows % size == 0 and suits(config, size)
    ]

    best = min(  # of equally good ones that of the most similar size
        others, default=shared,
        key=lambda other: (round(other.idle, 3), max(other.size, shared.size) / min(other.size, shared.size)),
    )  # fmt: skip
    if best.idle < shared.idle - WORTH_A_WORD:
        found.append(f"layout.micro_batch_rows={best.size} leaves {best.idle:.1%}")
    if sizes := even_sizes(shared):
        found.append(f"a data size of {' or '.join(map(str, sizes))} leaves none")
    return "; ".join(found)


def even_sizes(shared: Sharing) -> list[int]:
    """The next smaller and the next larger number of data ranks that share the step without idling."""
    most = shared.rows // shared.size
    even = [ranks for ranks in range(1, most + 1) if replace(shared, ranks=ranks).idle == 0.0]
    below = [ranks for ranks in even if ranks < shared.ranks][-1:]
    return below + [ranks for ranks in even if ranks > shared.ranks][:1]
