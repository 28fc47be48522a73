"""How data ranks share the rows of a step: contiguous slices of whole micro-batches, empty ones where none is left."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ettin.config.run import LayoutConfig, RunConfig
from megatron_ettin.errors import ConfigError

FP8_MULTIPLE = 16
"""Rows and columns of the matrices that are multiplied in fp8."""


@dataclass(frozen=True)
class Sharing:
    """The micro-batches of a step among the data ranks, of which some have one more than others.

    A micro-batch without rows has no labels: its gradient is zero, and it joins in whatever the ranks do together.
    Raises ConfigError when the micro-batches do not make up the step.
    """

    rows: int
    """Rows of the step."""
    ranks: int = 1
    """Data ranks."""
    size: int = 1
    """Rows of a micro-batch."""
    round: int = 1
    """A rank has a multiple of so many micro-batches: interleaved pipeline stages take them in rounds."""
    alike: bool = False
    """Every rank has as many micro-batches as the busiest: each of them goes with a message among the data ranks."""

    def __post_init__(self) -> None:
        if self.size < 1 or self.rows % self.size:
            raise ConfigError(
                f"a step of {self.rows} rows cannot be cut in micro-batches of {self.size}; "
                "layout.micro_batch_rows must divide it"
            )

    def bounds(self, rank: int) -> list[tuple[int, int]]:
        """First row and the one behind the last of each micro-batch of a rank that has rows, in order."""
        parts = self.rows // self.size
        mine = range(parts * rank // self.ranks, parts * (rank + 1) // self.ranks)
        return [(part * self.size, (part + 1) * self.size) for part in mine]

    def count(self, rank: int) -> int:
        """Micro-batches of a rank, with those that have no rows; at least one."""
        return self.most if self.alike else self._in_rounds(len(self.bounds(rank)))

    @property
    def most(self) -> int:
        """Micro-batches of the busiest rank: what the others wait for."""
        return self._in_rounds(-(-self.rows // (self.size * self.ranks)))

    def _in_rounds(self, count: int) -> int:
        return max(1, -(-count // self.round)) * self.round

    @property
    def idle(self) -> float:
        """Share of the ranks' time in the step that goes without rows."""
        return 1.0 - self.rows / (self.ranks * self.most * self.size)


def sharing_at(config: RunConfig, rows: int) -> Sharing:
    """How a step of ``rows`` rows is shared; an unset data size counts as 1.

    A full step is cut in micro-batches of ``layout.micro_batch_rows``. A smaller one, of a growing batch, takes those
    up to that size which leave the busiest rank the fewest rows, and of these the largest. Raises ConfigError when no
    micro-batch suits the layout.
    """
    layout = config.layout
    sizes = [layout.micro_batch_rows]
    if rows != config.batch.rows:
        sizes = [size for size in range(1, min(rows, sizes[0]) + 1) if rows % size == 0 and suits(config, size)]
    if not sizes:
        raise ConfigError(
            f"no micro-batch of up to layout.micro_batch_rows={layout.micro_batch_rows} rows divides the growing batch "
            f"of {rows} rows and suits this layout (batch.warmup_increment={config.batch.warmup_increment}); use fewer "
            "tensor or context ranks, another batch.warmup_increment, or batch.warmup_tokens=0"
        )
    choices = [
        Sharing(
            rows,
            ranks=max(1, layout.data),
            size=size,
            round=layout.pipeline if layout.virtual_pipeline > 1 else 1,
            alike=config.compute.precision == "fp8" and config.compute.fp8_recipe == "delayed",
        )
        for size in sizes
    ]
    return min(choices, key=lambda choice: (choice.most * choice.size, -choice.size))


def suits(config: RunConfig, size: int) -> bool:
    """Whether the tensor and context ranks can share micro-batches of ``size`` rows."""
    layout, tokens = config.layout, size * config.data.row_length
    if tokens % (layout.context * layout.tensor):
        return False
    if layout.context > 1 and tokens // layout.context < widest_window(config):
        return False
    return config.compute.precision != "fp8" or along_sequence(layout, tokens) % FP8_MULTIPLE == 0


def widest_window(config: RunConfig) -> int:
    """Tokens to one side that a local layer sees at most."""
    return max(config.model.window, config.model.causal_window)


def along_sequence(layout: LayoutConfig, tokens: int) -> int:
    """Tokens of a micro-batch on one of the ranks that share it along the sequence."""
    return tokens // (layout.context * (layout.tensor if layout.sequence_parallel else 1))


def empty_shape(config: RunConfig, shared: Sharing, rank: int) -> tuple[int, int]:
    """Rows and tokens of a row of a rank's empty micro-batches.

    Like its others, because a pipeline passes on one shape; on a rank without any rows a single row, of about as few
    tokens as the layout can share.
    """
    if shared.bounds(rank):
        return shared.size, config.data.row_length
    layout = config.layout
    tokens = FP8_MULTIPLE * layout.tensor
    if layout.context > 1:
        tokens *= -(-widest_window(config) // tokens)
    return 1, layout.context * tokens
