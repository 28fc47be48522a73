"""How a model is made an embedding model: what published training fixes, and what may be set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from megatron_ettin.errors import ConfigError

Pooling = Literal["mean", "lasttoken", "weightedmean"]
"""How the states of a text's tokens become one vector. The last token is the text's end token."""

SCALE = 20.0
"""Cosines are multiplied by it before the softmax: a temperature of 0.05."""
WARM_UP = 0.05
"""Share of the steps in which the rate rises; then it falls linearly to 0."""
HELD_OUT, SPLIT_SEED = 1_000, 12
"""Triplets kept from training (at most a tenth of all), and the seed that draws them."""
MOST_TRIPLETS, QUICK_TRIPLETS = 1_250_000, 16_384
"""Triplets trained on, the first after the split; the second number is that of the quick budget."""
RATE = 3e-4
"""Of the published example for 17M; another names 8e-5 for 150M. Each published model has a rate of its own."""
SWEEP = (3e-5, 8e-5, 1e-4, 3e-4, 5e-4)
"""The published sweep is not public; this one is about both published examples."""


@dataclass(frozen=True, kw_only=True)
class ContrastSettings:
    """Contrastive training for the retrieval suite; the defaults are the published ones."""

    learning_rates: tuple[float, ...] = ()
    """Peak learning rates; of several the one is scored whose model ranks most held-out triplets rightly.

    Default: 3e-4, as a published example for 17M (another has 8e-5 for 150M); --budget sweep: five about these.
    """
    pooling: Literal["published", "mean", "lasttoken", "weightedmean"] = "published"
    """From token states to a vector; published: mean for encoders, the end token for decoders."""
    batch: int = 1_024
    """Triplets of a step: each query has the positives and negatives of all others as negatives."""
    mini_batch: int = 64
    """Texts of one forward pass in training; memory depends on it, the outcome does not."""
    epochs: int = 1
    """Passes over the triplets."""
    checkpoint_steps: int = 50
    """Steps between two checkpoints, from which a stopped training goes on."""

    def __post_init__(self) -> None:
        if any(not 0 < rate < 1 for rate in self.learning_rates):
            raise ConfigError(f"retrieval.learning_rates={self.learning_rates}: give rates between 0 and 1, as 3e-4")
        for name, least in (("batch", 2), ("mini_batch", 1), ("epochs", 1), ("checkpoint_steps", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"retrieval.{name}={getattr(self, name)}: give {least} or more")

    def rates(self, budget: str) -> tuple[float, ...]:
        """The rates to try, ascending."""
        return tuple(sorted(self.learning_rates)) or (SWEEP if budget == "sweep" else (RATE,))

    def pooling_of(self, *, causal: bool) -> Pooling:
        """The pooling of a kind of model."""
        if self.pooling != "published":
            return self.pooling
        return "lasttoken" if causal else "mean"

    def rules(self) -> dict[str, Any]:
        """What decides the trained weights beside rate, seed and data, for the protocol."""
        return {
            "loss": "CachedMultipleNegativesRankingLoss", "scale": SCALE, "warm_up": WARM_UP, "prompts": "none",
            "pooling": self.pooling, "batch": self.batch, "epochs": self.epochs,
            "batches": "no duplicates, by hashes", "weights": "the last",
        }  # fmt: skip


def most_triplets(budget: str, limit: int | None) -> int:
    """Triplets that are trained on."""
    most = QUICK_TRIPLETS if budget == "quick" else MOST_TRIPLETS
    return most if limit is None else min(most, limit)
