#!/usr/bin/env python3
"""A fine-tuning step on MNLI on a CPU against transformers' Trainer on padded rows: logits and losses compared first.

Texts are MNLI's pairs from ``--data FOLDER`` (the hub's columns, as ``ettin evaluate --local`` takes them) or made up
in lengths like theirs. The Trainer pads to the longest text of a batch, with sdpa in fp32, the same fused AdamW and
rates, no clipping, and the same batches in the same order, so that both sides must end with the same model. Weights are
random: time does not depend on them. No dropout on either side. CPU seconds from the end of one step to the end of
another, without what comes before the first.

Ours keeps the embeddings of the tokens that occur in the task. The first claim is with those of the given data; another
one keeps the whole vocabulary, as a data set would in which every token occurs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.reporting import Claim, claim, require, show

require("torch", "transformers", "megatron.core", "accelerate", install="pip install '.[eval-lm]'")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.utils.logging import set_verbosity_error  # noqa: E402

from megatron_ettin.config.objective import OBJECTIVES  # noqa: E402
from megatron_ettin.config.recipes import recipe  # noqa: E402
from megatron_ettin.config.weights import shapes  # noqa: E402
from megatron_ettin.evaluate.glue.classifiers import PackedClassifier  # noqa: E402
from megatron_ettin.evaluate.glue.reading import LONGEST, Reader, Text  # noqa: E402
from megatron_ettin.evaluate.glue.settings import Setting  # noqa: E402
from megatron_ettin.evaluate.glue.tasks import TASKS  # noqa: E402
from megatron_ettin.evaluate.glue.tuning import batches, fine_tune, make_optimizer, rate_factor, steps_of  # noqa: E402
from megatron_ettin.evaluate.suites.subjects import Subject, subject_of  # noqa: E402
from megatron_ettin.export import Export, write_folder  # noqa: E402

SAME = 1e-4
"""Of a logit of about 1, and of a loss: float32 in another order."""
TARGETS = {"mlm": 2.5, "clm": None}
SEED = 42


def model_folder(size: str, objective: str, tokenizer_json: Path, folder: Path) -> Subject:
    """A model of this size with random weights."""
    model = recipe(size, objective, "pretrain").model
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: 0.02 * torch.randn(shape, generator=generator) + float("norm" in name)
        for name, shape in shapes(model).items()
    }
    folder.mkdir(parents=True)
    export = Export(model=model, objective=OBJECTIVES[objective], tensors=tensors, tokenizer_json=tokenizer_json)
    write_folder(folder, export)
    return subject_of(size, str(folder), folder, mntp=False)


def examples(data: Path | None, subject: Subject) -> tuple[list[Text], np.ndarray]:
    """Texts and labels of MNLI's training split, or of its lengths."""
    if data is not None:
        found = TASKS["mnli"].read(data, "train", None)
        tokenizer = AutoTokenizer.from_pretrained(subject.folder)
        return Reader(tokenizer=tokenizer, model_longest=LONGEST, explicit=True).read(found)[0], found.labels_N
    count, generator = 6_000, np.random.default_rng(0)
    lengths = np.clip(generator.lognormal(np.log(34), 0.45, count), 8, 200).astype(int)
    texts: list[Text] = [{"input_ids": [50281, *generator.integers(0, 50_000, n).tolist(), 50282]} for n in lengths]
    return texts, generator.integers(0, 3, count).astype(float)


def their_model(subject: Subject, classifier: PackedClassifier) -> Any:  # noqa: ANN401
    """transformers' class with the same head and classifier."""
    model = AutoModelForSequenceClassification.from_pretrained(
        subject.folder, num_labels=3, classifier_pooling="cls", dtype=torch.float32,
        attn_implementation="sdpa",
    )  # fmt: skip
    model.classifier = torch.nn.Linear(model.config.hidden_size, 3)  # a decoder's own has no bias
    for name, tensor in load_file(subject.folder / "model.safetensors").items():
        if name.startswith("lm_head."):
            model.get_parameter(name.removeprefix("lm_")).data.copy_(tensor)
    model.classifier.load_state_dict(classifier.classifier.state_dict())
    return model


