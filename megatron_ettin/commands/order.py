"""`ettin order RUN`: what a run has read, by step, by document, or between two checkpoints."""

from __future__ import annotations

import argparse
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """The arguments of `ettin order`."""
    result = argparse.ArgumentParser(
        prog="ettin order",
        description="What a run has read. Steps are counted as in metrics.jsonl: checkpoint step-N has seen 1 to N.",
    )
    result.add_argument("run", type=Path, help="folder of a run, of a plan, or of a stage (PLAN/STAGE)")
    question = result.add_mutually_exclusive_group(required=True)
    question.add_argument("--step", type=int, help="rows, pieces, sources and masks of a step")
    question.add_argument("--document", type=int, help="the steps that saw this document of the source")
    question.add_argument(
        "--between", type=int, nargs=2, metavar=("A", "B"), help="write the rows of the steps A + 1 to B as parquet"
    )
    result.add_argument("--text", action="store_true", help="with --step: print the text, masks included")
    result.add_argument("--rows", type=int, default=0, help="with --step: print only so many rows (default all)")
    result.add_argument("--row", type=int, nargs="+", metavar="N", help="with --step: print these rows of it, from 0")
    result.add_argument(
        "--source", nargs="?", const="", metavar="NAME",
        help="with --document: name of the source, needed when there are several; with --step, without a name: print "
        "file and line, or row, of each document",
    )
    result.add_argument("--until", type=int, help="with --document: last step to look at (default: the run's newest)")
    result.add_argument("--output", type=Path, help="with --between: the file (default RUN/order/steps-A-to-B.parquet)")
    return result


def main(arguments: list[str]) -> int:
    """Run the command and return its exit status."""
    options = parser().parse_args(arguments)
    for flag, owner in (
        ("text", "step"), ("rows", "step"), ("row", "step"), ("source", "document"), ("until", "document"),
        ("output", "between"),
    ):  # fmt: skip
        if getattr(options, flag) and getattr(options, owner) is None:
            parser().error(f"--{flag} goes with --{owner}")
    if options.source == "" and options.step is None:
        parser().error("--source without a name goes with --step")
    if options.row and options.rows:
        parser().error("--row names rows and --rows counts them; give one of them")
    from megatron_ettin.plans.chosen import chosen_run

    options.run = chosen_run(options.run, print)
    if options.step is not None:
        return print_step(
            options.run, options.step, options.text, options.rows, options.row, origins=options.source is not None
        )
    if options.document is not None:
        return print_document(options.run, options.document, options.source, options.until)
    first, last = options.between
    return write_between(options.run, first, last, options.output)


def print_step(
    run: Path, step: int, text: bool, rows: int, chosen: list[int] | None, *, origins: bool = False
) -> int:
    """Print rows of a step, all or the ``chosen``; compares with the digest in metrics.jsonl when that is there."""
    from megatron_ettin.corpus.places import Places
    from megatron_ettin.errors import DataError
    from megatron_ettin.observe.records import refused_updates
    from megatron_ettin.replay.replay import is_recorded, open_run_data, row_lines, seen_step, text_lines

    data = open_run_data(run)
    seen = seen_step(data, step)
    recorded = is_recorded(run, seen)
    batch = seen.batch
    if wrong := [place for place in chosen or () if not 0 <= place < batch.rows]:
        raise DataError(f"--row {wrong[0]}: step {step} has {batch.rows} rows, 0 to {batch.rows - 1}")
    print(
        f"step {step}: {batch.rows} rows, {batch.tokens} tokens, {batch.labels} labels, digest {seen.digest()}"
        + (", as recorded" if recorded else ", not in metrics.jsonl: the run has not made this step")
    )
    for refusal in refused_updates(run, step, step).values():
        print(f"  its update was refused ({refusal})")
    shown = list(chosen or range(min(rows or batch.rows, batch.rows)))
    named = {seen.rows[place].source for place in shown} if origins else ()
    files = {name: Places(data.corpora[data.sources.index(name)]) for name in named}
    for place in shown:
        for line in (text_lines if text else row_lines)(data, seen, place, files):
            print(line)
    return 0


def print_document(run: Path, document: int, source: str | None, until: int | None) -> int:
    """Print the steps that saw a document, and whether the weights have taken anything from them."""
    from megatron_ettin.observe.records import refused_updates
    from megatron_ettin.replay.replay import is_held_out, newest_step, open_run_data, sightings

    data = open_run_data(run)
    last, reason = (until, "--until") if until else newest_step(run, data)
    found = sightings(data, document, last, source)
    refused = refused_updates(run, 1, last)
    print(f"document {document}: {len(found)} pieces read in the steps 1 to {last} ({reason})")
    for seen in found:
        place = f"row {seen.place} (pool row {seen.number}, pass {seen.pass_number})"
        refusal = f"; its update was refused ({refused[seen.step]})" if seen.step in refused else ""
        print(f"  step {seen.step}: {place}, tokens {seen.start} to {seen.start + seen.length}{refusal}")
    if not found and is_held_out(data, document, source):
        print("  it is held out: training never sees it")
    return 0


def write_between(run: Path, first: int, last: int, output: Path | None) -> int:
    """Write the rows between two checkpoints, and say which of the steps updated nothing."""
    from megatron_ettin.observe.records import refused_updates
    from megatron_ettin.replay.order_file import write_order_file
    from megatron_ettin.replay.replay import open_run_data
    from megatron_ettin.run_folder import ORDER

    data = open_run_data(run)
    path = output or run / ORDER / f"steps-{first}-to-{last}.parquet"
    refused = refused_updates(run, first + 1, last)
    rows = write_order_file(data, first, last, path, refused)
    print(f"{path}: {rows} rows of the steps {first + 1} to {last}")
    for step, refusal in refused.items():
        print(f"  step {step}: its update was refused ({refusal})")
    return 0
