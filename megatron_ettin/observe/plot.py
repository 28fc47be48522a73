"""Pictures of runs: loss, learning rate, gradient norm and throughput over tokens, for one run or several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from megatron_ettin.errors import DataError
from megatron_ettin.observe.records import MetricsRecord, read_records

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")
"""Okabe and Ito's palette: told apart without colour vision as well."""
SMOOTHING_SHARE = 0.02
"""The smooth line averages over about this share of the steps."""
FAINT = 0.22
FORMATS = ("png", "svg")
STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.8,
    "axes.edgecolor": "#8A8A8A",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
    "svg.hashsalt": "ettin",
    "svg.fonttype": "path",
}
REFERENCE: dict[str, Any] = {"color": "#444444", "linewidth": 1.2, "linestyle": (0, (5, 4))}
"""The line of a loss to compare with."""


@dataclass(frozen=True)
class Curves:
    """The records of one run."""

    label: str
    steps: list[MetricsRecord]
    evaluations: list[MetricsRecord]


@dataclass(frozen=True)
class Panel:
    """One quantity over tokens."""

    title: str
    key: str
    unit: str
    smooth: bool = False
    logarithmic: bool = False
    evaluated: bool = False
    """Held-out values of the same name are drawn as points."""


REMEMBERED = "remembered"
"""Of an evaluation: the loss on the text that is not to be forgotten, drawn beside that on the data."""
LOSS = Panel("Loss", "loss", "nats per predicted token", smooth=True, evaluated=True)
PANELS = (
    LOSS,
    Panel("Learning rate", "lr", ""),
    Panel("Gradient norm", "gradient_norm", "", smooth=True, logarithmic=True),
    Panel("Throughput", "tokens_per_second", "tokens per second", smooth=True),
)


def read_curves(runs: Sequence[Path]) -> list[Curves]:
    """The curves of run folders, each named by the shortest end of its path that tells it apart."""
    found = []
    for run, label in zip(runs, labels(runs), strict=True):
        records = read_records(run)
        steps = [record for record in records if record.get("kind") == "step"]
        if not steps:
            raise DataError(f"{run}: no step recorded yet; nothing to plot")
        found.append(Curves(label, steps, [record for record in records if record.get("kind") == "evaluation"]))
    return found


