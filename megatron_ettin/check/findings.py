"""Lines of the report of ``ettin check``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from megatron_ettin.errors import EttinError

State = Literal["ok", "open", "error"]


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    state: State
    """``open``: nothing is wrong, but training needs something that was not given."""
    what: str
    text: str

    def __str__(self) -> str:
        return f"{self.state:<5}  {self.what:<9}  {self.text}"


def guarded(what: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    """The findings up to the first error, which becomes one."""
    try:
        yield from findings
    except EttinError as error:
        yield Finding("error", what, str(error))
