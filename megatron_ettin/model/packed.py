"""The rows of a micro-batch as one stream of segments, and what attention derives from it, each computed once."""

# T tokens of this rank's slice of the stream, S segments, D head size

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor

from megatron_ettin.model.pattern import Reach
from megatron_ettin.parallel.device import to_device

Derived = TypeVar("Derived")


@dataclass(frozen=True, kw_only=True)
class Span:
    """This rank's queries and the keys that they may see, cut into segments, as variable-length kernels take them."""

    queries_S: Tensor
    """Bounds of the segments among the queries, int32."""
    keys_S: Tensor
    """Bounds of the same segments among the keys, int32."""
    most_queries: int
    """Queries of the longest segment."""
    most_keys: int
    """Keys of the longest segment."""
    first_key: int
    """First token of the stream whose key is needed."""
    last_key: int
    """One behind the last."""
    empty_queries: int
    """Queries behind this rank's own that stand in for those of other ranks."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The positions of this rank's slice whose hidden states are needed behind the last layer."""

    positions_L: Tensor
    """Ascending, int64."""
    bounds: tuple[int, ...]
    """Bounds of the stream's segments among these positions, on the host, S + 1 numbers. Of a segment that looks to the
    left only these are this rank's first, side by side."""


@dataclass(kw_only=True)
class PackedRows:
    """The segments of a micro-batch as attention needs them on this rank.

    The stream is all rows of the micro-batch end to end. Under context parallelism this rank holds the
    tokens [first_token, first_token + T) of it.
    """

    cu_seqlens: tuple[int, ...]
    """Bounds of the segments in the whole stream, on the host, S + 1 numbers."""
    positions_T: Tensor
    """Position of each token of this rank in its segment, int64."""
    first_token: int
    """First token of the stream that this rank holds."""
    causal_S: tuple[bool, ...] = ()
    """Whether a segment looks to the left only, in a run with rows of both kinds; empty: all are alike."""
    first_place: int = 0
    """Place of the stream's first token among all tokens of the step: row of the step * row length."""
    dropout_key: int = 0
    """Key of the dropout, of (seed, stage)."""
    step: int = 0
    """Number of the step."""
    wanted: Wanted | None = None
    """What the last layer may restrict itself to; None: everything is asked for."""
    memo: dict[Any, Any] = field(default_factory=dict, repr=False)
    """What has been derived so far."""

    @property
    def length(self) -> int:
        """Tokens of this rank, T."""
        return int(self.positions_T.shape[0])

    @property
    def places_T(self) -> Tensor:
        """Place of each token of this rank among all tokens of the step, int64."""
        first, device = self.first_place + self.first_token, self.positions_T.device
        return self.derived("places", lambda: torch.arange(first, first + self.length, device=device))

    def derived(self, key: Any, compute: Callable[[], Derived]) -> Derived:
        """The value for the key, computed on first use: layers of one kind share it."""
        if key not in self.memo:
            self.memo[key] = compute()
        value: Derived = self.memo[key]
        return value

    def rope(self, base: float, head_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosine and sine tables of a rotary base, each [T, D/2]."""
        return self.derived(("rope", base, dtype), lambda: rope_tables(self.positions_T, base, head_size, dtype))

    def span(self, reach: Reach, wanted: Wanted | None = None) -> Span:
        """Queries and keys of this rank for a variable-length kernel that aligns both at a segment's end.

        `wanted`: only these queries, for an unbounded reach.
        """
        if wanted is None:
            return self.derived(("span", reach), lambda: self._span(reach))
        whole = self.span(reach)
        queries = [high - low for low, high in self.of_mine(wanted.bounds)]
        return replace(whole, queries_S=self._bounds(queries), most_queries=max(queries))

    def causal_of_mine(self) -> list[bool]:
        """Whether each of the segments that this rank holds some of looks to the left only."""
        stop, flags = self.first_token + self.length, self.causal_S or (False,) * (len(self.cu_seqlens) - 1)
        segments = zip(pairwise(self.cu_seqlens), flags, strict=True)
        return [flag for (low, high), flag in segments if low < stop and high > self.first_token]

    def of_mine(self, bounds: tuple[int, ...]) -> list[tuple[int, int]]:
        """Of bounds of all segments the pairs of those that this rank holds some of."""
        stop = self.first_token + self.length
        segments = zip(pairwise(self.cu_seqlens), pairwise(bounds), strict=True)
        return [pair for (low, high), pair in segments if low < stop and high > self.first_token]

    def _span(self, reach: Reach) -> Span:
        stop = self.first_token + self.length
        pieces = self.of_mine(self.cu_seqlens)
        left, right = reach.window
        first = pieces[0][0] if left < 0 else max(pieces[0][0], self.first_token - left)
        last = pieces[-1][1] if right < 0 else min(pieces[-1][1], stop + right)
        # Without any bound there is nothing to align, and no query is needed beyond this rank's own.
        end = stop if left < 0 and right < 0 else last
        queries = [min(high, end) - max(low, self.first_token) for low, high in pieces]
        keys = [min(high, last) - max(low, first) for low, high in pieces]
        return self.span_of(queries, keys, first, end - stop)

    def span_of(self, queries: list[int], keys: list[int], first_key: int, empty_queries: int) -> Span:
        """A span of segments with so many queries and keys."""
        return Span(
            queries_S=self._bounds(queries),
            keys_S=self._bounds(keys),
            most_queries=max(queries),
            most_keys=max(keys),
            first_key=first_key,
            last_key=first_key + sum(keys),
            empty_queries=empty_queries,
        )

    def _bounds(self, lengths: list[int]) -> Tensor:
        bounds = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        return to_device(bounds, self.positions_T.device)


def rope_tables(positions_T: Tensor, base: float, head_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine of position * base^(-2i / D), computed in fp32 (fp64 for a double model), each [T, D/2]."""
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    exponent = torch.arange(0, head_size, 2, dtype=torch.int64, device=positions_T.device).to(exact) / head_size
    frequency = 1.0 / (base**exponent)
    angle = positions_T.to(exact)[:, None] * frequency[None, :]
    return angle.cos().to(dtype), angle.sin().to(dtype)
