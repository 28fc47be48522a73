"""Tensors that a cut between data ranks goes through: where their parts lie, and what a save needs for them."""

from __future__ import annotations

import numpy as np
import pytest

from megatron_ettin.config.codec import with_fields
from megatron_ettin.config.recipes import recipe
from megatron_ettin.config.run import RunConfig
from megatron_ettin.cost.buckets import buckets, save_memory
from megatron_ettin.cost.count import parameters
from megatron_ettin.cost.cuts import parts_of, storing_rank
from megatron_ettin.cost.disk import checkpoint_bytes


def run_of(size: str, data: int, **fields: object) -> RunConfig:
    return with_fields(recipe(size, "mlm", "pretrain"), {"layout.data": data, **fields})


@pytest.mark.parametrize("share", [1, 5, 7, 64])
@pytest.mark.parametrize("first", [0, 3, 7, 14])
@pytest.mark.parametrize("length", [1, 6, 7, 40])
def test_parts_are_what_lies_on_each_rank_element_by_element(share: int, first: int, length: int) -> None:
    owners = np.arange(first, first + length) // share
    parts = parts_of(first, first + length, share)
    found = np.concatenate([np.full(part.stop - part.start, part.rank) for part in parts])
    assert np.array_equal(found, owners) and [part.start for part in parts][0] == 0
    assert storing_rank(parts) == np.bincount(owners).argmax()


@pytest.mark.parametrize("size", ["17m", "1b"])
@pytest.mark.parametrize("overlap", [True, False])
def test_buckets_hold_every_weight(size: str, overlap: bool) -> None:
    found = buckets(run_of(size, 8, **{"layout.choose_overlap": overlap}), 8)
    assert sum(map(sum, found)) == parameters(recipe(size, "mlm", "pretrain").model).total
    assert (len(found) > 1) == (overlap and size == "1b")


@pytest.mark.parametrize("data", [1, 2, 8, 64])
@pytest.mark.parametrize("overlap", [True, False])
def test_no_rank_puts_the_whole_state_together(data: int, overlap: bool) -> None:
    """The state of 1B takes 12 GB, on each rank where it is gathered by all."""
    run = run_of("1b", data, **{"layout.choose_overlap": overlap})
    whole = 12 * parameters(run.model).total
    found = save_memory(run)
    assert found.joined < 0.2 * whole and (found.joined == 0) == (data == 1)
    assert found.copies == 0
    copied = save_memory(with_fields(run, {"checkpoint.background": True}))
    assert copied.copies == checkpoint_bytes(run) // data
