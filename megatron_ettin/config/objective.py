"""The objectives: everything in which the two members of a pair differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ObjectiveName = Literal["mlm", "clm", "mntp", "mixed"]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One training objective as facts; data, model and evaluation read them instead of asking for a name."""

    name: ObjectiveName
    causal: bool
    """Attention sees only itself and what is to the left."""
    masked: bool
    """A share of the tokens is chosen, corrupted and predicted; else every next token is predicted."""
    label_offset: int
    """The target of token i is predicted from the hidden state at i + label_offset (0 or -1)."""
    always_ends: bool
    """The end position always holds [SEP]; else only where the document ends, and [PAD] where it was cut."""
    row_kinds: tuple[ObjectiveName, ...] = ()
    """The two objectives whose rows a run mixes, the masked one, whose facts these are, and that of next tokens.
    Which one a row belongs to is drawn, data.causal_share to the second. Empty: all rows are alike."""

    @property
    def mixes(self) -> bool:
        """Rows are of two kinds."""
        return bool(self.row_kinds)


OBJECTIVES: dict[str, Objective] = {
    "mlm": Objective(name="mlm", causal=False, masked=True, label_offset=0, always_ends=True),
    "clm": Objective(name="clm", causal=True, masked=False, label_offset=-1, always_ends=False),
    "mntp": Objective(name="mntp", causal=False, masked=True, label_offset=-1, always_ends=True),
    "mixed": Objective(
        name="mixed", causal=False, masked=True, label_offset=-1, always_ends=True, row_kinds=("mntp", "clm")
    ),
}


def kinds_of(objective: Objective) -> tuple[Objective, ...]:
    """The objectives of the rows: itself, or those that it mixes, masked rows first."""
    return tuple(OBJECTIVES[name] for name in objective.row_kinds) or (objective,)
