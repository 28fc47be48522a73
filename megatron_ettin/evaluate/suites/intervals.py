"""How far a score may be from that of unlimited examples."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import numpy as np
from numpy.typing import NDArray

Z = 1.959964
"""Two-sided 95 % of the normal distribution; every interval here is one of 95 %."""
LEVEL = 0.95


def wilson(share: float, examples: int) -> tuple[float, float]:
    """Wilson's interval of a share of ``examples``; unlike the normal one it is right near 0 and 1."""
    if examples <= 0:
        raise ValueError("a share of no examples has no interval")
    spread = Z * sqrt(share * (1 - share) / examples + Z * Z / (4 * examples * examples))
    middle = share + Z * Z / (2 * examples)
    scale = 1 + Z * Z / examples
    low, high = (middle - spread) / scale, (middle + spread) / scale
    return max(0.0, min(low, share)), min(1.0, max(high, share))  # rounding may put 0 or 1 just outside


def normal(value: float, standard_error: float) -> tuple[float, float]:
    """The interval of a mean with this standard error."""
    return value - Z * standard_error, value + Z * standard_error


def bootstrap(
    score: Callable[[NDArray[np.int64]], float], examples: int, samples: int = 1_000, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """(standard error, interval) of ``score``, which takes the indices of the examples to count, by resampling.

    Costs ``samples`` calls. The draw is a function of the seed alone.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    drawn = np.array([score(generator.integers(examples, size=examples)) for _ in range(samples)])
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(drawn.std(ddof=1)), (float(low), float(high))
