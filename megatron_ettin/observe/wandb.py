"""Weights & Biases as a further sink, where it is asked for and installed."""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from typing import Any

from megatron_ettin.config.codec import to_dict
from megatron_ettin.config.run import RunConfig
from megatron_ettin.observe.records import Record


class WeightsAndBiases:
    """Reports every record to a project; a resumed run goes on under the same name."""

    def __init__(self, run: Path, config: RunConfig) -> None:
        wandb: Any = importlib.import_module("wandb")
        folder = str(run.resolve())
        self._run = wandb.init(
            project=config.observe.wandb,
            name=run.name,
            id=hashlib.sha256(folder.encode()).hexdigest()[:16],
            dir=folder,
            config=to_dict(config),
            resume="allow",
        )

    def write(self, record: Record) -> None:
        """Report the record's numbers at its step."""
        kind = record.get("kind", "step")
        numbers = {
            f"{kind}/{name}": value
            for name, value in record.items()
            if name not in ("kind", "step") and isinstance(value, (int, float))
        }
        self._run.log(numbers, step=record["step"])

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()
