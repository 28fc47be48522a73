"""Every random decision of the data side: one keyed stream a purpose, all of Philox-4x32-10."""

from __future__ import annotations

import enum

from megatron_ettin import _native
from megatron_ettin.config.run import StageName

STAGE_NUMBERS: dict[StageName, int] = {"pretrain": 0, "extension": 1, "decay": 2, "cross": 3}
"""What a stage is called in a counter; part of the file format of past runs, so never renumbered."""

Key = tuple[int, int]
"""A Philox key: two 32-bit words."""

FIXED_SEED = 0x657474696E
"""Key of what must not depend on a run's seed: the held-out split and its masks, the partial passes of a mixture."""


class Stream(enum.IntEnum):
    """The purposes; the last word of the counter, so that no two streams share a number."""

    ORDER = 1
    PARTIAL_PASS = 2
    CHOICE = 3
    REPLACEMENT = 4
    HELD_OUT_SPLIT = 5
    HELD_OUT_ORDER = 6
    HELD_OUT_CHOICE = 7
    HELD_OUT_REPLACEMENT = 8


def words(seed: int, stream: Stream, first: int = 0, second: int = 0, third: int = 0) -> tuple[int, int, int, int]:
    """Four 32-bit words that belong to a seed, a purpose and up to three numbers below 2^32."""
    low, high = seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF
    a, b, c, d = _native.philox([first, second, third, int(stream)], [low, high])
    return a, b, c, d


def stream_key(seed: int, stream: Stream, stage: int, source: int) -> Key:
    """The key of the draws of one source in one stage."""
    first, second, _, _ = words(seed, stream, stage, source)
    return first, second


def permutation_keys(seed: int, stream: Stream, first: int, second: int) -> list[int]:
    """The eight round keys of a permutation."""
    return [*words(seed, stream, first, second, 0), *words(seed, stream, first, second, 1)]
