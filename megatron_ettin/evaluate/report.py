"""Results as results.json, as a table on the terminal, and as a plot."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from megatron_ettin.evaluate.losses import MASKED, NEXT, NEXT_SAMPLE
from megatron_ettin.observe.plot import COLORS, REFERENCE, STYLE
from megatron_ettin.publish import write_atomically
from megatron_ettin.tables import aligned

CAPTION_WIDTH = 120

COLUMNS = (MASKED, NEXT_SAMPLE, NEXT)

Results = dict[str, Any]
"""{"text": facts, "models": {name: {"kind", "objective", "folder", "losses", "demos"}}}."""


def write_results(folder: Path, results: Results) -> Path:
    """Write results.json atomically."""
    path = Path(folder) / "results.json"
    write_atomically(path, json.dumps(results, indent=2) + "\n")
    return path


def losses_table(results: Results) -> str:
    """Models as rows; nats a token with standard error, and a byte in brackets."""
    text = results["text"]
    entropy = f"{text['unigram_nats_per_token']:.3f} ({text['unigram_nats_per_byte']:.3f})"
    rows: list[tuple[str, ...]] = [("model", *COLUMNS)]
    for name, model in results["models"].items():
        losses = [model["losses"].get(column) for column in COLUMNS]
        rows.append((name, *(
            f"{loss['nats_per_token']:.3f} \u00b1 {loss['standard_error']:.3f} ({loss['nats_per_byte']:.3f})"
            if loss else "-" for loss in losses
        )))  # fmt: skip
    rows.append(("unigram entropy of that text", *[entropy] * len(COLUMNS)))
    caption = (
        f"{MASKED}: encoders see both sides, decoders the left. {NEXT_SAMPLE}: encoders read the first of three "
        f"masks after the left context; the same tokens for all. {NEXT}: one pass, decoders only."
    )
    title = f"Held-out loss, nats a token (a byte); {text['tokens']:,} tokens of unseen text"
    return "\n\n".join([title, aligned(rows, left=1), textwrap.fill(caption, CAPTION_WIDTH)])


def print_results(results: Results) -> None:
    """The table, then what each model wrote."""
    print(losses_table(results))
    for name, model in results["models"].items():
        for demo in model.get("demos", []):
            if "choices" in demo:
                words = ", ".join(f"{word!r} {share:.0%}" for word, share in demo["choices"])
                print(f"{name} {demo['text']!r}: {words}")
            else:
                print(f"{name} {demo['text']!r} ... {demo['continuation']!r}")


def plot_losses(results: Results, path: Path) -> None:
    """A bar a model and question, with the unigram entropy as a line; PNG or SVG by the file's name."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    names = list(results["models"])
    width = 0.8 / len(COLUMNS)
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(max(6.4, 1.5 + 1.9 * len(names)), 4.6), layout="constrained")
        axes = figure.subplots()
        for place, column in enumerate(COLUMNS):
            losses = [model["losses"].get(column) for model in results["models"].values()]
            found = [(number, loss) for number, loss in enumerate(losses) if loss]
            bars = axes.bar(
                [number + (place - 1) * width for number, _ in found], [loss["nats_per_token"] for _, loss in found],
                width, yerr=[loss["standard_error"] for _, loss in found],
                label=column, color=COLORS[place], ecolor="#444444",
            )  # fmt: skip
            axes.bar_label(bars, fmt="%.2f", fontsize=8, padding=2)
        entropy = results["text"]["unigram_nats_per_token"]
        axes.axhline(entropy, label="unigram entropy", **REFERENCE)
        axes.set_title("Held-out loss, with its standard error")
        axes.set_xticks(range(len(names)), names)
        axes.set_ylabel("nats per token (lower is better)")
        axes.grid(visible=False, axis="x")
        figure.legend(loc="outside lower center", ncols=len(COLUMNS) + 1)
        figure.savefig(path, dpi=150)
