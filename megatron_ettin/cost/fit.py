"""How many rows of a micro-batch a device's memory holds: the more, the less a small model waits for launches."""

from __future__ import annotations

from dataclasses import replace

from megatron_ettin.config.run import RunConfig
from megatron_ettin.cost.hardware import GIBI
from megatron_ettin.cost.memory import heaviest

FILLED = 0.85
"""Share of a device's memory that weights, activations and the framework may take: allocators leave gaps, and kernels
need temporary tensors."""
ENOUGH_TOKENS = 144 * 1024
"""Tokens of a micro-batch beyond which nothing is gained: those of the published 17M training, the smallest model."""
FRAMEWORK_BYTES = 2 * GIBI
"""What CUDA, its libraries and the communication hold beside the tensors of a run."""


def with_micro_batch(config: RunConfig, rows: int) -> RunConfig:
    """The run with other micro-batches; what it learns stays the same."""
    return replace(config, layout=replace(config.layout, micro_batch_rows=rows))


def fitting_micro_batch(config: RunConfig, device_bytes: int) -> int:
    """The largest micro-batch that divides the full batch, is no larger than a data rank's share, fits, and pays.

    0 where not even one row fits.
    """
    most = min(-(-config.batch.rows // max(1, config.layout.data)), max(1, ENOUGH_TOKENS // config.data.row_length))
    divisors = [rows for rows in range(most, 0, -1) if config.batch.rows % rows == 0]
    for rows in divisors:
        held = heaviest(with_micro_batch(config, rows))[1].total
        if held + FRAMEWORK_BYTES <= FILLED * device_bytes:
            return rows
    return 0


def choice_line(config: RunConfig, device_bytes: int) -> str:
    """What was chosen, and why."""
    held = heaviest(config)[1].total
    return (
        f"micro-batches of {config.layout.micro_batch_rows} rows: {(held + FRAMEWORK_BYTES) / GIBI:.1f} of "
        f"{device_bytes / GIBI:.0f} GiB; --layout.micro-batch-rows sets another number"
    )
