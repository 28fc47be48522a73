"""One report of a study: the four models, how they were trained, and that their exports are exact."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_ettin.evaluate.losses import MASKED, NEXT, NEXT_SAMPLE
from megatron_ettin.evaluate.suites.columns import merged
from megatron_ettin.evaluate.suites.results import FILE, SCHEMA
from megatron_ettin.evaluate.suites.table import tables
from megatron_ettin.observe.records import read_records
from megatron_ettin.publish import write_atomically
from megatron_ettin.run_folder import METRICS
from megatron_ettin.study.conclusions import conclusions, plain
from megatron_ettin.study.curves import History, plot_curves, timeline
from megatron_ettin.study.page import html_report
from megatron_ettin.study.plan import MEMBERS, export_folder, run_folder, suite_folder
from megatron_ettin.study.settings import StudySettings, suite_names

Report = dict[str, Any]


def write_report(settings: StudySettings, failed: list[str]) -> Report:
    """Write report.json, .md, .html, curves.png and the suites' results.json of what is there; return report.json."""
    report = collect(settings, failed)
    evaluation = report["evaluation"]
    histories = member_histories(settings)
    entropy = float(evaluation["text"]["unigram_nats_per_token"]) if evaluation else 0.0
    plot_curves(histories, settings.run / "curves.png", entropy)
    folders = (suite_folder(settings, suite) for suite in suite_names(settings))
    models = merged([folder for folder in folders if (folder / FILE).exists()])
    if models:
        write_atomically(settings.run / FILE, json.dumps({"schema": SCHEMA, "models": models}, indent=2) + "\n")
    curves, _ = timeline(histories)
    tokens = int(max((record["tokens"] for item in curves for record in item.steps), default=0))
    said = conclusions(models, tokens) if models else []
    report["conclusions"] = [plain(sentence) for sentence in said]
    write_atomically(settings.run / "report.json", json.dumps(report, indent=2) + "\n")
    write_atomically(settings.run / "report.md", markdown(report, models))
    write_atomically(settings.run / "report.html", html_report(report, models, said, curves))
    return report


def collect(settings: StudySettings, failed: list[str]) -> Report:
    """Everything that the finished steps have made."""
    results = settings.run / "evaluation" / "results.json"
    evaluation = json.loads(results.read_text(encoding="utf-8")) if results.exists() else None
    return {
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in asdict(settings).items()},
        "failed": failed,
        "training": [summary(run) for runs in histories(settings).values() for run in runs],
        "models": {member.name: model_summary(settings, member.name, evaluation) for member in MEMBERS},
        "evaluation": evaluation,
    }


def model_summary(settings: StudySettings, name: str, evaluation: Report | None) -> dict[str, Any]:
    """One of the four in a few figures: nats a masked token and a next token (of the shared sample), and its parity."""
    losses = evaluation["models"][name]["losses"] if evaluation else {}
    asked = {"mlm": losses.get(MASKED), "clm": losses.get(NEXT_SAMPLE)}
    path, parity = export_folder(settings, name) / "parity.json", None
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        worst = max(stored["cases"], key=lambda case: case["largest_difference"])
        parity = {
            "met": stored["met"], "largest_difference": worst["largest_difference"],
            "largest_logit": worst["largest_logit"], "transformers": stored["transformers"],
        }  # fmt: skip
    return {"losses": {short: loss["nats_per_token"] for short, loss in asked.items() if loss}, "parity": parity}


def member_histories(settings: StudySettings) -> dict[str, History]:
    """What is plotted of each member."""
    runs = histories(settings)
    return {
        member.name: History(
            runs=[(run["name"].removeprefix(f"{member.name}-"), run["records"]) for run in runs[member.name]],
            start=member.start,
        )
        for member in MEMBERS
    }


