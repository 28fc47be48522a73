"""A batch on its device: this rank's slice of the stream, with the labels that fall into it."""

# B rows, T tokens of this rank, L labels of this rank, S segments

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from megatron_ettin.batch import Batch
from megatron_ettin.errors import ConfigError
from megatron_ettin.model.packed import PackedRows, Wanted
from megatron_ettin.parallel.device import to_device
from megatron_ettin.parallel.groups import Groups


@dataclass(frozen=True, kw_only=True)
class DeviceBatch:
    """One micro-batch as the model takes it."""

    input_ids_T: Tensor
    """Token ids of this rank's slice, int64."""
    packed: PackedRows
    """Segments, positions and what attention derives from them."""
    label_positions_L: Tensor
    """Positions in this rank's slice whose hidden state predicts, int64, ascending."""
    label_ids_L: Tensor
    """The ids to predict there, int64."""

    @property
    def labels(self) -> int:
        """Labels in this rank's slice."""
        return int(self.label_ids_L.shape[0])

    @classmethod
    def from_batch(cls, batch: Batch, groups: Groups, dropout_key: int = 0, step: int = 0) -> DeviceBatch:
        """Move a batch to the device of this rank; under context parallelism, only this rank's part of the stream.

        `dropout_key` is of (seed, stage): with the step's number and the places of the rows it keys the dropout.
        """
        device = groups.device.torch_device
        first_token, length = context_slice(batch.rows * batch.row_length, groups)
        first, last = np.searchsorted(batch.label_positions_L, [first_token, first_token + length])
        bounds = np.searchsorted(batch.label_positions_L, batch.cu_seqlens_S).clip(first, last) - first
        causal_S = batch.causal_S
        if causal_S is not None:
            require_first_labels(batch, causal_S)
        label_positions_L = _to(device, batch.label_positions_L[first:last] - first_token)
        ids = batch.input_ids_BT.reshape(-1)[first_token : first_token + length]
        positions = batch.positions_BT.reshape(-1)[first_token : first_token + length]
        return cls(
            input_ids_T=_to(device, ids),
            packed=PackedRows(
                cu_seqlens=tuple(batch.cu_seqlens_S.tolist()),
                positions_T=_to(device, positions),
                first_token=first_token,
                causal_S=() if causal_S is None else tuple(causal_S.tolist()),
                first_place=batch.first_row * batch.row_length,
                dropout_key=dropout_key,
                step=step,
                wanted=Wanted(positions_L=label_positions_L, bounds=tuple(bounds.tolist())),
            ),
            label_positions_L=label_positions_L,
            label_ids_L=_to(device, batch.label_ids_L[first:last]),
        )


def require_first_labels(batch: Batch, causal_S: np.ndarray) -> None:
    """Raise ValueError unless segments that look to the left have their labels first, side by side.

    What is computed at labels alone would else take one token for another.
    """
    starts, counts = batch.cu_seqlens_S[:-1], np.diff(np.searchsorted(batch.label_positions_L, batch.cu_seqlens_S))
    expected = np.arange(len(batch.label_positions_L)) - np.repeat(np.cumsum(counts) - counts - starts, counts)
    if (expected != batch.label_positions_L)[np.repeat(causal_S, counts)].any():
        raise ValueError("the labels of a segment that looks to the left must stand at its first positions")


def context_slice(tokens: int, groups: Groups) -> tuple[int, int]:
    """(first token, number of tokens) of this rank in a stream of that many tokens."""
    ranks = groups.context.size * (groups.tensor.size if groups.tensor.size > 1 else 1)
    if tokens % ranks:
        raise ConfigError(
            f"{tokens} tokens of a micro-batch do not divide by context x tensor = {ranks}; "
            "change data.row_length, layout.micro_batch_rows or layout.context"
        )
    length = tokens // groups.context.size
    return groups.context.rank * length, length


def _to(device: torch.device, array: np.ndarray) -> Tensor:
    return to_device(torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)), device)
