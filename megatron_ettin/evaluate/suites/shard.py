"""Processes that share the work of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from megatron_ettin.errors import ConfigError

if TYPE_CHECKING:
    from megatron_ettin.evaluate.suites.suite import Suite


@dataclass(frozen=True)
class Shard:
    """One of several processes that share the work through one output folder."""

    index: int = 1
    """From 1."""
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From ``i/n``; raises ConfigError."""
        index, mark, count = text.partition("/")
        if not (mark and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise ConfigError(f"--shard {text}: give i/n with 1 <= i <= n, for example 2/8")
        return cls(int(index), int(count))

    def takes(self, number: int) -> bool:
        """Whether this process does unit ``number``."""
        return number % self.count == self.index - 1

    def holds(self, number: int, units: int) -> bool:
        """Whether unit ``number`` of so many lies in this process's part, where each has a part without gaps."""
        return number * self.count // units == self.index - 1


ALONE = Shard()
"""A process that does everything."""


@runtime_checkable
class Divisible(Protocol):
    """A suite whose tasks have parts of their own, which processes share instead of whole tasks."""

    def within(self, folder: Path, shard: Shard) -> Suite:
        """The suite that keeps its parts below ``folder`` and does those that ``shard`` takes.

        A task of which other processes still have parts raises NotRunError.
        """
        ...