def histories(settings: StudySettings) -> dict[str, list[dict[str, Any]]]:
    """Member -> its runs so far, each with its name and the records of its steps and evaluations."""
    found: dict[str, list[dict[str, Any]]] = {}
    for member in MEMBERS:
        names = [f"{member.name}-{stage}" for stage in member.stages]
        folders = [(name, run_folder(settings, name)) for name in names]
        found[member.name] = [
            {"name": name, "records": read_records(folder)}
            for name, folder in folders
            if (folder / METRICS).exists()
        ]
    return found


def summary(run: dict[str, Any]) -> dict[str, Any]:
    """A run in a few figures; speed is the median over its steps."""
    steps = [record for record in run["records"] if record.get("kind") == "step"]
    evaluations = [record for record in run["records"] if record.get("kind") == "evaluation"]
    speeds = sorted(record["tokens_per_second"] for record in steps if record.get("tokens_per_second"))
    return {
        "run": run["name"],
        "steps": len(steps),
        "tokens": steps[-1]["tokens"] if steps else 0,
        "last_loss": steps[-1]["loss"] if steps else None,
        "held_out_loss": evaluations[-1].get("loss") if evaluations else None,
        "tokens_per_second": speeds[len(speeds) // 2] if speeds else None,
    }


def markdown(report: Report, models: dict[str, Any]) -> str:
    """report.md. ``models``: what is in results.json."""
    parts = ["# Encoder and decoder of a pair, and each made into the other", ""]
    if report["failed"]:
        parts += [f"**Not complete**: {', '.join(report['failed'])}", ""]
    if report["conclusions"]:
        parts += ["## What this allows to conclude", "", *(f"- {line}" for line in report["conclusions"]), ""]
    if models:
        parts += [*tables(models), f"The same as JSON: [{FILE}]({FILE}), `models.MODEL.suites.SUITE.TASK`.", ""]
    if report["evaluation"]:
        parts += ["## Held-out loss, nats a token", "", *losses_rows(report["evaluation"]), ""]
        parts += ["![losses](evaluation/losses.png)", ""]
        parts += ["The same as JSON: [evaluation/results.json](evaluation/results.json)", ""]
    parts += ["## Training", "", *training_rows(report["training"]), "", "![curves](curves.png)", ""]
    parts += ["## Exports: logits of transformers against ours", "", *parity_rows(report["models"]), ""]
    parts += ["Training and exports as JSON: [report.json](report.json). With plots: [report.html](report.html)", ""]
    return "\n".join(parts)


def losses_rows(results: Report) -> list[str]:
    """The four-way table: each loss with its error and how it was read."""
    columns = (MASKED, NEXT_SAMPLE, NEXT)
    rows = [f"| model | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, model in results["models"].items():
        losses = [model["losses"].get(column) for column in columns]
        cells = [
            f"{loss['nats_per_token']:.3f} +- {loss['standard_error']:.3f}, {loss['reading']}" if loss else "-"
            for loss in losses
        ]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    entropy = f"{results['text']['unigram_nats_per_token']:.3f}"
    return [*rows, f"| unigram entropy of that text | {' | '.join([entropy] * len(columns))} |"]


def training_rows(runs: list[dict[str, Any]]) -> list[str]:
    """A row a run."""
    rows = ["| run | steps | tokens | last loss | held-out loss | tokens/s |", "|---|---|---|---|---|---|"]
    for run in runs:
        forms = {"last_loss": ".3f", "held_out_loss": ".3f", "tokens_per_second": ",.0f"}
        figures = ["-" if run[key] is None else format(run[key], form) for key, form in forms.items()]
        rows.append(f"| {run['run']} | {run['steps']:,} | {run['tokens']:,} | {' | '.join(figures)} |")
    return rows


def parity_rows(models: dict[str, dict[str, Any]]) -> list[str]:
    """A row an export."""
    rows = ["| model | largest difference | of logits up to | transformers |", "|---|---|---|---|"]
    for name, model in models.items():
        found = model["parity"]
        figures = "- | - | -"
        if found:
            figures = f"{found['largest_difference']:.1e} | {found['largest_logit']:.1f} | {found['transformers']}"
        rows.append(f"| {name} | {figures} |")
    return rows
