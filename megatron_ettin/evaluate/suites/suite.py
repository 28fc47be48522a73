"""What a suite is: named tasks, the data and the rules of each, and one number with its interval a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from megatron_ettin.evaluate.retrieval.settings import ContrastSettings

if TYPE_CHECKING:
    from megatron_ettin.evaluate.suites.subjects import Subject


class NotRunError(Exception):
    """A task that cannot run here, with the reason for the table.

    ``absent``: its files or splits are missing, so that it is an error where the user asked for this very task.
    """

    def __init__(self, reason: str, *, absent: bool = True) -> None:
        super().__init__(reason)
        self.absent = absent


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user chooses for all suites."""

    local: Path | None = None
    """Folder of local data, one folder a suite in it; None: the hub."""
    limit: int | None = None
    """Most examples of a split; None: all."""
    seeds: int = 1
    """Repetitions of tasks that train."""
    budget: str = "one"
    """How much is spent on tasks that train: one setting, a quick one, or the published sweep."""
    setting: str = ""
    """The user's own setting for them."""
    retrieval: ContrastSettings = ContrastSettings()
    """How the retrieval suite trains."""
    keep: Path | None = None
    """Folder in which suites keep models that they train, for all processes of one output; None: for the while."""
    published: bool = False
    """Repeat the rules that published scores were made by, their mistakes included; else the corrected ones."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The outcome of one task."""

    metric: str
    """What ``value`` is: the metric that published tables show for the task."""
    value: float
    examples: int
    """How many were scored."""
    standard_error: float | None = None
    interval: tuple[float, float] | None = None
    """Of 95 %, in the unit of ``value``."""
    unit: Literal["share", "points", "nats"] = "share"
    """Shares are printed as percentages."""
    higher_is_better: bool = True
    ranked: bool = True
    """False where neither end of the scale is better, as of the share of a pronoun."""
    others: Mapping[str, float] = field(default_factory=dict)
    """Further metrics of the same run of the task."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else a reader may want, as JSON. ``chance``: the value that guessing would give, which plots show."""


Facts = dict[str, Any]
"""JSON."""

RunTask = Callable[[str], Measured]
"""Task -> outcome; raises NotRunError."""


class Suite(Protocol):
    """Tasks that are run by the same rules."""

    name: ClassVar[str]
    """On the command line and in results."""
    version: ClassVar[str]
    """Changes with anything that changes a score."""

    def tasks(self) -> Sequence[str]:
        """Names of all tasks, in the order of the table."""
        ...

    def data(self, task: str) -> Facts:
        """Where the task's examples come from, with the hash of each local file; raises NotRunError, DataError."""
        ...

    def protocol(self, task: str, subject: Subject) -> Facts:
        """{"rules", "reading"}: the rules of the task, and how this kind of model answers under them.

        Scores of different rules never share a column of a table. Raises NotRunError where a kind cannot be scored.
        """
        ...

    def opened(self, subject: Subject) -> AbstractContextManager[RunTask]:
        """The model, loaded once for all its tasks."""
        ...


@runtime_checkable
class Grouped(Protocol):
    """A suite with names that stand for several tasks."""

    @property
    def groups(self) -> Mapping[str, Sequence[str]]:
        """Name -> tasks."""
        ...
