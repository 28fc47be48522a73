"""Curves as Markdown: values with intervals by checkpoint, and what was read where they changed most."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from megatron_ettin.errors import EttinError, first_line
from megatron_ettin.evaluate.dynamics.curves import Change, Curve, curves_of
from megatron_ettin.evaluate.suites.results import DONE
from megatron_ettin.evaluate.suites.table import WITHIN
from megatron_ettin.replay.replay import open_run_data, sources_between

MOST_SOURCES = 6
"""Named of what was read between two checkpoints; the others are one figure."""


def dynamics_text(models: Mapping[str, Any]) -> str:
    """Markdown of all curves in some results; empty where there is none."""
    curves = curves_of(models)
    lines: list[str] = []
    for (suite, name), group in groupby(curves, key=lambda curve: (curve.suite, curve.name)):
        found = list(group)
        lines += [f"## {suite}: {name}\n", *_values(found), "", *_changes(found), ""]
    missing = list(_missing(models)) if curves else []
    return "\n".join([*lines, *missing])


def _values(curves: Sequence[Curve]) -> Iterator[str]:
    """A row a checkpoint, a column a task; curves of one task and other rules are told apart by a number."""
    titles = []
    for curve in curves:
        alike = [other for other in curves if other.task == curve.task]
        number = f" rules {alike.index(curve) + 1}" if len(alike) > 1 else ""
        titles.append(f"{curve.task} ({curve.metric}){number}")
    yield f"| checkpoint | tokens | {' | '.join(titles)} |"
    yield "|---|--:|" + "--:|" * len(curves)
    points = {one.place: one for curve in curves for one in curve.measurements}
    for place, point in sorted(points.items()):
        tokens = "-" if point.tokens is None else f"{point.tokens:,.0f}"
        yield f"| {point.revision} | {tokens} | {' | '.join(_cell(curve, place) for curve in curves)} |"
    yield "\nIn brackets the 95 % interval. Shares in percent."


def _cell(curve: Curve, place: int) -> str:
    for one in curve.measurements:
        if one.place == place:
            text = _figure(curve, one.value)
            if one.interval is not None:
                text += f" [{_figure(curve, one.interval[0])}, {_figure(curve, one.interval[1])}]"
            return text
    return "-"


def _figure(curve: Curve, value: float) -> str:
    return f"{curve.scale * value:.1f}" if curve.unit == "share" else f"{curve.scale * value:.3f}"


def _changes(curves: Sequence[Curve]) -> Iterator[str]:
    """The largest change of each curve, with the sources of what was read meanwhile."""
    changes = [(curve, change) for curve in curves if (change := curve.largest_change)]
    if not changes:
        return
    yield "| task | largest change between neighbours | from | to | rows read meanwhile, by source |"
    yield "|---|--:|---|---|---|"
    commands: dict[str, None] = {}
    for curve, change in changes:
        mark = f" {WITHIN}" if change.within else ""
        sign = "+" if change.difference >= 0 else "\u2212"
        difference = _figure(curve, abs(change.difference))
        read = "not known: give the folder of the run"
        if steps := _steps(change):
            read = _sources(*steps)
            commands[f"ettin order {shlex.quote(steps[0])} --between {steps[1]} {steps[2]}"] = None
        yield (
            f"| {curve.task} | {sign}{difference}{mark} | {change.before.revision} | {change.after.revision} | {read} |"
        )
    yield f"\n{WITHIN}: the 95 % interval of the difference holds 0."
    if commands:
        yield "The rows themselves, with step, source and documents:\n\n```bash"
        yield from commands
        yield "```"


def _steps(change: Change) -> tuple[str, int, int] | None:
    """(run, first step, last step) of what was read between two checkpoints; None where no run tells.

    Behind a stage that ended elsewhere a run begins at step 0.
    """
    before, after = change.before, change.after
    if after.run is None or after.step is None:
        return None
    first = before.step if before.run == after.run else 0
    return None if first is None or first >= after.step else (after.run, first, after.step)


@cache
def _sources(run: str, first: int, last: int) -> str:
    """Rows by source, or why they cannot be told: a table must not fail because a corpus has been moved away."""
    try:
        counts = sources_between(open_run_data(Path(run)), first, last)
    except (EttinError, OSError) as error:
        return f"cannot be told: {first_line(error)}"
    shown = list(counts.items())[:MOST_SOURCES]
    rest = sum(counts.values()) - sum(count for _, count in shown)
    more = [f"{rest:,} of {len(counts) - len(shown)} others"] if rest else []
    return ", ".join([*(f"{name} {count:,}" for name, count in shown), *more])


def _missing(models: Mapping[str, Any]) -> Iterator[str]:
    """What did not run, a line a reason."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for name, model in models.items():
        for tasks in model["suites"].values() if "point" in model else ():
            for task, result in tasks.items():
                if result["status"] != DONE:
                    reasons.setdefault((task, result["reason"]), []).append(name)
    if reasons:
        yield "Not run:\n"
    for (task, reason), names in reasons.items():
        which = f"{names[0]} to {names[-1]}, {len(names)} checkpoints" if len(names) > 2 else ", ".join(names)
        yield f"- {task} ({which}): {reason}"
