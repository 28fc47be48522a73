"""Trained embedding models: made once, kept, gone on with, and shared by the processes of one output folder."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from megatron_ettin.errors import CheckpointError
from megatron_ettin.evaluate.generative.engines import longest_text
from megatron_ettin.evaluate.retrieval.contrast import load, ranked_rightly, train
from megatron_ettin.evaluate.retrieval.folder import write_trained, write_untrained
from megatron_ettin.evaluate.retrieval.settings import most_triplets
from megatron_ettin.evaluate.retrieval.triplets import Triplets, read_triplets, triplet_facts
from megatron_ettin.evaluate.suites.subjects import Subject
from megatron_ettin.evaluate.suites.suite import Facts, Options
from megatron_ettin.export.tokenizer_files import write_json
from megatron_ettin.ownership import owned
from megatron_ettin.publish import publish
from megatron_ettin.typed_json import parse_json

FACTS = "contrast.json"
"""In each folder: what decided the weights, and how many held-out triplets they rank rightly."""
LIBRARIES = ("sentence-transformers", "transformers", "torch")


@dataclass(frozen=True)
class EmbeddingModels:
    """The embedding models of subjects, one a learning rate and seed."""

    options: Options
    keep: Path
    """Where they lie."""
    say: Callable[[str], None] = print

    @cached_property
    def _triplets(self) -> Triplets:
        most = most_triplets(self.options.budget, self.options.limit)
        return read_triplets(self.options.local, most)

    @cached_property
    def _triplet_facts(self) -> Facts:
        return triplet_facts(self.options.local)

    def chosen(self, subject: Subject) -> list[Path]:
        """One folder a seed, at the rate that ranks most held-out triplets rightly; what is not there is trained."""
        by_rate = {rate: self.folder(subject, rate, 0) for rate in self.options.retrieval.rates(self.options.budget)}
        best = max(by_rate, key=lambda rate: facts_of(by_rate[rate])["ranked_rightly"])
        return [by_rate[best], *(self.folder(subject, best, seed) for seed in range(1, self.options.seeds))]

    def folder(self, subject: Subject, rate: float, seed: int) -> Path:
        """The embedding model of one training, which another process may be at: then its end is waited for."""
        identity = self.identity(subject, rate, seed)
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        name = re.sub(r"[^\w.+-]", "_", subject.name)
        folder = self.keep / f"{name}-{digest}"
        if folder.exists():
            return folder
        self.keep.mkdir(parents=True, exist_ok=True)
        with owned(self.keep, folder.name, "ettin evaluate", wait=True, remove=True, say=self.say):
            if not folder.exists():
                self._make(folder, subject, rate, seed, identity)
        return folder

    def identity(self, subject: Subject, rate: float, seed: int) -> Facts:
        """What decides the weights."""
        return {
            "fingerprint": subject.fingerprint, "rules": self.options.retrieval.rules(), "learning_rate": rate,
            "seed": seed, "triplets": self._triplet_facts,
            "most_triplets": most_triplets(self.options.budget, self.options.limit),
            "libraries": {name: metadata.version(name) for name in LIBRARIES},
        }  # fmt: skip

    def _make(self, folder: Path, subject: Subject, rate: float, seed: int, identity: Facts) -> None:
        count = len(self._triplets.train)
        self.say(f"{subject.name}, retrieval: training on {count:,} triplets, rate {rate:g}, seed {seed}")
        work = folder.with_name(f"{folder.name}.training")
        with tempfile.TemporaryDirectory(prefix="ettin-embedding-") as temporary:
            untrained = Path(temporary)
            pooling = self.options.retrieval.pooling_of(causal=subject.causal)
            write_untrained(untrained, subject, pooling, longest(subject.folder))
            model = load(untrained)
            train(model, self._triplets, self.options.retrieval, rate, seed, work)
            model.eval()
            held_out = self._triplets.held_out
            facts = {
                **identity, "ranked_rightly": ranked_rightly(model, held_out), "held_out": len(held_out),
                "trained_on": len(self._triplets.train),
            }  # fmt: skip
            with publish(folder) as staging:
                write_trained(staging, untrained, model)
                write_json(staging / FACTS, facts)
        shutil.rmtree(work, ignore_errors=True)


def facts_of(folder: Path) -> dict[str, Any]:
    """The facts beside trained weights. Raises CheckpointError."""
    try:
        facts = parse_json((folder / FACTS).read_text(encoding="utf-8"))
        return {name: int(facts[name]) for name in ("ranked_rightly", "held_out", "trained_on")} | {
            "learning_rate": float(facts["learning_rate"])
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder / FACTS} is damaged ({error}); remove the folder, and the model is trained again"
        ) from error


@functools.cache
def longest(folder: Path) -> int:
    """Tokens of the longest text of a model: its positions, or fewer where its tokenizer says so."""
    from transformers import AutoConfig, AutoTokenizer

    positions = longest_text(AutoConfig.from_pretrained(folder, trust_remote_code=False))
    return min(positions, int(AutoTokenizer.from_pretrained(folder, trust_remote_code=False).model_max_length))
