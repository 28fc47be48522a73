#!/usr/bin/env python3
"""Dynamics over 236 exports: what it takes beyond loading weights and forward passes.

The exports are one export of ``tiny`` with other weights in each, in folders of their own. Their held-out losses and
WinoGender shares are computed by ``ettin evaluate --dynamics`` in this process. Loading is reading, checking and
copying the tensors of a folder; a forward pass is all from token ids to the probabilities at the asked positions. What
counts as beyond is everything else: finding and hashing the exports, questions and batches, what is made of
probabilities, writing and joining outcomes, reports and plots at the end. Imports and the making of exports and corpus
do not count.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import sys
import sysconfig
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.reporting import claim, require, show

require("torch", "transformers", "megatron.core", install="pip install .")

import torch  # noqa: E402

from megatron_ettin.commands import evaluate  # noqa: E402
from megatron_ettin.commands.prepare import main as prepare  # noqa: E402
from megatron_ettin.config.codec import to_dict  # noqa: E402
from megatron_ettin.config.objective import OBJECTIVES  # noqa: E402
from megatron_ettin.config.recipes import recipe  # noqa: E402
from megatron_ettin.config.weights import shapes  # noqa: E402
from megatron_ettin.evaluate.generative import engines  # noqa: E402
from megatron_ettin.evaluate.suites import catalogue, models  # noqa: E402, F401 - all that suites import
from megatron_ettin.export import Export, write_folder  # noqa: E402
from megatron_ettin.export.mapping import huggingface_shapes, to_huggingface  # noqa: E402
from megatron_ettin.export.parity import import_models  # noqa: E402
from megatron_ettin.export.weights import WEIGHTS, save_weights  # noqa: E402
from megatron_ettin.tokenizer.identity import read_tokenizer, vocabulary_of  # noqa: E402

EXPORTS = 236
"""Checkpoints of a published model."""
TARGET = 0.10
SENTENCES = 240
"""Of WinoGender's gotcha set; made up here, in their length."""


