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
    saved_tokens: int = 0
    """Tokens seen at the last save that the token clock asked for."""
    finished: bool = False
    """The stage has seen all its tokens."""

    def after(self, *, tokens: int, accepted: bool) -> TrainState:
        """The state after one more step that saw ``tokens`` tokens."""
        return replace(
            self,
            step=self.step + 1,
            tokens=self.tokens + tokens,
            updates=self.updates + int(accepted),
            refused=self.refused + int(not accepted),
            refused_in_a_row=0 if accepted else self.refused_in_a_row + 1,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for state.json."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> TrainState:
        """The state that ``to_dict`` wrote. Raises CheckpointError when a number is missing or of another kind."""
        kinds: dict[str, tuple[type, ...]] = {"finished": (bool,)}
        for field in fields(TrainState):
            if type(values.get(field.name)) not in kinds.get(field.name, (int,)):
                raise CheckpointError(f"state.json: {field.name}={values.get(field.name)!r} is not a number of a run")
        return TrainState(**{field.name: values[field.name] for field in fields(TrainState)})
