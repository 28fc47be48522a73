"""Any number of data ranks shares any step: contiguous slices of whole micro-batches that differ by at most one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_ettin.config import codec
from megatron_ettin.config.derived import batch_sizes
from megatron_ettin.config.recipes import recipe
from megatron_ettin.config.rules import problems
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.sharing import Sharing, empty_shape, sharing_at
from megatron_ettin.errors import ConfigError


def run_of(stage: str = "pretrain", **layout: int) -> RunConfig:
    fields = {f"layout.{name}": value for name, value in layout.items()}
    return codec.with_fields(recipe("17m", "mlm", stage), fields)


def dealt(micro_batches: int, ranks: int) -> list[int]:
    """Micro-batches of each rank, one after the other given to whoever has fewest, sorted."""
    counts = [0] * ranks
    for _ in range(micro_batches):
        counts[counts.index(min(counts))] += 1
    return sorted(counts)


@given(st.integers(1, 200), st.integers(1, 80), st.integers(1, 9), st.integers(1, 4), st.booleans())
def test_slices_are_contiguous_complete_and_differ_by_at_most_one_micro_batch(parts, ranks, size, round, alike):
    shared = Sharing(parts * size, ranks=ranks, size=size, round=round, alike=alike)
    bounds = [shared.bounds(rank) for rank in range(ranks)]
    assert [bound for mine in bounds for bound in mine] == [(i * size, (i + 1) * size) for i in range(parts)]
    assert sorted(map(len, bounds)) == dealt(parts, ranks)
    counts = [shared.count(rank) for rank in range(ranks)]
    assert all(count % round == 0 and count >= max(1, len(mine)) for count, mine in zip(counts, bounds, strict=True))
    assert all(count < max(1, len(mine)) + round for count, mine in zip(counts, bounds, strict=True)) or alike
    assert shared.most == max(counts) and (not alike or set(counts) == {shared.most})
    worked = sum(len(mine) for mine in bounds) / (ranks * shared.most)
    assert shared.idle == pytest.approx(1.0 - worked)


SHARED = [(data, rows) for data in (1, 2, 4, 8, 16, 32) for rows in (1, 4, 11, 16, 64, 88) if 2816 % (data * rows) == 0]


@pytest.mark.parametrize(("data", "rows"), SHARED)
def test_every_step_is_shared_by_the_largest_micro_batch_that_divides_it(data, rows):
    config = run_of(data=data, micro_batch_rows=rows)
    assert problems(config) == []
    for size in batch_sizes(config.batch):
        share = size // data
        assert sharing_at(config, size).size == max(n for n in range(1, rows + 1) if share % n == 0)
        assert sharing_at(config, size).idle == 0.0
    assert sharing_at(config, 2816).size == rows


@pytest.mark.parametrize("stage", ["pretrain", "extension", "decay"])
@pytest.mark.parametrize("data", [3, 7, 24, 64, 100, 256, 3000])
def test_any_number_of_data_ranks_shares_every_step_of_the_recipe(stage, data):
    """Of the busiest rank no smaller micro-batch would take a row, and no larger one that is as good is left."""
    config = run_of(stage, data=data)
    assert problems(config) == []
    *growing, full = batch_sizes(config.batch)
    assert sharing_at(config, full).size == config.layout.micro_batch_rows
    for rows in growing:
        shared = sharing_at(config, rows)
        busiest = {n: -(-(rows // n) // data) * n for n in (1, 2, 3, 4) if rows % n == 0}
        assert shared.most * shared.size == min(busiest.values())
        assert shared.size == max(n for n, most in busiest.items() if most == min(busiest.values()))


def test_interleaved_stages_get_full_rounds_of_micro_batches():
    config = run_of(data=8, micro_batch_rows=88, pipeline=2, virtual_pipeline=2)
    assert sharing_at(config, 32).size == 2
    assert sharing_at(config, 2816).size == 88
    uneven = sharing_at(run_of(data=8, micro_batch_rows=352, pipeline=2, virtual_pipeline=2), 2816)
    assert [uneven.count(rank) for rank in range(8)] == [2] * 8 and uneven.idle == 0.5


def test_where_fp8_scales_are_exchanged_every_rank_has_as_many_micro_batches():
    fields = {"compute.precision": "fp8", "compute.fp8_recipe": "delayed", "compute.fp8_ends_in_bf16": False}
    delayed = codec.with_fields(run_of(data=3), fields)
    assert {sharing_at(delayed, 2816).count(rank) for rank in range(3)} == {235}
    assert {sharing_at(run_of(data=3), 2816).count(rank) for rank in range(3)} == {234, 235}


def test_a_rank_without_rows_takes_few_tokens_that_its_layout_can_share():
    shared = Sharing(2, ranks=4, size=2)
    with_rows = next(rank for rank in range(4) if shared.bounds(rank))
    assert empty_shape(run_of(data=4), shared, with_rows) == (2, 1024)
    without = next(rank for rank in range(4) if not shared.bounds(rank))
    assert empty_shape(run_of(data=4), shared, without) == (1, 16)
    rows, tokens = empty_shape(run_of(data=4, context=4, tensor=2), shared, without)
    assert rows == 1 and tokens % 8 == 0 and 64 <= tokens // 4 < 128  # no less than the window on each context rank


def test_what_the_ranks_cannot_share_is_refused_with_the_remedy():
    short = codec.with_fields(run_of(data=8, micro_batch_rows=4), {"data.row_length": 250, "layout.tensor": 4})
    assert sharing_at(short, 32).size == 4 and sharing_at(short, 8).size == 2  # four ranks cannot share 250 tokens
    with pytest.raises(ConfigError, match=r"growing batch of 10 rows and suits this layout.*batch.warmup_increment"):
        sharing_at(codec.with_fields(short, {"layout.context": 2}), 10)  # 250 or 500 tokens for eight ranks
    with pytest.raises(ConfigError, match="5 rows cannot be cut in micro-batches of 2"):
        Sharing(5, size=2)
