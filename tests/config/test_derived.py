"""A growing batch is cut into the largest micro-batches that every rank can take."""

import pytest

from megatron_ettin.config import codec
from megatron_ettin.config.derived import batch_sizes, micro_batch_rows_at
from megatron_ettin.config.recipes import recipe
from megatron_ettin.config.rules import problems
from megatron_ettin.config.run import RunConfig


def run_of(**layout: int) -> RunConfig:
    fields = {f"layout.{name}": value for name, value in layout.items()}
    return codec.with_fields(recipe("17m", "mlm", "pretrain"), fields)


SHARED = [(data, rows) for data in (1, 2, 4, 8, 16, 32) for rows in (1, 4, 11, 16, 64, 88) if 2816 % (data * rows) == 0]


@pytest.mark.parametrize(("data", "rows"), SHARED)
def test_every_step_is_shared_by_the_largest_micro_batch_that_divides_it(data, rows):
    config = run_of(data=data, micro_batch_rows=rows)
    assert problems(config) == []
    for size in batch_sizes(config.batch):
        share = size // data
        assert micro_batch_rows_at(config, size) == max(n for n in range(1, rows + 1) if share % n == 0)
    assert micro_batch_rows_at(config, 2816) == rows


def test_interleaved_stages_get_full_rounds_of_micro_batches():
    config = run_of(data=8, micro_batch_rows=88, pipeline=2, virtual_pipeline=2)
    assert micro_batch_rows_at(config, 32) == 2
    assert micro_batch_rows_at(config, 2816) == 88


def test_what_the_ranks_cannot_share_has_no_micro_batch():
    assert micro_batch_rows_at(run_of(data=64), 32) == 0
    short = codec.with_fields(run_of(data=8, micro_batch_rows=4), {"data.row_length": 250, "layout.tensor": 4})
    assert micro_batch_rows_at(short, 32) == 4 and micro_batch_rows_at(short, 8) == 0
