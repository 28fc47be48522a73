"""The tables of docs/clusters.md, by the model of a step in ``megatron_ettin/cost``: nothing here is measured.

python tools/plan_clusters.py [TABLE ...] [--write]

Prints the named tables, or all; ``--write`` puts them between their marks in the page. All take half a minute.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from megatron_ettin.config.derived import model_ranks  # noqa: E402
from megatron_ettin.config.recipes import recipe  # noqa: E402
from megatron_ettin.config.run import ObjectiveName, RunConfig, StageName  # noqa: E402
from megatron_ettin.config.shapes import PUBLISHED_SIZES  # noqa: E402
from megatron_ettin.cost.count import parameters  # noqa: E402
from megatron_ettin.cost.fit import FILLED, FRAMEWORK_BYTES  # noqa: E402
from megatron_ettin.cost.hardware import GIBI, H100_CLUSTER  # noqa: E402
from megatron_ettin.cost.logits import (  # noqa: E402
    EXPONENTIALS,
    OWN_MATRIX_SHARE,
    keeps_logits,
    seconds_with_logits,
    seconds_without_logits,
)
from megatron_ettin.cost.memory import heaviest  # noqa: E402
from megatron_ettin.cost.scaling import (  # noqa: E402
    efficiency,
    fastest,
    layout_name,
    layouts,
    on_gpus,
    stage_seconds,
    step_time,
)

PAGE = ROOT / "docs" / "clusters.md"
GPUS = (4, 8, 64, 256)
STAGES: tuple[StageName, ...] = ("pretrain", "extension", "decay")
GOALS = {8: 0.97, 64: 0.95}
"""Efficiency that is aimed at from GOALS_FROM on."""
GOALS_FROM = ("150m", "400m", "1b")
HOUR, DAY = 3600, 86_400


@cache
def planned(size: str, objective: ObjectiveName, stage: StageName, gpus: int) -> RunConfig:
    """The fastest layout of a stage on so many GPUs."""
    return fastest(list(layouts(recipe(size, objective, stage), gpus, H100_CLUSTER)), H100_CLUSTER)


def by_data_alone(size: str, stage: StageName, gpus: int) -> RunConfig:
    """The fastest layout without tensor, context and pipeline ranks."""
    found = layouts(recipe(size, "mlm", stage), gpus, H100_CLUSTER)
    return fastest([run for run in found if model_ranks(run.layout) == 1], H100_CLUSTER)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def recipe_table() -> str:
    """Days and GPU hours of all three stages together, for both members of a pair."""
    rows = []
    for size in PUBLISHED_SIZES:
        for gpus in GPUS:
            row = [size, str(gpus)]
            for objective in ("mlm", "clm"):
                runs = [planned(size, objective, stage, gpus) for stage in STAGES]
                seconds = sum(stage_seconds(run, H100_CLUSTER) for run in runs)
                row += [f"{seconds / DAY:,.2f}", f"{seconds / HOUR * gpus:,.0f}"]
            rows.append(row)
    return table(("size", "GPUs", "encoder, days", "GPU hours", "decoder, days", "GPU hours"), rows)


def stage_row(size: str, stage: StageName, gpus: int) -> list[str]:
    """The plan of an encoder's stage."""
    run = planned(size, "mlm", stage, gpus)
    step, seconds = step_time(run, H100_CLUSTER), stage_seconds(run, H100_CLUSTER)
    return [
        size, str(gpus), layout_name(run.layout), str(run.layout.micro_batch_rows), f"{step.total * 1e3:,.1f}",
        f"{(step.exposed + step.shared) * 1e3:,.1f}", f"{step.idle:.1%}", f"{efficiency(run, H100_CLUSTER):.1%}",
        f"{seconds / DAY:,.2f}", f"{seconds / HOUR * gpus:,.0f}", step.limit,
    ]  # fmt: skip


def stage_table(stage: StageName) -> str:
    """The fastest layout for every size and number of GPUs."""
    head = (
        "size", "GPUs", "layout", "rows", "step, ms", "messages, ms", "no rows", "efficiency", "days", "GPU hours",
        "limit",
    )  # fmt: skip
    return table(head, [stage_row(size, stage, gpus) for size in PUBLISHED_SIZES for gpus in GPUS])


