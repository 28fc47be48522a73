#!/usr/bin/env python3
"""The three-mask scorer on a CPU against one row at a time, and against the published batching: scores compared first.

Requests are prompts of ARC, HellaSwag and PIQA with their choices, from ``--data FOLDER`` (the hub's columns, as
``ettin evaluate --local`` takes them) or made up in lengths like theirs. One row at a time is the literal method
through transformers with sdpa in fp32. The published batching pads all rows of the choices of one context into one pass
and computes the vocabulary at every position. Weights are random: time does not depend on them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.reporting import Claim, claim, cpu_seconds, require, show

require("torch", "transformers", "megatron.core", install="pip install .")

import numpy as np  # noqa: E402
import torch  # noqa: E402

from megatron_ettin.config.objective import OBJECTIVES  # noqa: E402
from megatron_ettin.config.recipes import recipe  # noqa: E402
from megatron_ettin.config.weights import shapes  # noqa: E402
from megatron_ettin.evaluate.generative import reference  # noqa: E402
from megatron_ettin.evaluate.generative.engines import load_any, load_engine  # noqa: E402
from megatron_ettin.evaluate.generative.three_masks import Continuation, Scored, ThreeMasks, plan  # noqa: E402
from megatron_ettin.evaluate.suites.subjects import Subject, subject_of  # noqa: E402
from megatron_ettin.export import Export, write_folder  # noqa: E402

CLS, SEP, PAD, MASK = 50281, 50282, 50283, 50284
SAME = 1e-4
"""Nats, of a sum over a continuation: float32 in another order, for sums of 50 to 300."""
SIZES = {"17m": (12, 8.0), "150m": (3, 1.8)}
"""Size -> (requests of each task, target against one row at a time)."""
PUBLISHED_BATCHING = 5.0


def texts(data: Path | None) -> Iterator[tuple[str, Iterator[tuple[str, Sequence[str]]]]]:
    """Task -> (prompt, choices) of its documents."""

    def rows(name: str) -> Iterator[dict[str, Any]]:
        with gzip.open(Path(str(data), "generative", f"{name}.jsonl.gz"), "rt", encoding="utf-8") as file:
            yield from map(json.loads, file)

    yield "ARC", (
        (f"Question: {row['question']}\nAnswer:", [f" {choice}" for choice in row["choices"]["text"]])
        for row in rows("arc_challenge/test")
    )
    yield "HellaSwag", (
        (f"{row['activity_label']}: {row['ctx']}", [f" {ending}" for ending in row["endings"]])
        for row in rows("hellaswag/validation")
    )
    yield "PIQA", (
        (f"Question: {row['goal']}\nAnswer:", [f" {row['sol1']}", f" {row['sol2']}"]) for row in rows("piqa/validation")
    )


def requests(data: Path | None, tokenizer: Any, count: int) -> dict[str, list[Continuation]]:  # noqa: ANN401
    """Task -> its first ``count`` requests."""

    def one(context: Sequence[int], ids: Sequence[int]) -> Continuation:
        return Continuation(context=np.array([CLS, *context]), ids=np.array([*ids, SEP]))

    if data is None:
        generator = np.random.default_rng(0)
        made: list[Continuation] = []
        while len(made) < count:
            context = generator.integers(0, 50_000, int(generator.integers(12, 45))).tolist()
            begun = generator.integers(0, 50_000, 2).tolist()
            made += [one(context, [*begun, *generator.integers(0, 50_000, 6).tolist()]) for _ in range(4)]
        return {"made up": made[:count]}

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    return {
        task: list(islice((one(encode(prompt), encode(c)) for prompt, choices in documents for c in choices), count))
        for task, documents in texts(data)
    }


def model_folder(size: str, tokenizer_json: Path, folder: Path) -> Subject:
    """A model of this size with random weights."""
    model = recipe(size, "mlm", "pretrain").model
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: 0.02 * torch.randn(shape, generator=generator) + float("norm" in name)
        for name, shape in shapes(model).items()
    }
    folder.mkdir(parents=True)
    write_folder(
        folder, Export(model=model, objective=OBJECTIVES["mlm"], tensors=tensors, tokenizer_json=tokenizer_json)
    )
    return subject_of(size, str(folder), folder, mntp=False)


def one_at_a_time(model: Any, asked: Sequence[Continuation]) -> list[Scored]:  # noqa: ANN401
    """The literal method."""
    return [
        Scored(log_probability=value, greedy=greedy)
        for value, greedy in (
            reference.score(model, one.context.tolist(), one.ids.tolist(), mask=MASK, separator=SEP, offset=0)
            for one in asked
        )
    ]


@torch.no_grad()
def choices_together(model: Any, asked: Sequence[Continuation]) -> list[Scored]:  # noqa: ANN401
    """All rows of the choices of one context in one padded pass, with the logits of every position."""
    scored = []
    for _, group in groupby(asked, key=lambda one: one.context.tobytes()):
        choices = list(group)
        prefixes = [[*one.context, *one.ids[:i]] for one in choices for i in range(len(one.ids))]
        targets = torch.from_numpy(np.concatenate([one.ids for one in choices]))
        longest = max(map(len, prefixes)) + 4
        rows = torch.tensor(
            [[*prefix, MASK, MASK, MASK, SEP, *[PAD] * (longest - len(prefix) - 4)] for prefix in prefixes]
        )
        places = torch.tensor([len(prefix) for prefix in prefixes])
        attended = (torch.arange(longest)[None] < places[:, None] + 4).long()
        log_p = model(input_ids=rows, attention_mask=attended).logits[torch.arange(len(rows)), places].log_softmax(-1)
        wanted, best = log_p.gather(1, targets[:, None])[:, 0], log_p.argmax(-1) == targets
        for part, greedy in zip(
            wanted.split([len(one.ids) for one in choices]), best.split([len(one.ids) for one in choices]), strict=True
        ):
            scored.append(Scored(log_probability=float(part.sum()), greedy=bool(greedy.all())))
    return scored


def require_same(ours: Sequence[Scored], theirs: Sequence[Scored]) -> float:
    """The largest difference; ends the benchmark when scores differ."""
    worst = max(abs(a.log_probability - b.log_probability) for a, b in zip(ours, theirs, strict=True))
    if worst > SAME or any(a.greedy != b.greedy for a, b in zip(ours, theirs, strict=True)):
        sys.exit(f"scores differ by {worst:.3g} nats or in a greedy flag; nothing is timed")
    return worst


def compared(size: str, data: Path | None, tokenizer_json: Path, rounds: int, quick: bool) -> Iterator[Claim]:
    """The claims of one size."""
    from tokenizers import Tokenizer

    count, target = SIZES[size]
    with tempfile.TemporaryDirectory() as temporary:
        subject = model_folder(size, tokenizer_json, Path(temporary, "model"))
        asked = requests(data, Tokenizer.from_file(str(tokenizer_json)), count // 3 if quick else count)
        model = load_any(subject)
        scorer = ThreeMasks(engine=load_engine(subject), mask=MASK, separator=SEP, label_offset=0)
        everything = [one for task in asked.values() for one in task]
        jobs: dict[str, Callable[[], list[Scored]]] = {
            "ours": lambda: scorer.scores(everything), "naive": lambda: one_at_a_time(model, everything),
        }  # fmt: skip
        if size == "17m":
            jobs["published"] = lambda: choices_together(model, everything)
        found = {name: job() for name, job in jobs.items()}
        worst = max(require_same(found["ours"], other) for other in found.values())
        seconds: dict[str, list[float]] = {name: [] for name in jobs}
        for _ in range(rounds):
            for name, job in jobs.items():
                seconds[name].append(cpu_seconds(job))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    rows = plan(everything)
    facts = (
        f"{' '.join(asked)}: {rows.asked} rows, {len(rows.lengths)} different, same scores within {worst:.1g} nats, "
        f"{rounds} rounds of {min(seconds['ours']):.2f} to {max(seconds['ours']):.2f} s, "
        f"load average {os.getloadavg()[0]:.1f}"
    )
    name = size.upper()
    rate = {job: rows.asked / value for job, value in median.items()}
    yield claim(
        f"three-mask scorer {name} against one row at a time", rate["ours"], rate["naive"], "rows/CPU s",
        target * rate["naive"], peer_name="transformers, sdpa, fp32", note=facts,
    )  # fmt: skip
    if "published" in median:
        yield claim(
            f"three-mask scorer {name} against the published batching", rate["ours"], rate["published"], "rows/CPU s",
            PUBLISHED_BATCHING * rate["published"], peer_name="choices of a context padded together, full logits",
            note=facts,
        )  # fmt: skip


def main() -> None:
    """Compare, time and report."""
    root = Path(__file__).resolve().parent.parent
    shared = Path(os.environ.get("ETTIN_SHARED", root.parent / "shared"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with generative/; default: in ETTIN_SHARED, else made up")
    parser.add_argument("--tokenizer", type=Path, default=shared / "tokenizers" / "ettin_encoder_tokenizer.json")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="17M, a third of the requests, one round")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not options.tokenizer.is_file():
        sys.exit(f"{options.tokenizer}: no such file; give a tokenizer.json of 50,368 ids with --tokenizer")
    data = options.data or (shared / "evaluation" if (shared / "evaluation").is_dir() else None)
    sizes, rounds = (["17m"], 1) if options.quick else (options.sizes, options.rounds)
    claims = [one for size in sizes for one in compared(size, data, options.tokenizer, rounds, options.quick)]
    show(claims, options.json)


if __name__ == "__main__":
    main()
