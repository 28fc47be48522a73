"""Small runs in this process: a toy text with a rule in it, and configurations that train in seconds."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from megatron_ettin.config.codec import with_fields
from megatron_ettin.config.recipes import recipe
from megatron_ettin.observe import read_records
from megatron_ettin.run_folder import path_of
from megatron_ettin.train.run import train
from tests.twins.corpus_writer import write_corpus

WORDS, TOPICS = 60, 10
ROW = 128
TOKENS_PER_STEP = 4 * ROW


def toy_documents(documents: int = 400, shuffled: bool = False) -> list[list[int]]:
    """Each document walks in a circle through the words of one topic. Shuffled over all documents: no rule is left."""
    generator = np.random.default_rng(5)
    texts = []
    for _ in range(documents):
        length, topic, start = generator.integers(20, 120), generator.integers(TOPICS), generator.integers(WORDS)
        size = WORDS // TOPICS
        texts.append(topic * size + (start + np.arange(length)) % size)
    if shuffled:
        words = generator.permutation(np.concatenate(texts))
        texts = np.split(words, np.cumsum([len(text) for text in texts])[:-1])
    return [text.tolist() for text in texts]


def write_toy(folder: Path, **options) -> Path:
    """The toy text as a corpus; returns its prefix."""
    return write_corpus(folder / "toy", toy_documents(**options))


def config_of(corpus: Path, objective: str = "mlm", stage: str = "pretrain", steps: float = 7, **fields):
    """A small run; ``fields`` are dotted fields with ``__`` for the dot."""
    changes = {
        "data.data": str(corpus), "data.row_length": ROW, "data.piece_length": ROW, "data.held_out_share": 0.05,
        "schedule.tokens": int(steps * TOKENS_PER_STEP), "schedule.warmup_tokens": 0, "batch.rows": 4,
        "batch.warmup_tokens": 0, "compute.precision": "fp32", "checkpoint.every_minutes": 0.0,
        "checkpoint.every_tokens": 0, "layout.micro_batch_rows": 1, "observe.evaluate_rows": 16,
        "model.layers": 3, "model.hidden": 64, "model.intermediate": 96, "model.maximum_length": ROW,
    }  # fmt: skip
    if stage == "cross":
        changes |= {"schedule.decay_tokens": TOKENS_PER_STEP}
    changes |= {name.replace("__", "."): value for name, value in fields.items()}
    return with_fields(recipe("tiny", objective, stage), changes)


def no_folder(path):
    raise AssertionError(f"{path} must not be read")


def go(config, run: Path, read_huggingface=no_folder):
    """Train in this process."""
    return train(config, run, read_huggingface)


def tensor_hashes(run: Path, step: int) -> dict[str, str]:
    """Hash of each file of tensors in a checkpoint."""
    shards = path_of(run, step) / "shards"
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(shards.glob("*.distcp"))}


def state_of(run: Path, step: int) -> dict:
    return json.loads((path_of(run, step) / "state.json").read_text())["state"]


def losses(run: Path) -> list[float]:
    return [record["loss"] for record in read_records(run, "step")]
