"""report.html: the study on one page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from typing import Any

from megatron_ettin.evaluate.losses import MASKED, NEXT, NEXT_SAMPLE
from megatron_ettin.evaluate.page.document import Evidence, Part, bullets, cell, figures, page, paragraph, table
from megatron_ettin.evaluate.page.figures import draw_losses, figure
from megatron_ettin.evaluate.page.scores import suite_parts
from megatron_ettin.observe.plot import Curves
from megatron_ettin.study.conclusions import Sentence

OBJECTIVES = {
    "masked tokens": ("encoder", "encoder-from-decoder"),
    "next tokens": ("decoder", "decoder-from-encoder"),
}
"""What is predicted -> members whose losses compare."""
CURVES_HEIGHT = 3.2

Report = dict[str, Any]


def html_report(
    report: Report, models: Mapping[str, Any], said: Sequence[Sentence], curves: Sequence[Curves]
) -> str:
    """The whole page. ``models``: the content of results.json; ``curves``: a member each, in the members' order."""
    evidence = Evidence()
    settings = report["settings"]
    lead = (
        f"An encoder and a decoder of the size {settings['size']}, trained on the same rows in the same order from the "
        "same weights, each made into the other, and all four asked the same."
    )
    parts = []
    if report["failed"]:
        parts.append(Part(title="Not complete", body=bullets(map(escape, report["failed"]))))
    if said:
        lines = (
            "".join(
                escape(part) if isinstance(part, str) else evidence.link(part.text, part.title, part.data)
                for part in sentence
            )
            for sentence in said
        )
        parts.append(Part(title="What this allows to conclude", body=bullets(lines)))
    parts += suite_parts(models, evidence)
    if report["evaluation"]:
        parts.append(Part(title="Held-out loss", body=losses(report["evaluation"], evidence)))
    if curves:
        parts.append(Part(title="Learning curves", body=learning(curves)))
    parts.append(Part(title="Training", body=training(report["training"], evidence)))
    parts.append(Part(title="Exports", body=exports(report["models"], evidence)))
    parts.append(Part(title="Settings", body=paragraph("The study was started with these settings:")
                      + bullets([evidence.link("settings", "settings", settings)])))  # fmt: skip
    return page("Encoder and decoder of a pair, and each made into the other", lead, parts, evidence)


def losses(results: Report, evidence: Evidence) -> str:
    """The four-way table of losses, in nats a token."""
    columns = (MASKED, NEXT_SAMPLE, NEXT)
    rows = []
    for name, model in results["models"].items():
        cells = []
        for column in columns:
            loss = model["losses"].get(column)
            if loss is None:
                cells.append(cell("-"))
                continue
            link = evidence.link(f"{loss['nats_per_token']:.3f}", f"{name} / held-out loss / {column}", loss)
            below = f"\N{PLUS-MINUS SIGN} {loss['standard_error']:.3f}, {loss['reading']}"
            cells.append(cell(f"{link}<small class=\"wrap\">{escape(below)}</small>"))
        rows.append([name, *cells])
    text = results["text"]
    entropy = evidence.link(f"{text['unigram_nats_per_token']:.3f}", "held-out text", text)
    rows.append(["unigram entropy", *[cell(entropy)] * len(columns)])
    told = (
        "Nats a token of text that no stage has seen, lower is better, with standard error and how the model reads; "
        "losses of different readings do not compare. A model that ignores the context cannot be below the unigram "
        "entropy."
    )
    return paragraph(told) + table(["", *columns], rows)


def learning(curves: Sequence[Curves]) -> str:
    """A plot of each objective: its two members, over the tokens since random weights."""
    order = [item.label for item in curves]
    drawn = []
    for predicted, members in OBJECTIVES.items():
        series = {order.index(item.label): item for item in curves if item.label in members}
        if series:
            draw = partial(draw_losses, curves=series, title=f"Loss of {predicted}", unit="nats a predicted token")
            told = (
                "Line: training, averaged over 2 % of the steps. Points: held out. A crossed model begins where the "
                "one it is made from ended."
            )
            drawn.append(figure(draw, name=f"curves of {predicted}", caption=told, height=CURVES_HEIGHT))
    return figures(drawn)


def training(runs: Sequence[Report], evidence: Evidence) -> str:
    """A row a run."""
    forms = {"steps": ",", "tokens": ",", "last_loss": ".3f", "held_out_loss": ".3f", "tokens_per_second": ",.0f"}
    rows = []
    for run in runs:
        title = f"training / {run['run']}"
        cells = [
            cell("-" if run[key] is None else evidence.link(format(run[key], form), title, run))
            for key, form in forms.items()
        ]
        rows.append([run["run"], *cells])
    return table(["run", "steps", "tokens", "last loss", "held-out loss", "tokens/s"], rows)


def exports(models: Mapping[str, Report], evidence: Evidence) -> str:
    """A row an export: how far transformers' logits are from ours."""
    rows = []
    for name, model in models.items():
        parity = model["parity"]
        if parity is None:
            rows.append([name, cell("-"), cell("-"), cell("-")])
            continue
        title = f"{name} / export"
        texts = (f"{parity['largest_difference']:.1e}", f"{parity['largest_logit']:.1f}", parity["transformers"])
        rows.append([name, *(cell(evidence.link(text, title, parity)) for text in texts)])
    told = paragraph("Each model as a Hugging Face folder: the largest difference of transformers' logits from ours.")
    return told + table(["", "largest difference", "of logits up to", "transformers"], rows)
