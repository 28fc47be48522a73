"""What stays of fine-tunings on disk: a file each, written when it is finished."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluate.glue.settings import Setting
from megatron_ettin.evaluate.glue.tasks import Task
from megatron_ettin.evaluate.suites.suite import Facts
from megatron_ettin.publish import publish_file, write_atomically
from megatron_ettin.typed_json import parse_json

FOLDER = "fine_tunings"
"""Below the folder of results."""


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """One fine-tuning of a model."""

    task: Task
    setting: Setting
    seed: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What is kept of it."""

    predictions: dict[str, list[float]]
    """Split -> the class, or similarity, of each example."""
    steps: int
    loss: float
    """Mean of the last epoch."""
    diverged_at: int | None
    """The step whose loss was no number; predictions are then all 0."""
    cut: int
    """Texts that were cut to the longest one."""
    training_examples: int


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one fine-tuning of one model is kept; another identity has other files."""

    outcome: Path
    weights: Path
    """Of the body, where others begin with it."""

    @classmethod
    def of(cls, folder: Path, model: str, tuning: FineTuning, identity: Facts) -> Place:
        """Below the folder of results."""
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
        words = (model, tuning.task.name, str(tuning.setting), f"seed={tuning.seed}", digest)
        name = "--".join(re.sub(r"[^\w.,=+-]", "_", word) for word in words)
        return cls(outcome=folder / FOLDER / f"{name}.json", weights=folder / FOLDER / f"{name}.safetensors")

    def write(self, identity: Facts, outcome: Outcome, body: Mapping[str, Tensor] | None) -> None:
        """Keep it; the outcome comes last."""
        if body is not None:
            self.weights.parent.mkdir(parents=True, exist_ok=True)
            with publish_file(self.weights) as path:
                save_file(dict(body), path)
        content = {"identity": identity, "outcome": asdict(outcome)}
        write_atomically(self.outcome, json.dumps(content, allow_nan=False) + "\n")

    def read(self) -> Outcome:
        """What was kept. Raises ConfigError."""
        try:
            return Outcome(**parse_json(self.outcome.read_text(encoding="utf-8"))["outcome"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"{self.outcome} is no outcome of a fine-tuning: {error}; remove it, and it is done again"
            ) from error
