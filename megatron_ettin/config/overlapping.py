"""Whether gradients and weights travel between data ranks while the passes of a step compute."""

from __future__ import annotations

from megatron_ettin.config.run import RunConfig


def overlaps(config: RunConfig, device_kind: str) -> bool:
    """Whether they do on such a device, ``cpu`` or ``cuda``; an open data size counts as one rank."""
    return overlap_choice(config, device_kind)[0]


def overlap_choice(config: RunConfig, device_kind: str) -> tuple[bool, str]:
    """Whether they do, and why."""
    layout = config.layout
    if layout.overlap or not layout.choose_overlap:
        return layout.overlap, "asked for"
    if max(1, layout.data) * layout.context == 1:
        return False, "there is nobody to send them to"
    if config.optimizer.freeze:
        return False, "it waits for the gradient of every weight, and optimizer.freeze leaves some out"
    if device_kind == "cpu":
        return False, "on a CPU messages take the cores that compute"
    return True, "the GPU computes meanwhile"


def overlap_line(config: RunConfig, device_kind: str) -> str:
    """The choice, for people."""
    chosen, reason = overlap_choice(config, device_kind)
    when = "while the passes compute" if chosen else "between the passes"
    return f"gradients and weights are sent {when}: {reason} (--layout.overlap, --layout.no-overlap)"
