"""Pipeline schedules, simulated: who does what when, and how long devices wait."""

from __future__ import annotations

from dataclasses import dataclass

Action = tuple[str, int, int]
"""('F' or 'B', chunk on this device, micro-batch)."""


def one_forward_one_backward(device: int, devices: int, micro_batches: int) -> list[Action]:
    """The order of one device under 1F1B: fill, then one forward and one backward in turn, then drain."""
    warmup = min(devices - device - 1, micro_batches)
    return woven([(0, m) for m in range(micro_batches)], [(0, m) for m in range(micro_batches)], warmup)


def interleaved(device: int, devices: int, chunks: int, micro_batches: int) -> list[Action]:
    """The order of one device with ``chunks`` chunks of layers: micro-batches go round in groups of ``devices``.

    ``micro_batches`` must be a multiple of ``devices``.
    """
    total = chunks * micro_batches
    forwards = [turn(k, devices, chunks) for k in range(total)]
    backwards = [(chunks - 1 - chunk, m) for chunk, m in forwards]
    warmup = min(total, 2 * (devices - device - 1) + (chunks - 1) * devices)
    return woven(forwards, backwards, warmup)


def turn(k: int, devices: int, chunks: int) -> tuple[int, int]:
    """Chunk and micro-batch of the k-th forward pass on a device."""
    group, rest = divmod(k, devices * chunks)
    return rest // devices, group * devices + rest % devices


def woven(forwards: list[tuple[int, int]], backwards: list[tuple[int, int]], warmup: int) -> list[Action]:
    """``warmup`` forwards, then forward and backward in turn, then the remaining backwards."""
    actions: list[Action] = [("F", *item) for item in forwards[:warmup]]
    for forward, backward in zip(forwards[warmup:], backwards, strict=False):
        actions += [("F", *forward), ("B", *backward)]
    return actions + [("B", *item) for item in backwards[len(forwards) - warmup :]]


def schedule(device: int, devices: int, chunks: int, micro_batches: int) -> list[Action]:
    """The order of one device: 1F1B, or interleaved with more than one chunk."""
    if chunks == 1:
        return one_forward_one_backward(device, devices, micro_batches)
    return interleaved(device, devices, chunks, micro_batches)


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


def simulate(
    forward: list[float], backward: list[float], devices: int, micro_batches: int, transfer: float = 0.0
) -> Timeline:
    """Run a step. ``forward`` and ``backward`` are the durations of each stage in model order.

    Stage s lies on device s mod ``devices`` as its chunk s div ``devices``. A pass starts when its device is free
    and its input has arrived, ``transfer`` after the neighbour's pass ended. O(stages x micro-batches).
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
                ready = arrival(done, kind, stage, m, stages, transfer)
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


def arrival(
    done: dict[tuple[str, int, int], float], kind: str, stage: int, m: int, stages: int, transfer: float
) -> float | None:
    """When a pass may start as far as its input goes; None while that is not known."""
    if kind == "F":
        return 0.0 if stage == 0 else after(done.get(("F", stage - 1, m)), transfer)
    if stage == stages - 1:
        return done.get(("F", stage, m))
    return after(done.get(("B", stage + 1, m)), transfer)


def after(end: float | None, transfer: float) -> float | None:
    """The arrival of what was sent at ``end``."""
    return None if end is None else end + transfer


def in_flight(actions: list[Action]) -> int:
    """Most forwards without their backward, over the order of a device."""
    held = peak = 0
    for kind, _, _ in actions:
        held += 1 if kind == "F" else -1
        peak = max(peak, held)
    return peak


def even_bubble(devices: int, chunks: int, micro_batches: int) -> float:
    """The closed form for equal stages: (p - 1) / (v m + p - 1)."""
    return (devices - 1) / (chunks * micro_batches + devices - 1)
