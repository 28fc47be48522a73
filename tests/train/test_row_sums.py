"""Losses of labels become sums of rows, whatever slice of the stream a rank holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from megatron_ettin.batch import empty_batch
from megatron_ettin.train.step import _sums, label_bounds
from tests.model.inputs import batch_of

PIECES = (200, 12, 300)


@pytest.mark.parametrize("slices", [1, 2, 4])
def test_sums_of_rows_are_those_of_their_labels(slices: int) -> None:
    batch = batch_of(PIECES, 250)
    rows = batch.label_positions_L // batch.row_length
    losses = torch.rand(batch.labels, generator=torch.Generator().manual_seed(3), requires_grad=True)
    expected = np.zeros((batch.rows, 2))
    np.add.at(expected, rows, np.stack([losses.detach().double().numpy(), np.ones(batch.labels)], axis=1))
    length, found = batch.rows * batch.row_length // slices, np.zeros((batch.rows, 2))
    for first in range(0, slices * length, length):
        mine = (batch.label_positions_L >= first) & (batch.label_positions_L < first + length)
        part = losses[torch.from_numpy(mine)]
        total, count, sums = _sums(label_bounds(batch, first, int(mine.sum())), part)
        assert total.requires_grad and not sums.requires_grad
        assert float(total.detach()) == pytest.approx(float(part.detach().sum())) and int(count) == mine.sum()
        found += sums.numpy()
    assert np.array_equal(found, expected), "fp32 numbers are added without rounding in fp64"


def test_rows_without_labels_have_sums_of_nothing() -> None:
    batch = empty_batch(3, 16, 0)
    _, count, sums = _sums(label_bounds(batch, 0, 0), torch.zeros(0))
    assert int(count) == 0 and torch.equal(sums, torch.zeros(3, 2, dtype=torch.float64))