def goals_table() -> str:
    """Efficiency beside the goal: of full steps and of the whole stage, and of data ranks alone."""
    rows = []
    for stage in STAGES:
        for size in GOALS_FROM:
            for gpus, goal in GOALS.items():
                run = planned(size, "mlm", stage, gpus)
                step, whole = (efficiency(run, H100_CLUSTER, stage=over) for over in (False, True))
                alone = efficiency(by_data_alone(size, stage, gpus), H100_CLUSTER)
                met = "met" if min(step, whole) >= goal else "missed" if step < goal else "met by full steps alone"
                rows.append([stage, size, str(gpus), *(f"{share:.1%}" for share in (goal, step, whole, alone)), met])
    head = ("stage", "size", "GPUs", "goal", "full steps", "whole stage", "data ranks alone, full steps", "the goal is")
    return table(head, rows)


def growing_table() -> str:
    """Models of the 1B's width and more layers: what one row takes of a card, and the fastest layout on 64."""
    rows = []
    for layers in (28, 56, 112, 224, 448):
        base = recipe("1b", "mlm", "pretrain")
        run = replace(base, model=replace(base.model, layers=layers))
        one_row = replace(run.layout, micro_batch_rows=1, fit_micro_batch=False)
        alone = on_gpus(replace(run, layout=one_row), 64, H100_CLUSTER)
        held = heaviest(alone)[1].total
        found = list(layouts(run, 64, H100_CLUSTER))
        best = layout_name(fastest(found, H100_CLUSTER).layout) if found else "none of those tried"
        count = parameters(run.model).total
        rows.append([str(layers), f"{count / 1e9:.1f}", f"{held / GIBI:.0f}", best])
    return table(("layers", "parameters, billions", "GiB a card by data ranks alone, one row", "fastest on 64"), rows)


def assumptions_table() -> str:
    """What is taken for granted."""
    taken = H100_CLUSTER
    forward, backward = (f"{rate / 1e12:.0f}" for rate in taken.attention)
    rows = [
        ("GPUs of a node", str(taken.node)),
        ("large products in bf16", f"{taken.matrix / 1e12:.0f} TFLOP/s"),
        ("products by own kernels", f"{OWN_MATRIX_SHARE:.0%} of that"),
        ("exponentials of own kernels", f"{EXPONENTIALS / 1e12:.1f} a ps"),
        ("FlashAttention 2, forward and backward", f"{forward} and {backward} TFLOP/s"),
        ("memory read and written by kernels", f"{taken.memory / 1e9:,.0f} GB/s"),
        ("host time of a kernel", f"{taken.launch * 1e6:.0f} us"),
        ("NVLink, one direction", f"{taken.inside / 1e9:.0f} GB/s"),
        ("InfiniBand, 400 Gb/s a GPU", f"{taken.across / 1e9:.0f} GB/s"),
        ("a hop of a ring, within a node and between nodes", f"{taken.hop_inside * 1e6:.0f} and "
            f"{taken.hop_across * 1e6:.0f} us"),
    ]  # fmt: skip
    filled = f"{FILLED:.0%} of {taken.card / GIBI:.0f} GiB, {FRAMEWORK_BYTES / GIBI:.0f} GiB by the framework"
    rows.append(("memory of a card that is filled", filled))
    return table(("assumed", "value"), rows)


def loss_table() -> str:
    """A logit with its gradient by size: through memory, and computed twice in place of that."""
    rows = []
    for size in PUBLISHED_SIZES:
        hidden = recipe(size, "mlm", "pretrain").model.hidden
        times = seconds_with_logits(hidden, H100_CLUSTER), seconds_without_logits(hidden, H100_CLUSTER)
        taken = "written" if keeps_logits(hidden, H100_CLUSTER) else "computed twice"
        rows.append((size, str(hidden), *(f"{time * 1e12:.2f} ps" for time in times), taken))
    return table(("size", "hidden", "logits written", "computed twice", "taken"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "assumptions": assumptions_table,
    "loss": loss_table,
    "recipe": recipe_table,
    "goals": goals_table,
    **{stage: partial(stage_table, stage) for stage in STAGES},
    "growing": growing_table,
}


def with_table(page: str, name: str, made: str) -> str:
    """The page with a table between its marks."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    return re.sub(f"({begin}).*?({end})", lambda found: f"{found[1]}{made}\n{found[2]}", page, flags=re.S)


def main() -> None:
    """Print tables, or write them into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(TABLES)}; default: all")
    parser.add_argument("--write", action="store_true", help="put them into docs/clusters.md")
    flags = parser.parse_args()
    if unknown := set(flags.tables) - set(TABLES):
        parser.error(f"no table {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")
    page = PAGE.read_text(encoding="utf-8") if flags.write else ""
    for name in flags.tables or TABLES:
        made = TABLES[name]()
        page = with_table(page, name, made)
        print(f"## {name}\n\n{made}\n")
    if flags.write:
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
