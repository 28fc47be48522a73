"""How many rows of a micro-batch a device's memory holds: the more, the less a small model waits for launches."""

from __future__ import annotations

from dataclasses import replace

from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.sharing import sharing_at, suits
from megatron_ettin.cost.hardware import GIBI
from megatron_ettin.cost.memory import heaviest

FILLED = 0.85
"""Share of a device's memory that weights, activations and the framework may take: allocators leave gaps, and kernels
need temporary tensors."""
ENOUGH_TOKENS = 144 * 1024
"""Tokens of a micro-batch on a rank beyond which nothing is gained: those of the published training of the smallest
model, 17M."""
EVEN = 1.02
"""The busiest data rank may have so many times the rows of the evenest sharing: fewer, larger micro-batches are worth
a little waiting of the others."""
FRAMEWORK_BYTES = 2 * GIBI
"""What CUDA, its libraries and the communication hold beside the tensors of a run."""


def with_micro_batch(config: RunConfig, rows: int) -> RunConfig:
    """The run with other micro-batches; what it learns stays the same."""
    return replace(config, layout=replace(config.layout, micro_batch_rows=rows))


def fits(config: RunConfig, device_bytes: int) -> bool:
    """Whether the fullest rank leaves the framework its memory."""
    return heaviest(config)[1].total + FRAMEWORK_BYTES <= FILLED * device_bytes


def largest_micro_batch(config: RunConfig, device_bytes: int) -> int:
    """Rows of the largest micro-batch that divides the full batch, is no more than a data rank's share, fits, and pays.

    0 where not even one row fits.
    """
    layout = config.layout
    pays = max(1, ENOUGH_TOKENS * layout.context // config.data.row_length)
    most = min(-(-config.batch.rows // max(1, layout.data)), pays)
    divisors = (rows for rows in range(most, 0, -1) if config.batch.rows % rows == 0)
    return next((rows for rows in divisors if fits(with_micro_batch(config, rows), device_bytes)), 0)


def fitting_micro_batch(config: RunConfig, device_bytes: int) -> int:
    """The largest micro-batch up to that one with which the busiest data rank has nearly as few rows as with any.

    0 where not even one row fits.
    """
    busiest = {}
    for rows in range(1, largest_micro_batch(config, device_bytes) + 1):
        if config.batch.rows % rows == 0 and suits(config, rows):
            shared = sharing_at(with_micro_batch(config, rows), config.batch.rows)
            busiest[rows] = shared.most * rows
    return max((rows for rows, most in busiest.items() if most <= EVEN * min(busiest.values())), default=0)


def smaller_micro_batch(config: RunConfig, device_bytes: int | None = None) -> int:
    """Rows of the next smaller micro-batch that the layout can take; 0: there is none.

    With ``device_bytes`` of those that fit into such a device by the plan, where any does.
    """
    rows = config.layout.micro_batch_rows
    smaller = [size for size in range(rows - 1, 0, -1) if config.batch.rows % size == 0 and suits(config, size)]
    fitting = (size for size in smaller if device_bytes and fits(with_micro_batch(config, size), device_bytes))
    return next(fitting, next(iter(smaller), 0))


def fitted(config: RunConfig, device_bytes: int) -> RunConfig:
    """The run with the micro-batches that it takes on such a device; as it is where they are given or nothing fits."""
    rows = fitting_micro_batch(config, device_bytes) if config.layout.fit_micro_batch else 0
    return with_micro_batch(config, rows) if rows else config


def choice_line(config: RunConfig, device_bytes: int) -> str:
    """What was chosen, and why."""
    held = heaviest(config)[1].total
    return (
        f"micro-batches of {config.layout.micro_batch_rows} rows: {(held + FRAMEWORK_BYTES) / GIBI:.1f} of "
        f"{device_bytes / GIBI:.0f} GiB; --layout.micro-batch-rows sets another number"
    )
