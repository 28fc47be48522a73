"""Pipeline schedules, simulated: who does what when, and how long devices wait."""

from __future__ import annotations

from dataclasses import dataclass

Action = tuple[str, int, int]
"""('F' or 'B', chunk on this device, micro-batch)."""


def schedule(device: int, devices: int, chunks: int, micro_batches: int) -> list[Action]:
    """The order of one device: forwards that fill the pipeline, one forward and one backward in turn, then the rest.

    With one chunk of layers a device this is 1F1B. With more, micro-batches go round the chunks in groups of
    ``devices``, of which ``micro_batches`` must be a multiple.
    """
    if chunks == 1:
        forwards = backwards = [(0, m) for m in range(micro_batches)]
        warmup = min(devices - device - 1, micro_batches)
    else:
        forwards = []
        for k in range(chunks * micro_batches):
            group, rest = divmod(k, devices * chunks)
            forwards.append((rest // devices, group * devices + rest % devices))
        backwards = [(chunks - 1 - chunk, m) for chunk, m in forwards]
        warmup = min(len(forwards), 2 * (devices - device - 1) + (chunks - 1) * devices)
    actions: list[Action] = [("F", *item) for item in forwards[:warmup]]
    for forward, backward in zip(forwards[warmup:], backwards, strict=False):
        actions += [("F", *forward), ("B", *backward)]
    return actions + [("B", *item) for item in backwards[len(forwards) - warmup :]]


@dataclass(frozen=True)
class Timeline:
    """The outcome of a simulation, in the unit of the given durations."""

    total: float
    """From the first start to the last end."""
    busy: tuple[float, ...]
    """Time at work, per device."""
    peak_in_flight: tuple[int, ...]
    """Most passes that a device holds activations of at once."""

    @property
    def bubble(self) -> float:
        """Share of device time lost: to waiting and to unequal stages."""
        return 1.0 - sum(self.busy) / (len(self.busy) * self.total)


def simulate(forward: list[float], backward: list[float], devices: int, micro_batches: int) -> Timeline:
    """Run a step. ``forward`` and ``backward`` are the durations of each stage in model order.

    Stage s lies on device s mod ``devices`` as its chunk s div ``devices``. A pass starts when its device is free
    and the neighbour's pass, which makes its input, has ended. O(stages x micro-batches).
    """
    stages = len(forward)
    chunks = stages // devices
    pending = [schedule(device, devices, chunks, micro_batches) for device in range(devices)]
    done: dict[tuple[str, int, int], float] = {}
    position, free, busy = [0] * devices, [0.0] * devices, [0.0] * devices
    moved = True
    while moved:
        moved = False
        for device in range(devices):
            while position[device] < len(pending[device]):
                kind, chunk, m = pending[device][position[device]]
                stage = chunk * devices + device
                if kind == "F":
                    ready = done.get(("F", stage - 1, m)) if stage else 0.0
                else:
                    ready = done.get(("B", stage + 1, m) if stage < stages - 1 else ("F", stage, m))
                if ready is None:
                    break
                duration = forward[stage] if kind == "F" else backward[stage]
                free[device] = max(free[device], ready) + duration
                done[kind, stage, m] = free[device]
                busy[device] += duration
                position[device] += 1
                moved = True
    if len(done) != 2 * stages * micro_batches:
        raise RuntimeError(f"the schedule of {devices} devices and {chunks} chunks blocks itself")
    return Timeline(max(free), tuple(busy), tuple(in_flight(actions) for actions in pending))


def in_flight(actions: list[Action]) -> int:
    """Most forwards without their backward, over the order of a device."""
    held = peak = 0
    for kind, _, _ in actions:
        held += 1 if kind == "F" else -1
        peak = max(peak, held)
    return peak
