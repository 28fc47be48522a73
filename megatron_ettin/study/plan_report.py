"""The report of a study of plans: one table and one picture of all, and the same as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_ettin.evaluate.losses import MASKED, NEXT, NEXT_SAMPLE
from megatron_ettin.observe.plot import COLORS, FORMATS, LOSS, STYLE, draw_legend, draw_panel
from megatron_ettin.observe.records import read_records
from megatron_ettin.progress import format_count
from megatron_ettin.publish import write_atomically
from megatron_ettin.run_folder import METRICS
from megatron_ettin.study.curves import History, timeline
from megatron_ettin.study.plan_study import Entry, PlanStudySettings
from megatron_ettin.tables import aligned

COLUMNS = (MASKED, NEXT_SAMPLE, NEXT)
Report = dict[str, Any]
Row = dict[str, Any]
"""A plan at a size: how its seeds ended."""


def write_plan_report(settings: PlanStudySettings, found: Sequence[Entry], failed: Sequence[str]) -> Report:
    """Write report.json, report.md and plans.png and .svg of what is there; return what report.json holds."""
    results = settings.run / "evaluation" / "results.json"
    evaluation = json.loads(results.read_text(encoding="utf-8")) if results.exists() else None
    groups: dict[tuple[str, str], list[Entry]] = {}  # the seeds of each plan and size together
    for entry in found:
        groups.setdefault((entry.size, entry.asked.label), []).append(entry)
    report: Report = {
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in asdict(settings).items()},
        "failed": list(failed),
        "rows": [row_of(group, evaluation) for group in groups.values()],
        "evaluation": evaluation,
    }
    histories = {}
    for entry, *_ in groups.values():
        if runs := [(name, read_records(run)) for name, run in entry.stage_runs if (run / METRICS).exists()]:
            histories[f"{Path(entry.size).stem} {entry.asked.label}"] = History(runs=runs)
    plot_plans(report["rows"], histories, settings.run)
    write_atomically(settings.run / "report.json", json.dumps(report, indent=2) + "\n")
    write_atomically(settings.run / "report.md", markdown(report))
    return report


def row_of(group: Sequence[Entry], evaluation: Report | None) -> Row:
    """One plan at one size: its tokens, and each loss with its mean over the seeds and their standard deviation.

    With one seed the error is that of the held-out text.
    """
    models = evaluation["models"] if evaluation else {}
    there = [models[entry.name]["losses"] for entry in group if entry.name in models]
    losses = {}
    for column in COLUMNS:
        values = [loss[column] for loss in there if loss.get(column)]
        if not values:
            continue
        nats = [float(value["nats_per_token"]) for value in values]
        spread = statistics.stdev(nats) if len(nats) > 1 else float(values[0]["standard_error"])
        losses[column] = {
            "mean": statistics.fmean(nats), "spread": spread, "seeds": nats, "reading": values[0]["reading"],
        }  # fmt: skip
    first = group[0]
    return {
        "plan": first.asked.label,
        "size": Path(first.size).stem,
        "stages": [stage.name for stage in first.stages],
        "tokens": sum(stage.config.schedule.tokens for stage in first.stages),
        "objective": first.stages[-1].config.objective,
        "seeds": [entry.seed for entry in group],
        "losses": losses,
    }


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table."""
    return (
        row["size"], row["plan"], row["objective"], format_count(row["tokens"]), str(len(row["seeds"])),
        *(f"{loss['mean']:.3f} \u00b1 {loss['spread']:.3f}" if (loss := row["losses"].get(column)) else "-"
          for column in COLUMNS),
    )  # fmt: skip


HEAD = ("size", "plan", "ends as", "tokens", "seeds", *COLUMNS)


def table(report: Report) -> str:
    """All plans, for the terminal."""
    return aligned([HEAD, *map(cells, report["rows"])], left=3)


def markdown(report: Report) -> str:
    """report.md."""
    parts = ["# Plans compared", ""]
    if report["failed"]:
        parts += [f"**Not complete**: {', '.join(report['failed'])}", ""]
    parts += [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    parts += [f"| {' | '.join(cells(row))} |" for row in report["rows"]]
    parts += [
        "",
        "Held-out loss in nats a token, the same text for all: the mean over the seeds and their standard deviation, "
        "with one seed the standard error over the text. Encoders see both sides of a masked token, decoders the left.",
        "",
        "![all plans](plans.png)",
        "",
        "The same as JSON: [report.json](report.json), [evaluation/results.json](evaluation/results.json)",
        "",
    ]
    return "\n".join(parts)


def plot_plans(rows: Sequence[Row], histories: Mapping[str, History], folder: Path) -> None:
    """Left the loss of each plan over its tokens, by its first seed; right how all ended, a line a size."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    curves, _ = timeline(histories)
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(12, 5.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        draw_panel(left, LOSS, curves)
        left.set_title("Loss over all stages, first seed")
        draw_ends(right, rows)
        if curves:
            draw_legend(figure, curves)
        figure.savefig(folder / f"plans.{FORMATS[0]}", dpi=150)
        figure.savefig(folder / f"plans.{FORMATS[1]}", metadata={"Date": None})


def draw_ends(axes: Any, rows: Sequence[Row]) -> None:  # noqa: ANN401
    """The loss of masked tokens, which every kind answers: a point a seed, a line through the means of a size."""
    plans = list(dict.fromkeys(row["plan"] for row in rows))
    for number, size in enumerate(dict.fromkeys(row["size"] for row in rows)):
        color = COLORS[number % len(COLORS)]
        ended = [row for row in rows if row["size"] == size and MASKED in row["losses"]]
        places = [plans.index(row["plan"]) for row in ended]
        axes.plot(places, [row["losses"][MASKED]["mean"] for row in ended], color=color, linewidth=1.8, label=size)
        for place, row in zip(places, ended, strict=True):
            seeds = row["losses"][MASKED]["seeds"]
            axes.plot([place] * len(seeds), seeds, "o", color=color, markeredgecolor="white")
    axes.set_title(f"Held-out loss at the end, {MASKED}")
    axes.set_ylabel("nats per token (lower is better)")
    axes.set_xticks(range(len(plans)), plans, rotation=20, ha="right")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(title="size")
