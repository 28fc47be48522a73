"""A picture of the bias suite: a bar a model, cut into the categories that it predicts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_ettin.evaluate.bias.suite import CATEGORIES
from megatron_ettin.evaluate.suites.results import DONE
from megatron_ettin.observe.plot import COLORS, STYLE


def plot_shares(models: Mapping[str, Any], path: Path) -> None:
    """Horizontal bars of all models that the suite ran on; PNG or SVG by the file's name. Without any, nothing."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    shares: dict[str, dict[str, float]] = {}
    for name, model in models.items():
        for category in CATEGORIES:
            result = model["suites"].get("bias", {}).get(f"winogender_{category}", {})
            if result.get("status") == DONE:
                shares.setdefault(name, {})[category] = result["value"]
    if not shares:
        return
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(7.2, 1.6 + 0.5 * len(shares)), layout="constrained")
        axes = figure.subplots()
        for color, category in zip(COLORS, CATEGORIES, strict=False):
            before = [sum(list(found.values())[: list(found).index(category)]) if category in found else 0.0
                      for found in shares.values()]  # fmt: skip
            values = [100 * found.get(category, 0.0) for found in shares.values()]
            bars = axes.barh(list(shares), values, left=[100 * start for start in before], color=color, label=category)
            axes.bar_label(bars, [f"{value:.0f}" if value >= 4 else "" for value in values], label_type="center",
                           color="white", fontsize=8)  # fmt: skip
        axes.set_xlim(0, 100)
        axes.set_xlabel("% of sentences")
        axes.set_title("WinoGender gotcha: predicted pronouns")
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        figure.legend(loc="outside lower center", ncols=len(CATEGORIES))
        figure.savefig(path, dpi=150)
