"""Plots as SVG inside a page: text stays text, colours are those of the page, marks link to their JSON."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from megatron_ettin.observe.plot import COLORS, STYLE, Curves, series, smoothed

INK, LINE = "#1c1f23", "#d9dde2"
"""Colours that the page replaces by its own."""
VARIABLES = {INK: "--ink", LINE: "--line"} | {color.lower(): f"--series-{i}" for i, color in enumerate(COLORS)}

WIDTH = 4.0
"""Inches, of 72 units each: at the width of a phone's screen a unit is a little more than a pixel."""
ON_PAGE: dict[str, Any] = STYLE | {
    "font.size": 10, "svg.fonttype": "none", "text.color": INK, "axes.labelcolor": INK, "axes.titlecolor": INK,
    "axes.edgecolor": LINE, "xtick.color": INK, "ytick.color": INK, "grid.color": LINE, "figure.facecolor": "none",
    "axes.facecolor": "none", "savefig.facecolor": "none",
}  # fmt: skip

MOST_POINTS = 400
"""Of a line: a page of a long run stays small."""

Draw = Callable[[Any, Any], None]
"""Draws on a figure and its axes."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One model's score in a plot."""

    value: float
    interval: tuple[float, float] | None
    target: str
    """Anchor of its JSON."""
    series: int
    """Colour."""


def figure(draw: Draw, *, name: str, caption: str, height: float) -> str:
    """A <figure> of WIDTH x ``height`` inches. ``name`` is unique in the page and told to those who do not see it."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    with mpl.rc_context(ON_PAGE):  # type: ignore[arg-type]
        drawing = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(drawing, drawing.subplots())
        stream = io.StringIO()
        drawing.savefig(stream, format="svg", metadata={"Date": None})
    shown = inlined(stream.getvalue(), name)
    return f"<figure>{shown}<figcaption>{escape(caption)}</figcaption></figure>"


def inlined(svg: str, name: str) -> str:
    """An SVG file as an element: without prologue and metadata, its ids its own, its colours variables."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    prefix = re.sub(r"[^\w]+", "-", name) + "-"
    ids = set(re.findall(r'\bid="([^"]+)"', svg))
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}\1"', svg)
    svg = re.sub(r"#([\w.-]+)", lambda found: f"#{prefix}{found[1]}" if found[1] in ids else found[0], svg)
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    return re.sub(r"<svg [^>]*?(viewBox=\"[^\"]+\")[^>]*>",
                  rf'<svg xmlns:xlink="http://www.w3.org/1999/xlink" \1 role="img" aria-label="{escape(name)}">',
                  svg, count=1)  # fmt: skip


def draw_scores(
    _: Any, axes: Any, *, marks: Mapping[str, Mark], title: str, unit: str, reference: float | None  # noqa: ANN401
) -> None:  # fmt: skip
    """A line a model: its score as a point on its interval; ``reference`` is drawn dashed."""
    for row, mark in enumerate(marks.values()):
        color = COLORS[mark.series % len(COLORS)]
        if mark.interval is not None:
            axes.plot(mark.interval, [row, row], color=color, linewidth=2.5, solid_capstyle="round")
        (point,) = axes.plot([mark.value], [row], marker="o", markersize=7, color=color, linestyle="none")
        point.set_url(f"#{mark.target}")
    if reference is not None:
        axes.axvline(reference, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_yticks(range(len(marks)), list(marks))
    axes.set_ylim(len(marks) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_title(title)
    axes.set_xlabel(unit)


def draw_losses(drawing: Any, axes: Any, *, curves: Mapping[int, Curves], title: str, unit: str) -> None:  # noqa: ANN401
    """Loss over tokens: colour -> run. Training as a smooth line of MOST_POINTS at most, held-out values as points."""
    from matplotlib.lines import Line2D
    from matplotlib.ticker import EngFormatter

    handles = []
    for number, item in curves.items():
        color = COLORS[number % len(COLORS)]
        tokens, values = series(item.steps, "loss")
        every = -(-len(tokens) // MOST_POINTS) or 1
        axes.plot(tokens[::every], smoothed(values)[::every], color=color, linewidth=1.6)
        axes.plot(*series(item.evaluations, "loss"), linestyle="none", marker="o", markersize=5, color=color)
        handles.append(Line2D([], [], color=color, linewidth=2.5, label=item.label))
    axes.set_title(title)
    axes.set_xlabel("tokens")
    axes.set_ylabel(unit)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    drawing.legend(handles=handles, loc="outside lower center", ncols=2)
