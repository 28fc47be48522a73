"""What a page shows of each suite: a plot a task with everybody's interval, and the table of the same numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from html import escape
from typing import Any

from megatron_ettin.evaluate.page.document import Evidence, Part, bullets, cell, figures, page, paragraph, table
from megatron_ettin.evaluate.page.figures import Mark, draw_scores, figure
from megatron_ettin.evaluate.suites.columns import Column, Section, sections
from megatron_ettin.evaluate.suites.table import WITHIN

SUITES_TOLD = {
    "losses": "How badly held-out text is predicted: nats for a token, lower is better.",
    "stdlib": "Functions of Python's standard library that no training text holds: from which module one comes "
    "(accuracy of a linear probe), which one a docstring belongs to (nDCG@10, no training), and which line goes on "
    "(one of four by log-probability a character).",
    "glue": "Fine-tuned on each task, scored on its validation split.",
    "retrieval": "Trained by contrast on triplets, then asked for the right text among many.",
    "generative": "Zero-shot questions, answered by the probability of the answers. Encoders fill three masks.",
    "bias": "Which pronoun a model chooses where the sentence's own is the rarer one of the occupation. No share is "
    "better than another.",
}
LEGEND = (
    f"Below each score its 95 % interval. Bold: the best of a row. {WITHIN}: not told apart from the best, since the "
    "interval of the difference holds 0. Shares are in percent. Each number links to its JSON."
)


def suite_parts(models: Mapping[str, Any], evidence: Evidence) -> Iterator[Part]:
    """A part a suite: plots, a table with tasks as rows and models as columns, and what is said of them."""
    for section in sections(models):
        body = [paragraph(SUITES_TOLD.get(section.suite, ""), "lead")]
        if section.columns:
            drawn = [plot(section, column, models, evidence) for column in section.columns]
            rows = (
                [section.title(column), *(score_cell(section, column, one, models, evidence) for one in section.models)]
                for column in section.columns
            )
            body += [figures(drawn), table(["", *section.models], rows), paragraph(LEGEND, "note")]
        if notes := section.notes():
            body += [paragraph("Scores of different rules are not comparable and have rows of their own:"),
                     bullets(map(escape, notes))]  # fmt: skip
        if section.published:
            body.append(published_table(section, evidence))
        if section.missing:
            body += [paragraph("Not run:"), bullets(map(escape, section.missing))]
        yield Part(title=section.suite, body="\n".join(body))


def source(section: Section, column: Column, name: str, models: Mapping[str, Any]) -> tuple[str, Any]:
    """Title and JSON of what a score stands on."""
    score = column.scores[name]
    tasks = models[name]["suites"][section.suite]
    if column.task in tasks:
        return f"{name} / {section.suite} / {column.task}", tasks[column.task]
    parts = {other.task: other.scores[name].value for other in section.columns if other.rules and name in other.scores}
    found = {"metric": column.metric, "value": score.value, "standard_error": score.standard_error, "of": parts}
    return f"{name} / {section.suite} / {column.task}", found


def plot(section: Section, column: Column, models: Mapping[str, Any], evidence: Evidence) -> str:
    """One task: a line a model."""
    order = list(models)
    marks = {}
    for name, score in column.scores.items():
        target = evidence.anchor(*source(section, column, name, models))
        scale = 100 if score.percent else 1
        interval = None if score.interval is None else (scale * score.interval[0], scale * score.interval[1])
        marks[name] = Mark(value=scale * score.value, interval=interval, target=target, series=order.index(name))
    percent = any(score.percent for score in column.scores.values())
    chance = None if column.chance is None else (100 if percent else 1) * column.chance
    unit = column.metric + (", %" if percent else "")
    told = f"{column.examples:,} examples" if column.examples else column.metric
    if chance is not None:
        told += f"; dashed: guessing, {chance:.1f}"
    draw = partial(draw_scores, marks=marks, title=column.question, unit=unit, reference=chance)
    title = f"{section.suite} {section.title(column)}"
    return figure(draw, name=title, caption=told, height=0.9 + 0.32 * len(marks))


def score_cell(section: Section, column: Column, name: str, models: Mapping[str, Any], evidence: Evidence) -> str:
    """A score, linked, with its interval below it."""
    if name not in column.scores:
        return cell("-")
    value, _, interval = column.scores[name].shown().partition(" ")
    mark = f" {WITHIN}" if column.within(name) else ""
    below = f"<small>{interval}</small>" if interval else ""
    link = evidence.link(value, *source(section, column, name, models))
    return cell(f"{link}{mark}{below}", "best" if name == column.best() else "")


def published_table(section: Section, evidence: Evidence) -> str:
    """The paper's figures of the same tasks and splits."""
    known = {task for figures in section.published.values() for task in figures}
    wanted = [column.task for column in section.columns if column.task in known]
    title = f"published / {section.suite}"
    rows = (
        [name, *(cell(evidence.link(f"{figures[task]:.1f}", title, section.published) if task in figures else "-")
                 for task in wanted)]
        for name, figures in section.published.items()
    )  # fmt: skip
    return paragraph("Published figures of the same tasks and splits (arXiv 2507.11412):") + table(["", *wanted], rows)


def results_page(models: Mapping[str, Any]) -> str:
    """The page of ``ettin evaluate --table ... --html``."""
    evidence = Evidence()
    kinds = ", ".join(f"{name} ({model['kind']})" for name, model in models.items())
    parts = list(suite_parts(models, evidence))
    return page("Evaluations", f"Models: {kinds}.", parts, evidence)
