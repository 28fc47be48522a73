"""``ettin evaluate MODEL...``: held-out losses and what models write, or with ``--suite`` the paper's evaluations."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluate.retrieval.settings import ContrastSettings
from megatron_ettin.heavy_imports import heavy_imports
from megatron_ettin.progress import say

SUITE_FLAGS = ("tasks", "local", "limit", "seeds", "budget", "setting", "retrieval", "shard", "protocol", "mntp")
DYNAMICS_SUITE = "losses"
"""What is asked of all checkpoints where no suite is named."""

BEGINNINGS = ("The capital of France is", "import os\n\ndef main():\n    return")


@dataclass(frozen=True, kw_only=True)
class EvaluateFlags:
    """Evaluate exported models, or runs, on the held-out documents of a corpus, all on the same text.

    Encoders and decoders answer both questions: masked tokens and next tokens (an encoder predicts the next token
    from three masks, one pass a token, on a sample). Losses are in nats a token and a byte, beside the unigram entropy
    of that text. Writes results.json and losses.png; prints a table, filled masks and continuations.

    With --suite: tasks with intervals, kept one by one in OUTPUT, so that the same command goes on where it ended.
    """

    models: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Hugging Face folders, RUN or RUN@STEP; NAME=FOLDER names one in the table. With --suite hub names too."""
    suite: str = ""
    """Suites to run, with commas: losses, stdlib, glue, retrieval, generative, bias."""
    dynamics: bool = False
    """Evaluate all checkpoints of each MODEL: of a run, of a folder of exports, or the revisions of a hub repository;
    RUN@STEP or OWNER/NAME@REVISION is one of them. Draws curves against tokens. Without --suite: held-out losses."""
    tasks: str = ""
    """Tasks of the suites to run, with commas; default: all."""
    local: Path | None = None
    """Folder with data of the suites in the hub's columns; default: the hub."""
    limit: int | None = None
    """Most examples of a split."""
    seeds: int = 1
    """Repetitions of tasks that train."""
    budget: Literal["one", "quick", "sweep"] = "one"
    """Tasks that train: one setting each, a quick one on few examples, or the published sweep."""
    setting: str = ""
    """Your own instead, for example rate=8e-5,decay=1e-6,batch=32,epochs=2."""
    retrieval: ContrastSettings = field(default_factory=ContrastSettings)
    """How the retrieval suite makes models embedding models."""
    shard: str = "1/1"
    """i/n: every n-th task of all models, or every n-th fine-tuning, from the i-th on; with --dynamics the i-th of n
    parts of all tasks; processes with one OUTPUT join their results."""
    protocol: Literal["corrected", "published"] = "corrected"
    """Rules of suites whose published scores rest on a mistake."""
    mntp: tuple[str, ...] = ()
    """Names of encoders of other makers that predict a token one position before it."""
    table: tuple[Path, ...] = ()
    """Compare results of earlier evaluations: folders or results.json files; prints Markdown and evaluates nothing."""
    html: Path | None = None
    """With --table: write the comparison as one HTML file with plots too."""
    data: str = ""
    """A mixture file (.json) or the prefix of a corpus; default: that of the first model's training."""
    out: Annotated[Path, tyro.conf.arg(aliases=["--output"])] = Path("evaluation")
    """Folder of results.json, tables and plots."""
    held_out_share: float = 0.0
    """Share of the documents held out; 0: as in the first model's training, else 0.001."""
    rows: int = 64
    """Held-out rows."""
    row_length: int = 0
    """Tokens per row and longest piece; 0: 1,024, or the first model's longest text when that is shorter."""
    mask_share: float = 0.15
    """Share of the tokens that are masked."""
    sample: int = 400
    """Next tokens that every kind is asked for."""
    text: tuple[str, ...] = BEGINNINGS
    """Beginnings to continue; [MASK] in one marks the gap to fill, else a word is taken out."""


