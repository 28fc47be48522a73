"""Results of points as curves, and the largest change of each between two neighbouring checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import sqrt
from typing import Any, Literal

from megatron_ettin.evaluate.suites.columns import rules_of
from megatron_ettin.evaluate.suites.intervals import Z
from megatron_ettin.evaluate.suites.results import DONE


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One task at one checkpoint."""

    revision: str
    place: int
    """Of the checkpoint in its curve."""
    step: int | None
    tokens: float | None
    stage: int
    run: str | None
    value: float
    standard_error: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class Change:
    """From one checkpoint to the next."""

    before: Measurement
    after: Measurement

    @property
    def difference(self) -> float:
        """What was gained; negative where the value fell."""
        return self.after.value - self.before.value

    @property
    def within(self) -> bool:
        """Whether it may be chance: the 95 % interval of the difference of two such samples holds 0.

        Both checkpoints answer the same examples, so that the true interval is narrower.
        """
        first, second = self.before.standard_error, self.after.standard_error
        if first is None or second is None:
            return False
        return abs(self.difference) <= Z * sqrt(first**2 + second**2)


@dataclass(kw_only=True)
class Curve:
    """One task by one set of rules over the checkpoints of one training."""

    name: str
    suite: str
    task: str
    metric: str
    unit: str
    rules: str
    """As JSON; a curve of other rules is another curve."""
    measurements: list[Measurement] = field(default_factory=list)

    @property
    def scale(self) -> float:
        """Of what is shown: shares are shown in percent."""
        return 100.0 if self.unit == "share" else 1.0

    @property
    def largest_change(self) -> Change | None:
        """The largest one between neighbours that have both been measured; None for a single checkpoint."""
        steps = [
            Change(before=before, after=after)
            for before, after in pairwise(self.measurements)
            if after.place == before.place + 1
        ]
        return max(steps, key=lambda change: abs(change.difference), default=None)


def curves_of(models: Mapping[str, Any]) -> list[Curve]:
    """All curves in the results of points, in the order of results; other models are left out."""
    found: dict[tuple[str, ...], Curve] = {}
    places = _places(models)
    for name in sorted(places, key=places.__getitem__):
        point = models[name]["point"]
        for suite, tasks in models[name]["suites"].items():
            for task, result in tasks.items():
                if result["status"] != DONE:
                    continue
                rules = json.dumps(rules_of(result), sort_keys=True)
                curve = found.setdefault(
                    (point["curve"], suite, task, rules),
                    Curve(name=point["curve"], suite=suite, task=task, metric=result["metric"], unit=result["unit"],
                          rules=rules),
                )  # fmt: skip
                interval = result["interval"]
                curve.measurements.append(Measurement(
                    revision=point["revision"], place=places[name], step=point["step"], tokens=point["tokens"],
                    stage=point["stage"], run=point["run"], value=result["value"],
                    standard_error=result["standard_error"],
                    interval=None if interval is None else (interval[0], interval[1]),
                ))  # fmt: skip
    suites = list(dict.fromkeys(suite for model in models.values() for suite in model["suites"]))
    return sorted(found.values(), key=lambda curve: suites.index(curve.suite))


def _places(models: Mapping[str, Any]) -> dict[str, int]:
    """Model -> its place among all points, curve after curve, each in the order of training."""
    points = {name: model["point"] for name, model in models.items() if "point" in model}
    curves = list(dict.fromkeys(point["curve"] for point in points.values()))
    ordered: list[str] = []
    for curve in curves:
        names = [name for name, point in points.items() if point["curve"] == curve]
        if all(points[name]["tokens"] is not None for name in names):
            names.sort(key=lambda name: points[name]["tokens"])
        elif all(points[name]["step"] is not None for name in names):
            names.sort(key=lambda name: (points[name]["stage"], points[name]["step"]))
        ordered += [*names, ""]  # the last of a curve and the first of the next are no neighbours
    return {name: place for place, name in enumerate(ordered) if name}


Axis = Literal["tokens", "steps", "places"]


def axis_of(curves: Sequence[Curve]) -> Axis:
    """What curves are drawn against: tokens where all know them, else steps within one stage, else their order."""
    every = [one for curve in curves for one in curve.measurements]
    if all(one.tokens is not None for one in every):
        return "tokens"
    if all(one.step is not None for one in every) and len({one.stage for one in every}) == 1:
        return "steps"
    return "places"


def place_on(axis: Axis, one: Measurement) -> float:
    """Where a measurement is drawn."""
    where = {"tokens": one.tokens, "steps": one.step, "places": one.place}[axis]
    assert where is not None, "the axis is chosen so that all have it"
    return float(where)
