"""Pictures of curves: one a suite, a panel a task, against tokens."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

from megatron_ettin.evaluate.dynamics.curves import Axis, Curve, axis_of, place_on
from megatron_ettin.observe.plot import COLORS, STYLE

PANELS_A_ROW = 3
LABELS: dict[Axis, str] = {"tokens": "tokens", "steps": "steps", "places": "checkpoints, in order"}


def plot_curves(curves: Sequence[Curve], path: Path) -> None:
    """Draw the curves of one suite with their intervals; PNG or SVG by the file's name."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import EngFormatter

    tasks = list(dict.fromkeys(curve.task for curve in curves))
    names = list(dict.fromkeys(curve.name for curve in curves))
    axis = axis_of(curves)
    columns = min(PANELS_A_ROW, len(tasks))
    rows = ceil(len(tasks) / columns)
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(3.9 * columns, 0.6 + 2.8 * rows), layout="constrained")
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        for panel, task in zip(panels, tasks, strict=False):
            for curve in curves:
                if curve.task == task:
                    draw(panel, curve, axis, COLORS[names.index(curve.name) % len(COLORS)])
            panel.set_title(task)
            panel.xaxis.set_major_formatter(EngFormatter())
        for panel in panels[len(tasks) :]:
            panel.set_visible(False)
        figure.supxlabel(LABELS[axis], fontsize=10)
        handles = [
            Line2D([], [], color=COLORS[number % len(COLORS)], marker="o", markersize=3, label=name)
            for number, name in enumerate(names)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(names)))
        figure.savefig(path, dpi=150)


def draw(panel: Any, curve: Curve, axis: Axis, color: str) -> None:  # noqa: ANN401
    """A line with its interval as a band."""
    places = [place_on(axis, one) for one in curve.measurements]
    panel.plot(places, [curve.scale * one.value for one in curve.measurements], color=color, marker="o", markersize=3)
    bounds = [one.interval or (one.value, one.value) for one in curve.measurements]
    low, high = ([curve.scale * bound[side] for bound in bounds] for side in (0, 1))
    panel.fill_between(places, low, high, color=color, alpha=0.15, linewidth=0)
    panel.set_ylabel(f"{curve.metric}, %" if curve.unit == "share" else curve.metric)
