"""What a run must remember beside its tensors."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from megatron_ettin.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Where a run is. Everything else is a function of these numbers, the configuration and the data."""

    step: int = 0
    """Steps taken in this stage; the rows of the next one follow from it."""
    tokens: int = 0
    """Tokens seen in this stage; the learning rate follows from it."""
    updates: int = 0
    """Updates applied to the weights since the optimizer's state was last fresh."""
    refused: int = 0
    """Steps of this stage whose gradient was not finite, and which changed nothing."""
    refused_in_a_row: int = 0
    """Such steps since the last accepted one."""
    recent: tuple[tuple[float, float], ...] = ()
    """(loss, gradient norm) of the last accepted steps, oldest first, by which the next one is judged."""
    bad_since: int = 0
    """First of the spikes and refused steps that have come without a good one between; 0: the last step was good."""
    saved_tokens: int = 0
    """Tokens seen at the last save that the token clock asked for."""
    finished: bool = False
    """The stage has seen all its tokens."""

    def after(
        self, *, tokens: int, accepted: bool, good: bool | None = None, numbers: tuple[float, float] | None = None,
        window: int = 0,
    ) -> TrainState:
        """The state after one more step that saw ``tokens`` tokens.

        ``good``: it was neither a spike nor refused for its numbers (default: as ``accepted``). ``numbers``: its loss
        and gradient norm, of which the last ``window`` accepted ones are kept.
        """
        good = accepted if good is None else good
        recent = (*self.recent, numbers) if accepted and numbers is not None else self.recent
        return replace(
            self,
            step=self.step + 1,
            tokens=self.tokens + tokens,
            updates=self.updates + int(accepted),
            refused=self.refused + int(not accepted),
            refused_in_a_row=0 if accepted or good else self.refused_in_a_row + 1,
            recent=recent[-window:] if window else (),
            bad_since=0 if good else self.bad_since or self.step + 1,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for state.json."""
        return asdict(self) | {"recent": [list(pair) for pair in self.recent]}

    def figures(self) -> dict[str, Any]:
        """Those that tell where the run is, for people and exports."""
        return {name: value for name, value in asdict(self).items() if name not in ADDED}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> TrainState:
        """The state that ``to_dict`` wrote. Raises CheckpointError when a number is missing or of another kind."""
        values = ADDED | values
        kinds: dict[str, type] = {"finished": bool, "recent": list}
        for field in fields(TrainState):
            if type(values.get(field.name)) is not kinds.get(field.name, int):
                raise CheckpointError(f"state.json: {field.name}={values.get(field.name)!r} is not a number of a run")
        for pair in values["recent"]:
            if not isinstance(pair, list) or [type(number) for number in pair] != [float, float]:
                raise CheckpointError(f"state.json: recent holds {pair!r}, which is not the loss and norm of a step")
        recent = tuple((loss, norm) for loss, norm in values["recent"])
        return TrainState(**{field.name: values[field.name] for field in fields(TrainState)} | {"recent": recent})


ADDED: dict[str, Any] = {"recent": [], "bad_since": 0}
"""What a state.json of version 0.1 may lack, as it is then."""