def main(arguments: list[str]) -> int:
    """Evaluate, write and print."""
    flags = tyro.cli(EvaluateFlags, args=arguments, prog="ettin evaluate")
    if flags.table:
        compare_results(flags.table, flags.html)
        return 0
    if flags.html is not None:
        raise ConfigError(f"--html {flags.html}: goes with --table, which names the results to show")
    if not flags.models:
        raise ConfigError("name at least one model: a Hugging Face folder, RUN or RUN@STEP")
    if flags.suite or flags.dynamics:
        evaluate_with_suites(flags)
        return 0
    for name in SUITE_FLAGS:
        if getattr(flags, name) != getattr(EvaluateFlags(models=()), name):
            raise ConfigError(f"--{name} is a setting of suites; name them, for example --suite generative,bias")
    with heavy_imports():
        from megatron_ettin.evaluate.report import plot_losses, print_results, write_results
        from megatron_ettin.evaluate.suite import evaluate, exported, held_out_text, named_sources, text_settings
        from megatron_ettin.export.parity import import_models

        import_models()

    with exported(named_sources(flags.models)) as folders:
        settings = text_settings(
            next(iter(folders.values())), data=flags.data, held_out_share=flags.held_out_share,
            row_length=flags.row_length, mask_share=flags.mask_share,
        )  # fmt: skip
        text, tokenizer_json = held_out_text(settings, flags.rows, flags.sample)
        results = evaluate(folders, text, tokenizer_json, flags.text)
    path = write_results(flags.out, results)
    plot_losses(results, flags.out / "losses.png")
    print_results(results)
    print(f"{path} and losses.png beside it")
    return 0


def compare_results(results: tuple[Path, ...], html: Path | None) -> None:
    """Print Markdown of some results, and write them as a page where one is asked for."""
    from megatron_ettin.evaluate.suites.table import compare

    print(compare(results))
    if html is not None:
        from megatron_ettin.evaluate.page.scores import results_page
        from megatron_ettin.evaluate.suites.columns import merged
        from megatron_ettin.publish import write_atomically

        write_atomically(html, results_page(merged(results)))
        print(f"{html}: the same with plots")


def evaluate_with_suites(flags: EvaluateFlags) -> None:
    """Run tasks and keep their outcomes; write results.json, tables.md and plots, and print the tables."""
    with heavy_imports():
        from megatron_ettin.evaluate.dynamics.points import points_of
        from megatron_ettin.evaluate.dynamics.session import evaluate_points
        from megatron_ettin.evaluate.suite import named_sources
        from megatron_ettin.evaluate.suites.catalogue import made, write_report
        from megatron_ettin.evaluate.suites.losses import held_out_settings
        from megatron_ettin.evaluate.suites.session import evaluate_suites
        from megatron_ettin.evaluate.suites.shard import Shard
        from megatron_ettin.evaluate.suites.subjects import opened_subjects
        from megatron_ettin.evaluate.suites.suite import Options

    published = flags.protocol == "published"
    options = Options(
        local=flags.local, limit=flags.limit, seeds=flags.seeds, budget=flags.budget, setting=flags.setting,
        published=published, retrieval=flags.retrieval, keep=flags.out / "models",
    )  # fmt: skip
    shard, tasks = Shard.parse(flags.shard), split_words(flags.tasks)
    held_out = partial(  # the losses suite alone asks for it
        held_out_settings, data=flags.data, held_out_share=flags.held_out_share, row_length=flags.row_length,
        mask_share=flags.mask_share, rows=flags.rows, sample=flags.sample,
    )  # fmt: skip
    names = split_words(flags.suite or DYNAMICS_SUITE)
    with ExitStack() as stack:
        try:
            if flags.dynamics:
                points = points_of(flags.models)
                suites = made(names, options, lambda: held_out([stack.enter_context(points[0].opened(flags.mntp))]))
                evaluate_points(
                    points, suites, options, flags.out, mntp=flags.mntp, tasks=tasks, shard=shard, say=say
                )
            else:
                subjects = stack.enter_context(opened_subjects(named_sources(flags.models), flags.mntp))
                suites = made(names, options, lambda: held_out(subjects))
                evaluate_suites(subjects, suites, options, flags.out, tasks=tasks, shard=shard, say=say)
        finally:
            text = write_report(flags.out)
    print(text)


def split_words(text: str) -> tuple[str, ...]:
    """The words of a list with commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())