def labels(runs: Sequence[Path]) -> list[str]:
    """The last parts of each path, as many as it takes to tell all of them apart."""
    parts = [run.resolve().parts for run in runs]
    for count in range(1, max(len(item) for item in parts) + 1):
        names = ["/".join(item[-count:]) for item in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{'/'.join(item[-1:])} ({number})" for number, item in enumerate(parts, start=1)]


def series(records: Sequence[MetricsRecord], key: str) -> tuple[list[float], list[float]]:
    """Tokens and values of the records that have a value."""
    chosen = [record for record in records if isinstance(record.get(key), (int, float))]
    return [float(record["tokens"]) for record in chosen], [float(record[key]) for record in chosen]


def smoothed(values: Sequence[float], share: float = SMOOTHING_SHARE) -> list[float]:
    """A centred average over about a share of the values, so that it does not lag; narrower at the steep start."""
    half = max(1, round(share * len(values) / 2))
    sums = [0.0, *accumulate(values)]
    result = []
    for place in range(len(values)):
        reach = min(half, place)
        first, last = place - reach, min(len(values), place + reach + 1)
        result.append((sums[last] - sums[first]) / (last - first))
    return result


def plot_runs(
    runs: Sequence[Path], target: Path | None = None, title: str = "", reference: float = 0.0
) -> list[Path]:
    """Draw the runs and write ``target`` with the endings .png and .svg; returns the files.

    Without ``target`` it is plot in the run's folder, or plots/comparison for several. ``reference`` is a loss drawn as
    a dashed line, such as a unigram entropy; 0: none. Raises DataError when a run has no records.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    curves = read_curves(runs)
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(11, 7.2), layout="constrained")
        panels = [panel for panel in PANELS if any(series(item.steps, panel.key)[0] for item in curves)]
        below = [str(number) for number in range(1, len(panels))]  # side by side, the loss across the top
        mosaic = [["0"] * len(below), ["0"] * len(below), below] if below else [["0"]]
        axes = figure.subplot_mosaic(mosaic)  # type: ignore[arg-type]
        for number, panel in enumerate(panels):
            draw_panel(axes[str(number)], panel, curves, reference)
        figure.suptitle(
            title or (curves[0].label if len(curves) == 1 else "Runs compared"), fontweight="bold", x=0.01, ha="left"
        )
        if len(curves) > 1:
            draw_legend(figure, curves)
        target = target or (runs[0] / "plot" if len(runs) == 1 else Path("plots/comparison"))
        target.parent.mkdir(parents=True, exist_ok=True)
        files = [target.with_name(f"{target.name}.{ending}") for ending in FORMATS]
        figure.savefig(files[0], dpi=150)
        figure.savefig(files[1], metadata={"Date": None})  # the same SVG for the same data
        return files


def draw_panel(axes: Any, panel: Panel, curves: Sequence[Curves], reference: float = 0.0) -> None:  # noqa: ANN401
    """One panel with all runs."""
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

    plain = FuncFormatter(lambda value, _: f"{value:g}")
    for number, item in enumerate(curves):
        draw_run(axes, panel, item, COLORS[number % len(COLORS)], alone=len(curves) == 1)
    if panel.key == "loss" and reference:
        axes.axhline(reference, label="unigram entropy", **REFERENCE)
    axes.set_title(panel.title)
    axes.set_ylabel(panel.unit)
    axes.set_xlabel("tokens seen")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.margins(x=0.01)
    if panel.logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(plain)
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif panel.key == "lr":
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(plain)
    elif panel.key == "tokens_per_second":
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    if panel.key == "loss" and axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper right")


def draw_run(axes: Any, panel: Panel, item: Curves, color: str, alone: bool) -> None:  # noqa: ANN401
    """One run in one panel: a faint raw line and a smooth one, and held-out values as points."""
    tokens, values = series(item.steps, panel.key)
    name = "training" if alone and panel.evaluated else None
    if panel.smooth and len(values) > 10:
        axes.plot(tokens, values, color=color, linewidth=0.8, alpha=FAINT)
        axes.plot(tokens, smoothed(values), color=color, linewidth=1.8, label=name)
    else:
        axes.plot(tokens, values, color=color, linewidth=1.8, label=name)
    if panel.evaluated and item.evaluations:
        tokens, values = series(item.evaluations, panel.key)
        axes.plot(
            tokens, values, linestyle="none", marker="o", markersize=6, color=color, markeredgecolor="white",
            zorder=3, label="held out" if alone else None,
        )  # fmt: skip
        tokens, values = series(item.evaluations, REMEMBERED) if panel.key == "loss" else ([], [])
        if values:
            axes.plot(
                tokens, values, linestyle=":", linewidth=1.2, marker="s", markersize=5, color=color,
                markerfacecolor="white", zorder=3, label="held out, text to remember" if alone else None,
            )  # fmt: skip


def draw_legend(figure: Any, curves: Sequence[Curves], reference: float = 0.0) -> None:  # noqa: ANN401
    """The names of the runs, once, below the panels, and of the line of a reference drawn beside them."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=COLORS[number % len(COLORS)], linewidth=2.5) for number in range(len(curves))]
    names = [item.label for item in curves]
    if any(item.evaluations for item in curves):
        handles.append(Line2D([], [], color="#444444", linestyle="none", marker="o", markeredgecolor="white"))
        names.append("held out")
    if any(series(item.evaluations, REMEMBERED)[0] for item in curves):
        handles.append(
            Line2D([], [], color="#444444", linestyle=":", marker="s", markerfacecolor="white", linewidth=1.2)
        )
        names.append("held out, text to remember")
    if reference:
        handles.append(Line2D([], [], **REFERENCE))
        names.append("unigram entropy")
    rows = -(-len(names) // 4)
    figure.legend(handles, names, loc="outside lower center", ncols=-(-len(names) // rows))
