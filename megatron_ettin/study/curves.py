"""The loss curves of a study in one picture: each member's stages one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from megatron_ettin.observe.records import Record

History = Sequence[Sequence[Record]]
"""The records of a member's runs, stage after stage."""


def plot_curves(histories: Mapping[str, History], path: Path) -> None:
    """Training loss (thin, smoothed) and held-out loss (dots) over the tokens seen since the member's own start."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 4.8), layout="constrained")
    for number, (name, runs) in enumerate(histories.items()):
        color, start = f"C{number}", 0
        for place, records in enumerate(runs):
            steps = [record for record in records if record.get("kind") == "step" and record.get("loss") is not None]
            if not steps:
                continue
            tokens = [start + record["tokens"] for record in steps]
            losses = smoothed([record["loss"] for record in steps])
            axes.plot(tokens, losses, color=color, linewidth=1, label=name if place == 0 else None)
            seen = [
                record for record in records if record.get("kind") == "evaluation" and record.get("loss") is not None
            ]
            axes.plot([start + r["tokens"] for r in seen], [r["loss"] for r in seen], "o", color=color, markersize=4)
            start = tokens[-1]
            axes.axvline(start, color=color, alpha=0.25, linewidth=0.8, linestyle=":")
    axes.set_xlabel("tokens since the model's start (dotted: end of a stage)")
    axes.set_ylabel("loss, nats a predicted token (dots: held out)")
    if axes.has_data():
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def smoothed(values: Sequence[float], share: float = 0.3) -> list[float]:
    """Exponential moving average that starts at the first value; ``share`` is the weight of each newer one."""
    out: list[float] = []
    for value in values:
        out.append(value if not out else out[-1] + share * (value - out[-1]))
    return out
