"""The loss curves of a study in one picture: the members' stages one after the other, each from where it began."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_ettin.observe.plot import LOSS, REFERENCE, STYLE, Curves, draw_legend, draw_panel
from megatron_ettin.observe.records import MetricsRecord

Run = tuple[str, Sequence[MetricsRecord]]
"""The stage's name and the records of its steps and evaluations."""


@dataclass(frozen=True, kw_only=True)
class History:
    """The runs of one member."""

    runs: Sequence[Run]
    start: str = ""
    """The member whose last run it goes on from."""


@dataclass(frozen=True)
class Span:
    """The tokens between which a stage ran."""

    stage: str
    first: float
    last: float


def plot_curves(histories: Mapping[str, History], path: Path, reference: float = 0.0) -> None:
    """Training and held-out loss of every member over all tokens that went into it; stages are named above.

    ``reference`` is a loss drawn as a dashed line, such as a unigram entropy; 0: none.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    curves, spans = timeline(histories)
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(10, 5.4), layout="constrained")
        axes = figure.subplots()
        draw_panel(axes, LOSS, curves)
        if reference:
            axes.axhline(reference, **REFERENCE)
        axes.set_title("Loss of the four models", pad=20)
        axes.set_xlabel("tokens seen, those of the model that it started from included")
        for span in spans:
            axes.axvline(span.last, color="#8A8A8A", linewidth=0.8, linestyle=":")
            middle = (span.first + span.last) / 2
            axes.annotate(
                span.stage, (middle, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 4),
                textcoords="offset points", ha="center", va="bottom", fontsize=9, color="#444444",
            )  # fmt: skip
        if curves:
            draw_legend(figure, curves, reference)
        figure.savefig(path, dpi=150)


def timeline(histories: Mapping[str, History]) -> tuple[list[Curves], list[Span]]:
    """Each member's runs as one curve over the tokens since random weights, and where each stage lies."""
    curves: list[Curves] = []
    spans: dict[str, Span] = {}
    ends: dict[str, float] = {}
    for name, history in histories.items():
        shifted: list[MetricsRecord] = []
        end = ends.get(history.start, 0.0)
        for stage, records in history.runs:
            first = end
            shifted += [{**record, "tokens": first + record["tokens"]} for record in records if "tokens" in record]
            end = max((record["tokens"] for record in shifted), default=first)
            spans.setdefault(stage, Span(stage, first, end))
        ends[name] = end
        steps = [record for record in shifted if record.get("kind") == "step"]
        if steps:
            seen = [record for record in shifted if record.get("kind") == "evaluation"]
            curves.append(Curves(name, steps, seen))
    return curves, [span for span in spans.values() if span.last > span.first]