class Stopwatch:
    """CPU seconds of wrapped functions; one that calls another counts for both, so none may."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)

    def wrap(self, where: Any, name: str, kind: str) -> None:  # noqa: ANN401 - a module or a class
        """Measure calls of an attribute as seconds of this kind."""
        genuine: Callable[..., Any] = getattr(where, name)

        def measured(*given: Any, **options: Any) -> Any:  # noqa: ANN401
            start = time.process_time()
            try:
                return genuine(*given, **options)
            finally:
                self.seconds[kind] += time.process_time() - start
                self.calls[kind] += 1

        setattr(where, name, measured)


def write_exports(folder: Path, tokenizer_json: Path, count: int) -> None:
    """Folders of one training, each with weights of its own."""
    vocabulary = 1 + max(vocabulary_of(read_tokenizer(tokenizer_json)).values())
    model = replace(recipe("tiny", "mlm", "pretrain").model, vocabulary=vocabulary)
    generator = torch.Generator().manual_seed(0)
    first = {
        name: 0.02 * torch.randn(shape, generator=generator) + float("norm" in name)
        for name, shape in shapes(model).items()
    }
    base = folder / "step1"
    base.mkdir(parents=True)
    write_folder(base, Export(model=model, objective=OBJECTIVES["mlm"], tensors=first, tokenizer_json=tokenizer_json))
    for step in range(1, count + 1):
        target = folder / f"step{step}"
        if step > 1:
            shutil.copytree(base, target, ignore=shutil.ignore_patterns(WEIGHTS))
            tensors = {
                name: tensor + 0.001 * torch.randn(tensor.shape, generator=generator) for name, tensor in first.items()
            }
            stored = to_huggingface(tensors, model, "encoder")
            save_weights(target / WEIGHTS, stored, huggingface_shapes(model, "encoder"), torch.float32)
        training = {
            "run": to_dict(recipe("tiny", "mlm", "pretrain")), "revision": f"step{step}",
            "state": {"step": step, "tokens": step * 10**6},
        }  # fmt: skip
        (target / "training.json").write_text(json.dumps(training))


def write_data(folder: Path, tokenizer_json: Path) -> None:
    """A corpus of Python's own sources, and sentences with pronouns."""
    folder.mkdir()
    sources = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    lines = [json.dumps({"text": path.read_text(encoding="utf-8", errors="replace")}) for path in sources]
    (folder / "text.jsonl").write_text("\n".join(lines))
    command = ["--input", str(folder / "text.jsonl"), "--tokenizer-model", str(tokenizer_json)]
    if prepare([*command, "--output-prefix", str(folder / "corpus")]):
        sys.exit("the corpus could not be made")
    rows = [
        {"sentence": f"The technician told customer {i} that {word} could pay with cash at the desk.", "gender": gender}
        for i in range(SENTENCES // 2) for word, gender in (("he", "male"), ("she", "female"))
    ]  # fmt: skip
    path = folder / "bias" / "winogender" / "gotcha.jsonl.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


def main() -> None:
    """Make exports, evaluate them and report."""
    root = Path(__file__).resolve().parent.parent
    shared = Path(os.environ.get("ETTIN_SHARED", root.parent / "shared"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, default=shared / "tokenizers" / "ettin_encoder_tokenizer.json")
    parser.add_argument("--exports", type=int, default=EXPORTS)
    parser.add_argument("--suites", default="losses,bias")
    parser.add_argument("--rows", type=int, default=64, help="held-out rows; fewer make the share harder to meet")
    parser.add_argument("--sample", type=int, default=400, help="next tokens asked for with three masks; likewise")
    parser.add_argument("--quick", action="store_true", help="16 exports")
    parser.add_argument("--json", type=Path, help="write the claims to this file")
    options = parser.parse_args()
    if not options.tokenizer.is_file():
        parser.error(f"{options.tokenizer} is not there; give a tokenizer.json with --tokenizer")
    count = 16 if options.quick else options.exports
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        write_exports(place / "exports", options.tokenizer, count)
        write_data(place / "data", options.tokenizer)
        import_models()
        watch = Stopwatch()
        watch.wrap(models, "load_engine", "loading")
        watch.wrap(models, "read_folder", "loading")
        watch.wrap(models, "load_full_state", "loading")
        watch.wrap(engines.PackedEngine, "logits", "forward")
        watch.wrap(engines.PackedEngine, "probabilities", "forward")
        command = [
            str(place / "exports"), "--dynamics", "--suite", options.suites, "--data", str(place / "data" / "corpus"),
            "--held-out-share", "0.1", "--local", str(place / "data"), "--output", str(place / "out"),
            "--rows", str(options.rows), "--sample", str(options.sample),
        ]  # fmt: skip
        start, processor = time.perf_counter(), time.process_time()
        with (place / "log").open("w") as log, redirect_stdout(log):
            evaluate.main(command)
        seconds, processor = time.perf_counter() - start, time.process_time() - processor
        done = json.loads((place / "out" / "results.json").read_text())["models"]
    if len(done) != count or watch.calls["forward"] < count:
        sys.exit(f"{len(done)} of {count} exports were evaluated in {watch.calls['forward']} passes")
    beyond = processor - sum(watch.seconds.values())
    parts = ", ".join(f"{kind} {value:.1f} s" for kind, value in watch.seconds.items())
    load = ", ".join(f"{average:.2f}" for average in os.getloadavg())
    show(
        [
            claim(
                f"dynamics over {count} exports of tiny, {options.rows} rows of {options.suites}: beyond passes",
                beyond / processor, None, "share of CPU seconds", TARGET, lower_is_better=True,
                note=f"{processor:.1f} s in all ({seconds:.1f} s of wall time): {parts}; load average {load}",
            )
        ],
        options.json,
    )  # fmt: skip


if __name__ == "__main__":
    main()
