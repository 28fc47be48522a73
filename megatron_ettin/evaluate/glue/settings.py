"""With which settings a task is fine-tuned: one, a quick one, or the published sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import TYPE_CHECKING

from megatron_ettin.errors import ConfigError, suggest
from megatron_ettin.evaluate.suites.suite import Facts

if TYPE_CHECKING:
    from megatron_ettin.evaluate.glue.tasks import Task

QUICK_EXAMPLES = 3_200
"""Training examples of the quick budget."""

RATES = (1e-5, 3e-5, 5e-5, 8e-5, 1e-4)
DECAYS = (1e-6, 5e-6, 8e-6, 1e-5)
BATCHES = (16, 32)
"""The published sweep, in all combinations with the epochs of a task."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a sweep varies."""

    rate: float
    """Peak of the learning rate."""
    decay: float
    """Share of a weight that a step at the peak rate takes away, whatever that rate is."""
    batch: int
    """Examples per step."""
    epochs: int

    def __str__(self) -> str:
        return f"rate={self.rate:g},decay={self.decay:g},batch={self.batch},epochs={self.epochs}"

    @classmethod
    def parse(cls, text: str) -> Setting:
        """From the form of ``str``, in any order. Raises ConfigError."""
        kinds = {"rate": float, "decay": float, "batch": int, "epochs": int}
        found: dict[str, float] = {}
        for part in text.split(","):
            name, _, value = (word.strip() for word in part.partition("="))
            if name not in kinds:
                raise ConfigError(f"--setting: {name!r} is no part of a setting{suggest(name, list(kinds))}")
            try:
                found[name] = kinds[name](value)
            except ValueError as error:
                raise ConfigError(f"--setting: {name}={value} is no number; give {name}=NUMBER") from error
        missing = [name for name in kinds if name not in found]
        if missing:
            raise ConfigError(
                f"--setting lacks {', '.join(missing)}; for example rate=8e-5,decay=1e-6,batch=32,epochs=2"
            )
        if not (found["rate"] > 0 and 0 <= found["decay"] < 1 and found["batch"] >= 1 and found["epochs"] >= 1):
            raise ConfigError(f"--setting {text}: rate, batch and epochs are above 0, and decay is a share below 1")
        return cls(**found)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Settings of every task, and how much of its training split is read."""

    name: str
    """one, quick, sweep, or setting for a user's own."""
    own: Setting | None = None
    """The user's."""

    @classmethod
    def parse(cls, name: str, setting: str) -> Budget:
        """From the command line. Raises ConfigError for both at once."""
        if not setting:
            return cls(name=name)
        if name != "one":
            raise ConfigError(f"--setting and --budget {name} both say how tasks are fine-tuned; give one of them")
        return cls(name="setting", own=Setting.parse(setting))

    @property
    def most_examples(self) -> int | None:
        """Training examples that are read; None: all."""
        return QUICK_EXAMPLES if self.name == "quick" else None

    def settings(self, task: Task) -> Sequence[Setting]:
        """Those among which the best on the validation split is taken."""
        if self.own is not None:
            return [self.own]
        if self.name == "quick":
            return [Setting(rate=8e-5, decay=1e-6, batch=16, epochs=1)]
        if self.name == "sweep":
            every = product(RATES, DECAYS, BATCHES, task.sweep_epochs)
            return [Setting(rate=rate, decay=decay, batch=batch, epochs=epochs) for rate, decay, batch, epochs in every]
        return [task.setting]

    def facts(self, task: Task) -> Facts:
        """For the rules of a task."""
        settings = self.settings(task)
        if len(settings) == 1:
            return {"setting": str(settings[0]), "training_examples": self.most_examples or "all"}
        values = {field.name: sorted({getattr(one, field.name) for one in settings}) for field in fields(Setting)}
        chosen = f"the best of {len(settings)} on the validation split with the first seed"
        return {"sweep": values, "setting": chosen, "training_examples": "all"}
