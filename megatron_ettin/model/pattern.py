"""What distinguishes one layer from another: how far it sees, and its rotary base."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.shapes import is_global


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Which keys of its own segment a query sees."""

    left: int | None
    """Keys to the left; None: all."""
    right: int | None
    """Keys to the right; None: all; 0: causal."""

    @property
    def is_local(self) -> bool:
        """Bounded on the left."""
        return self.left is not None

    @property
    def is_causal(self) -> bool:
        """Nothing to the right is seen."""
        return self.right == 0

    @property
    def window(self) -> tuple[int, int]:
        """(left, right) as flash-attention kernels take it: -1 is unbounded."""
        return (-1 if self.left is None else self.left, -1 if self.right is None else self.right)


@dataclass(frozen=True, kw_only=True)
class LayerKind:
    """One layer of the pattern."""

    index: int
    """Position in the model, from 0."""
    reach: Reach
    """Which keys it sees."""
    rope_base: float
    """Base of its rotary embedding."""


def layer_kinds(config: RunConfig) -> tuple[LayerKind, ...]:
    """Every layer of the run's model, in order."""
    model, causal = config.model, OBJECTIVES[config.objective].causal
    whole = Reach(left=None, right=0 if causal else None)
    window = Reach(left=model.causal_window, right=0) if causal else Reach(left=model.window, right=model.window)
    return tuple(
        LayerKind(index=layer, reach=whole, rope_base=model.rope_base_global)
        if is_global(model, layer)
        else LayerKind(index=layer, reach=window, rope_base=model.rope_base_local)
        for layer in range(model.layers)
    )
