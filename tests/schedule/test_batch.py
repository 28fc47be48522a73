"""The growing batch: closed form, invertible, equal numbers of steps."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from megatron_ettin.config.recipes import recipe
from megatron_ettin.config.run import BatchConfig
from megatron_ettin.schedule import BatchSchedule, batch_schedule

batches = st.builds(
    lambda increment, sizes, warmup: BatchConfig(
        rows=increment * sizes, warmup_increment=increment, warmup_tokens=warmup
    ),
    st.integers(1, 40),
    st.integers(1, 12),
    st.integers(0, 300_000),
)


def walked(plan: BatchSchedule, steps: int) -> list[tuple[int, int]]:
    """First row and rows of each step, by walking through the table row by row of the table."""
    found, row = [], 0
    for _ in range(steps):
        size = [size for first, size in plan.table if first <= row][-1]
        found.append((row, size))
        row += size
    return found


@given(batches)
def test_steps_and_rows_are_each_others_inverse(batch: BatchConfig) -> None:
    plan = batch_schedule(batch, 64)
    for step, (row, size) in enumerate(walked(plan, 200)):
        assert plan.rows_at(step) == (row, size)
        assert plan.step_of_row(row) == plan.step_of_row(row + size - 1) == step
        assert plan.steps_of(row + size) == step + 1 and plan.steps_of(row + 1) == step + 1


@given(batches)
def test_every_size_below_the_full_one_lasts_equally_many_steps(batch: BatchConfig) -> None:
    table = batch_schedule(batch, 64).table
    assert table[0][0] == 0 and table[-1][1] == batch.rows
    steps = [(following - first) / size for (first, size), (following, _) in zip(table, table[1:], strict=False)]
    assert len(set(steps)) <= 1 and all(count == int(count) >= 1 for count in steps)
    if batch.warmup_tokens and len(table) > 1:
        assert [size for _, size in table] == list(
            range(batch.warmup_increment, batch.rows + 1, batch.warmup_increment)
        )


def test_the_recipes_batch_grows_over_its_token_budget() -> None:
    for size, billions in (("17m", 125), ("150m", 50), ("1b", 3)):
        batch = recipe(size, "mlm", "pretrain").batch
        table = batch_schedule(batch, 1024).table
        spent = table[-1][0] * 1024
        assert len(table) == 88 and table[0] == (0, 32)
        one_step_of_each_size = 1024 * sum(rows for _, rows in table[:-1])
        assert abs(spent - billions * 10**9) <= one_step_of_each_size / 2, "whole steps of each size are rounded"


def test_a_constant_batch_is_one_entry() -> None:
    assert batch_schedule(BatchConfig(rows=608), 8192).table == ((0, 608),)
    assert batch_schedule(BatchConfig(rows=608), 8192).steps_of(0) == 0
