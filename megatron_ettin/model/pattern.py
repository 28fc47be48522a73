"""What distinguishes one layer from another: how far it sees, and its rotary base."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
    causal: Reach | None = None
    """Reach in segments that look to the left only, in a run with rows of both kinds."""

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

    @property
    def halo(self) -> tuple[int, int]:
        """(left, right) that holds what any segment sees, of a local layer."""
        left, right = self.window
        return (left, right) if self.causal is None else (max(left, self.causal.window[0]), right)

    def of(self, *, causal: bool) -> Reach:
        """The reach of a segment of either kind, in a run with both."""
        if self.causal is None:
            return self
        return self.causal if causal else replace(self, causal=None)


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
    model, objective = config.model, OBJECTIVES[config.objective]
    whole, window = Reach(left=None, right=0), Reach(left=model.causal_window, right=0)
    if not objective.causal:
        to_left, in_window = (whole, window) if objective.mixes else (None, None)
        whole = Reach(left=None, right=None, causal=to_left)
        window = Reach(left=model.window, right=model.window, causal=in_window)
    return tuple(
        LayerKind(index=layer, reach=whole, rope_base=model.rope_base_global)
        if is_global(model, layer)
        else LayerKind(index=layer, reach=window, rope_base=model.rope_base_local)
        for layer in range(model.layers)
    )
