"""The numbers of a step, added over all ranks in one collective and read by the host once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from megatron_ettin.batch import DIGEST_MODULUS
from megatron_ettin.parallel.device import to_device
from megatron_ettin.train.signals import SIGNALS

if TYPE_CHECKING:
    from megatron_ettin.parallel.groups import Groups

DIGEST_BITS = 16
DIGEST_PARTS = 4
"""A 64-bit digest travels as four parts in float64: sums over up to 2**37 rows stay exact."""


@dataclass(frozen=True, kw_only=True)
class Totals:
    """The numbers of one step over all ranks; equal on every rank."""

    loss: float
    """Mean loss over the labels of the step, in nats; 0 when there are none."""
    labels: int
    """Labels of the step."""
    tokens: int
    """Tokens seen."""
    flops: float
    """Training FLOPs of the step, exact for the lengths of its pieces."""
    digest: int
    """Digest of the rows: sum of the rows' digests modulo 2**64, whatever rank computed them."""
    gradient_norm: float
    """Norm of the gradient of the mean loss."""
    stop: int
    """The highest signal number any rank has received; 0: none."""
    save: bool
    """The clock of the first rank asks for a checkpoint."""
    saved: bool
    """The save in the background is over on the first rank, well or not."""
    source_loss: tuple[float, ...]
    """Mean loss of each source of the mixture; nan where the step had no label of it."""
    source_labels: tuple[int, ...]
    """Labels of each source."""
    kind_loss: tuple[float, ...] = ()
    """Mean loss of each kind of rows, where a run mixes them; nan where the step had no label of it."""

    @property
    def finite(self) -> bool:
        """Whether the step may change the weights. The numbers are equal on all ranks, so all decide alike."""
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)


@dataclass(frozen=True, kw_only=True)
class Local:
    """What one rank knows about a step before the numbers are added."""

    source_sums: Tensor
    """Loss sums and label counts for each source on this rank, [sources, 2], float64; 0 off the last pipeline stage."""
    kind_sums: Tensor
    """The same for each kind of rows that the run mixes, [kinds, 2]; without any [0, 2]."""
    square_norm: Tensor
    """Part of the squared gradient norm, shape [], float64."""
    tokens: int
    """Tokens of this data rank's rows."""
    flops: float
    """Training FLOPs of this data rank's rows."""
    digest: int
    """Digest of this data rank's rows."""
    stop: int
    """Number of the signal received, or 0."""
    save: bool
    """The clock asks for a checkpoint."""
    saved: bool
    """The save in the background is over here."""


def means(sums: Sequence[float], counts: Sequence[float]) -> tuple[float, ...]:
    """Mean of each group; nan of an empty one."""
    return tuple(total / count if count else math.nan for total, count in zip(sums, counts, strict=True))


def add_up(local: Local, groups: Groups) -> Totals:
    """Add the ranks' numbers. One all-reduce over all ranks and one wait of the host for the device."""
    sources, kinds = local.source_sums.shape[0], local.kind_sums.shape[0]
    counted = float(all(axis.is_first for axis in (groups.tensor, groups.context, groups.pipeline)))
    parts = [float((local.digest >> (DIGEST_BITS * part)) & (2**DIGEST_BITS - 1)) for part in range(DIGEST_PARTS)]
    # by one of those that share the rows
    numbers = [counted * number for number in (local.tokens, local.flops, *parts)]
    numbers += [float(flag and groups.world.is_first) for flag in (local.save, local.saved)]
    numbers += [float(local.stop == number) for number in SIGNALS]
    host = to_device(torch.tensor(numbers, dtype=torch.float64), local.square_norm.device)
    losses = torch.cat([local.source_sums, local.kind_sums]).flatten() * float(groups.tensor.is_first)
    vector = torch.cat([losses, local.square_norm.reshape(1), host])
    if groups.world.size > 1:
        torch.distributed.all_reduce(vector)
    summed: list[float] = vector.tolist()
    sums, counts = summed[0 : 2 * sources : 2], summed[1 : 2 * sources : 2]
    of_kinds, (square_norm, tokens, flops, *rest) = summed[2 * sources :][: 2 * kinds], summed[2 * (sources + kinds) :]
    digest, (saves, saved, *stops) = rest[:DIGEST_PARTS], rest[DIGEST_PARTS:]
    labels = sum(counts)
    return Totals(
        loss=sum(sums) / labels if labels else 0.0,
        labels=int(labels),
        tokens=int(tokens),
        flops=flops,
        digest=sum(int(part) << (DIGEST_BITS * index) for index, part in enumerate(digest)) % DIGEST_MODULUS,
        gradient_norm=math.sqrt(square_norm) if square_norm >= 0 else math.nan,
        stop=next((int(number) for number, flag in zip(SIGNALS, stops, strict=True) if flag), 0),
        save=saves > 0,
        saved=saved > 0,
        source_loss=means(sums, counts),
        source_labels=tuple(int(count) for count in counts),
        kind_loss=means(of_kinds[0::2], of_kinds[1::2]),
    )
