"""The rows of a micro-batch as one stream of segments, and what attention derives from it, each computed once."""

# T tokens of this rank's slice of the stream, G tokens of the whole stream, S segments, D head size
# C query blocks, Q queries of a block, K keys of a block

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


@dataclass(frozen=True)
class Tile:
    """Queries that see a range of keys, without a mask. Positions count in the slice of their own tensor."""

    queries: tuple[int, int]
    keys: tuple[int, int]
    causal: bool
    """Query i of the tile sees keys 0 to i of the tile: both ranges then start at the same token."""


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
    """Bounds of the stream's segments among these positions, on the host, S + 1 numbers."""


@dataclass(kw_only=True)
class PackedRows:
    """The segments of a micro-batch as attention needs them on this rank.

    The stream is all rows of the micro-batch end to end, length G. Under context parallelism this rank holds the
    tokens [start, start + T) of it.
    """

    cu_seqlens: tuple[int, ...]
    """Bounds of the segments in the whole stream, on the host, S + 1 numbers."""
    positions_T: Tensor
    """Position of each token of this rank in its segment, int64."""
    segments_G: Tensor
    """Segment number of each token of the whole stream, int32."""
    start: int
    """First token of the stream that this rank holds."""
    dropout_seed: int = 0
    """Key of this micro-batch's dropout."""
    wanted: Wanted | None = None
    """What the last layer may restrict itself to; None: everything is asked for."""
    memo: dict[Any, Any] = field(default_factory=dict, repr=False)
    """What has been derived so far."""

    @property
    def length(self) -> int:
        """Tokens of this rank, T."""
        return int(self.positions_T.shape[0])

    @property
    def stream_length(self) -> int:
        """Tokens of the whole stream, G."""
        return self.cu_seqlens[-1]

    def derived(self, key: Any, compute: Callable[[], Derived]) -> Derived:
        """The value for the key, computed on first use: layers of one kind share it."""
        if key not in self.memo:
            self.memo[key] = compute()
        value: Derived = self.memo[key]
        return value

    def rope(self, base: float, head_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosine and sine tables of a rotary base, each [T, D/2]."""
        return self.derived(("rope", base, dtype), lambda: rope_tables(self.positions_T, base, head_size, dtype))

    def tiles(self, reach: Reach) -> tuple[Tile, ...]:
        """Queries of this rank against keys of the whole stream for an unbounded reach."""
        return self.derived(("tiles", reach), lambda: tuple(self._tiles(reach)))

    def _tiles(self, reach: Reach) -> list[Tile]:
        tiles = []
        stop_here = self.start + self.length
        for low, high in zip(self.cu_seqlens, self.cu_seqlens[1:], strict=False):
            first, last = max(low, self.start), min(high, stop_here)
            if first >= last:
                continue
            queries = (first - self.start, last - self.start)
            if not reach.is_causal:
                tiles.append(Tile(queries, (low, high), False))
                continue
            if low < first:
                tiles.append(Tile(queries, (low, first), False))
            tiles.append(Tile(queries, (first, last), True))
        return tiles

    def span(self, reach: Reach, wanted: Wanted | None = None) -> Span:
        """Queries and keys of this rank for a variable-length kernel that aligns both at a segment's end.

        `wanted`: only these queries, for an unbounded reach.
        """
        if wanted is None:
            return self.derived(("span", reach), lambda: self._span(reach))
        whole = self.span(reach)
        queries = [high - low for low, high in self.of_mine(wanted.bounds)]
        return replace(whole, queries_S=self._bounds(queries), most_queries=max(queries))

    def of_mine(self, bounds: tuple[int, ...]) -> list[tuple[int, int]]:
        """Of bounds of all segments the pairs of those that this rank holds some of."""
        stop = self.start + self.length
        segments = zip(pairwise(self.cu_seqlens), pairwise(bounds), strict=True)
        return [pair for (low, high), pair in segments if low < stop and high > self.start]

    def _span(self, reach: Reach) -> Span:
        stop = self.start + self.length
        pieces = self.of_mine(self.cu_seqlens)
        left, right = reach.window
        first = pieces[0][0] if left < 0 else max(pieces[0][0], self.start - left)
        last = pieces[-1][1] if right < 0 else min(pieces[-1][1], stop + right)
        # Without any bound there is nothing to align, and no query is needed beyond this rank's own.
        end = stop if left < 0 and right < 0 else last
        queries = [min(high, end) - max(low, self.start) for low, high in pieces]
        keys = [min(high, last) - max(low, first) for low, high in pieces]
        return Span(
            queries_S=self._bounds(queries),
            keys_S=self._bounds(keys),
            most_queries=max(queries),
            most_keys=max(keys),
            first_key=first,
            last_key=last,
            empty_queries=end - stop,
        )

    def _bounds(self, lengths: list[int]) -> Tensor:
        bounds = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        return to_device(bounds, self.positions_T.device)

    def block_mask(self, reach: Reach, block: int, dtype: torch.dtype) -> Tensor:
        """What each block of queries may see of its own keys and their neighbours: additive [C, 1, Q, K], 0 or -inf.

        Key k of block c is token c * Q + k - left of this rank. Costs T * (Q + left + right) numbers, never T * T.
        """
        return self.derived(("mask", reach, block, dtype), lambda: self._block_mask(reach, block, dtype))

    def _block_mask(self, reach: Reach, block: int, dtype: torch.dtype) -> Tensor:
        left, right = reach.window
        blocks = -(-self.length // block)
        keys = block + left + right
        segments = self._padded_segments(left, blocks * block + right)
        query_CQ = segments[left : left + blocks * block].view(blocks, block)
        key_CK = segments.as_strided((blocks, keys), (block, 1))
        offset_QK = torch.arange(keys, device=segments.device) - torch.arange(block, device=segments.device)[:, None]
        seen_CQK = (query_CQ[:, :, None] == key_CK[:, None, :]) & (offset_QK >= 0) & (offset_QK <= left + right)
        mask = torch.zeros(seen_CQK.shape, dtype=dtype, device=segments.device)
        return mask.masked_fill_(~seen_CQK, float("-inf"))[:, None]

    def _padded_segments(self, left: int, after: int) -> Tensor:
        """Segment numbers of the tokens [start - left, start + after); outside the stream -1, which sees itself."""
        low, high = self.start - left, self.start + after
        padded = self.segments_G.new_full((high - low,), -1)
        first, last = max(low, 0), min(high, self.stream_length)
        padded[first - low : last - low] = self.segments_G[first:last]
        return padded


def rope_tables(positions_T: Tensor, base: float, head_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine of position * base^(-2i / D), computed in fp32 (fp64 for a double model), each [T, D/2]."""
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    exponent = torch.arange(0, head_size, 2, dtype=torch.int64, device=positions_T.device).to(exact) / head_size
    frequency = 1.0 / (base**exponent)
    angle = positions_T.to(exact)[:, None] * frequency[None, :]
    return angle.cos().to(dtype), angle.sin().to(dtype)
