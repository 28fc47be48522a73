"""The preset of a run that goes on from a finished model."""

from dataclasses import replace

import pytest

from megatron_ettin.config import rules
from megatron_ettin.config.adapting import adapted_run
from megatron_ettin.config.published import decayed_hint, published
from megatron_ettin.config.shapes import SHAPES
from megatron_ettin.schedule import learning_rate_factor

MODEL = replace(SHAPES["150m"], maximum_length=8_192)
BILLION = 10**9


@pytest.mark.parametrize(("tokens", "rate"), [(50 * BILLION, 4e-4), (2 * BILLION, 2e-4), (100_000_000, 1e-4)])
def test_the_rate_rises_to_a_share_of_the_models_own_by_the_tokens_there_are(tokens, rate):
    run = adapted_run(MODEL, "mlm", tokens, peak_rate=8e-4)
    assert run.schedule.peak_rate == pytest.approx(rate)
    assert run.schedule.warmup_tokens == min(0.06 * tokens, 3 * BILLION)
    shape = [learning_rate_factor(run.schedule, share * tokens) for share in (0.03, 0.5, 0.9, 1.0)]
    assert shape == pytest.approx([0.5, 1.0, 0.51, 0.02])
    rules.check(run)


def test_a_model_that_nobody_knows_takes_the_rate_of_the_published_size_nearest_to_it():
    assert adapted_run(SHAPES["400m"], "clm", 20 * BILLION).schedule.peak_rate == 5e-4 / 2


@pytest.mark.parametrize(
    ("longest", "row", "piece"), [(7_999, 8_192, 7_999), (8_192, 8_192, 8_192), (512, 512, 512), (16_384, 8_192, 8_192)]
)
def test_rows_are_as_long_as_the_model_reads(longest, row, piece):
    run = adapted_run(replace(MODEL, maximum_length=longest), "mlm", 2 * BILLION)
    assert (run.data.row_length, run.data.piece_length) == (row, piece)
    assert run.batch.rows * row == 1 << 18


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_ranks_share_the_rows_and_decide_on_the_micro_batch_alone(ranks):
    run, alone = (adapted_run(SHAPES["tiny"], "mlm", 10**6, ranks=number) for number in (ranks, 1))
    rules.check(run, ranks)
    assert replace(run, layout=alone.layout) == alone


def test_final_weights_are_told_from_those_before_the_rate_fell():
    assert "context-extension of answerdotai/ModernBERT-base-training-checkpoints" in decayed_hint(
        "answerdotai/ModernBERT-base"
    )
    assert "ext{step}" in decayed_hint("jhu-clsp/ettin-encoder-150m")
    assert decayed_hint("jhu-clsp/ettin-encoder-150m@ext50854") == ""
    assert "extension of jhu-clsp/mmBERT-checkpoints" in decayed_hint("jhu-clsp/mmBERT-small")
    assert decayed_hint("someone/else") == "" and published("someone/else") is None