class Steps(TrainerCallback):
    """CPU time at the end of each step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: object, **__: object) -> None:
        self.ends.append(time.process_time())


class InOrder(Trainer):
    """Reads the rows in the order of the list."""

    def _get_train_sampler(self, *_: object) -> torch.utils.data.Sampler[int]:
        return torch.utils.data.SequentialSampler(self.train_dataset)


def trainer_seconds(model: Any, rows: list[dict[str, Any]], tokenizer: Any, setting: Setting) -> list[float]:  # noqa: ANN401
    """CPU seconds of each step but the first."""
    steps = Steps()
    with tempfile.TemporaryDirectory() as temporary:
        arguments = TrainingArguments(
            output_dir=temporary, per_device_train_batch_size=setting.batch, max_grad_norm=0.0, num_train_epochs=1,
            use_cpu=True, report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        optimizer = make_optimizer(model, setting)
        total = steps_of(len(rows), setting)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, total))
        InOrder(
            model=model, args=arguments, train_dataset=rows, data_collator=DataCollatorWithPadding(tokenizer),
            callbacks=[steps], optimizers=(optimizer, schedule),
        ).train()  # fmt: skip
    return np.diff(steps.ends).tolist()


def our_seconds(classifier: PackedClassifier, texts: list[Text], labels: np.ndarray, setting: Setting) -> list[float]:
    """CPU seconds of each step but the first."""
    ends: list[float] = []
    fine_tune(classifier, texts, labels, setting, SEED, lambda _: ends.append(time.process_time()))
    return np.diff(ends).tolist()


def compared(
    size: str, objective: str, data: Path | None, tokenizer_json: Path, steps: int, rounds: int
) -> Iterator[Claim]:
    """The claims of one model."""
    setting = Setting(rate=8e-5, decay=1e-6, batch=32, epochs=1)
    with tempfile.TemporaryDirectory() as temporary:
        subject = model_folder(size, objective, tokenizer_json, Path(temporary, "model"))
        every, all_labels = examples(data, subject)
        tokenizer = AutoTokenizer.from_pretrained(subject.folder)
        whole = list(range(recipe(size, "mlm", "pretrain").model.vocabulary))
        vocabularies: dict[str, list[Text]] = {"": every, ", whole vocabulary": [{"input_ids": whole}]}
        texts, labels = every[: steps * setting.batch], all_labels[: steps * setting.batch]
        order = np.concatenate(list(batches(len(texts), setting, SEED)))
        rows = [{"input_ids": list(texts[i]["input_ids"]), "labels": int(labels[i])} for i in order]
        first = [texts[i] for i in order[: setting.batch]]
        seconds: dict[str, list[float]] = {name: [] for name in (*vocabularies, "peer")}
        facts: dict[str, str] = {}
        for _ in range(rounds):
            ours = {
                name: PackedClassifier.load(subject, known, 3, SEED, None, 0.0) for name, known in vocabularies.items()
            }
            model = their_model(subject, ours[""])
            before = max(require_same(one, model, first, tokenizer) for one in ours.values())
            for name, classifier in ours.items():
                seconds[name] += our_seconds(classifier, texts, labels, setting)
            seconds["peer"] += trainer_seconds(model, rows, tokenizer, setting)
            for name, classifier in ours.items():
                after = require_same(classifier, model, first, tokenizer)
                facts[name] = (
                    f"{len(classifier.used):,} embeddings; logits equal within {before:.0e} before and {after:.0e} "
                    f"after {steps} steps"
                )
    lengths = np.array([len(row["input_ids"]) for row in rows]).reshape(-1, setting.batch)
    padding = lengths.max(1).sum() * setting.batch / lengths.sum()
    kind = "encoder" if objective == "mlm" else "decoder"
    peer = 1 / statistics.median(seconds["peer"])
    for name in vocabularies:
        target = TARGETS[objective] if size == "17m" and not name else None
        yield claim(
            f"GLUE fine-tuning step {size.upper()} {kind}{name}", 1 / statistics.median(seconds[name]), peer,
            "steps/CPU s", target and target * peer, peer_name="transformers Trainer, padded, sdpa, fp32",
            note=f"batch {setting.batch}, {lengths.mean():.0f} tokens a text, padded {padding:.2f} times as many; "
            f"{facts[name]}",
        )  # fmt: skip


@torch.no_grad()
def require_same(classifier: PackedClassifier, model: Any, texts: list[Text], tokenizer: Any) -> float:  # noqa: ANN401
    """The largest difference of logits; ends the benchmark when they differ."""
    batch = tokenizer.pad([dict(text) for text in texts], return_tensors="pt")
    found, expected = classifier.eval().logits(texts), model.eval()(**batch).logits
    worst = float((found - expected).abs().max())
    if worst > SAME * max(1.0, float(expected.abs().max())):
        sys.exit(f"logits differ by {worst:.3g}; nothing is timed")
    return worst


def claims(options: argparse.Namespace, data: Path | None) -> Iterator[Claim]:
    """All that is asked for."""
    for size in options.sizes:
        for objective in TARGETS:
            yield from compared(size, objective, data, options.tokenizer, options.steps, options.rounds)


def main() -> None:
    """Compare, time and report."""
    root = Path(__file__).resolve().parent.parent
    shared = Path(os.environ.get("ETTIN_SHARED", root.parent / "shared"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with glue/; default: in ETTIN_SHARED, else made up")
    parser.add_argument("--tokenizer", type=Path, default=shared / "tokenizers" / "ettin_encoder_tokenizer.json")
    parser.add_argument("--sizes", nargs="+", default=["17m"])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="17M, four steps, one round")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not options.tokenizer.is_file():
        sys.exit(f"{options.tokenizer}: no such file; give a tokenizer.json of 50,368 ids with --tokenizer")
    if options.quick:
        options.sizes, options.steps, options.rounds = ["17m"], 4, 1
    set_verbosity_error()  # that a classifier is new is known
    data = options.data or (shared / "evaluation" if (shared / "evaluation").is_dir() else None)
    show(list(claims(options, data)), options.json)


if __name__ == "__main__":
    main()
