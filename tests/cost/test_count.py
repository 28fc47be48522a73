"""Parameters and FLOPs, against counts taken from built models and an independent FLOP table."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_ettin.config.codec import with_fields
from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.config.recipes import recipe
from megatron_ettin.config.shapes import SHAPES, global_layers
from megatron_ettin.cost.count import (
    attention_pairs,
    flops,
    flops_per_token,
    label_share,
    largest_label_share,
    mean_flops_per_token,
    parameters,
)
from megatron_ettin.cost.memory import logits

# backbone without embedding, backbone, head, whole model with the tied table once: numel of transformers' models
PARAMETERS = {
    "17m": (3_903_232, 16_797_440, 116_160, 16_913_600),
    "32m": (12_541_824, 31_883_136, 198_208, 32_081_344),
    "68m": (42_356_224, 68_144_640, 313_024, 68_457_664),
    "150m": (110_331_648, 149_014_272, 640_960, 149_655_232),
    "400m": (343_204_864, 394_781_696, 1_099_968, 395_881_664),
    "1b": (937_791_232, 1_028_050_688, 3_263_424, 1_031_314_112),
}

# (size, length): (forward, training) MFLOP per token of mlm 30 %, mlm 15 %, clm with a window of 65 keys
FLOPS = {
    ("17m", 1024): ((19.2, 57.7), (15.3, 46.0), (35.6, 106.7)),
    ("32m", 1024): ((44.2, 132.6), (38.4, 115.1), (67.8, 203.3)),
    ("68m", 1024): ((118.1, 354.2), (110.2, 330.7), (145.7, 437.0)),
    ("150m", 1024): ((274.7, 824.1), (262.9, 788.7), (314.4, 943.3)),
    ("400m", 1024): ((769.0, 2307.1), (753.2, 2259.7), (817.2, 2451.5)),
    ("1b", 1024): ((2021.0, 6062.9), (1992.9, 5978.8), (2107.2, 6321.5)),
    ("17m", 8192): ((41.3, 123.8), (37.4, 112.1), (46.6, 139.7)),
    ("32m", 8192): ((88.3, 264.8), (82.4, 247.3), (89.8, 269.4)),
    ("68m", 8192): ((220.9, 662.7), (213.1, 639.3), (197.1, 591.3)),
    ("150m", 8192): ((451.0, 1353.0), (439.2, 1317.7), (402.6, 1207.8)),
    ("400m", 8192): ((1062.9, 3188.7), (1047.1, 3141.3), (964.1, 2892.3)),
    ("1b", 8192): ((2535.2, 7605.7), (2507.2, 7521.6), (2364.3, 7092.9)),
}
PRINTED_TO = 0.051
"""The table is printed to one decimal."""


@pytest.mark.parametrize("size", PARAMETERS)
def test_parameter_counts_are_those_of_the_published_models(size: str) -> None:
    count = parameters(SHAPES[size])
    assert (count.backbone - count.embedding, count.backbone, count.head, count.total) == PARAMETERS[size]


@pytest.mark.parametrize(("size", "length"), FLOPS)
def test_flops_per_token_are_those_of_the_exact_table(size: str, length: int) -> None:
    model = replace(SHAPES[size], causal_window=64)
    for (causal, share), (forward, training) in zip(
        ((False, 0.3), (False, 0.15), (True, 1.0)), FLOPS[size, length], strict=True
    ):
        found = flops_per_token(model, causal, length, share)
        assert abs(found.forward / 1e6 - forward) < PRINTED_TO
        assert abs(found.training / 1e6 - training) < PRINTED_TO


@given(length=st.integers(1, 60), causal=st.booleans(), window=st.none() | st.integers(0, 70))
def test_attention_pairs_equal_a_count_one_by_one(length: int, causal: bool, window: int | None) -> None:
    pairs = sum(
        (window is None or abs(i - j) <= window) and (not causal or j <= i)
        for i in range(length)
        for j in range(length)
    )
    assert attention_pairs(length, causal, window) == pairs


def test_packed_rows_cost_what_their_pieces_cost() -> None:
    model, lengths = SHAPES["68m"], [3, 100, 517, 1024]
    together = flops(model, False, lengths, labels=40)
    alone = [flops(model, False, [length], labels=10) for length in lengths]
    assert together.forward == sum(item.forward for item in alone)


def test_local_and_global_layers_are_counted_apart() -> None:
    assert [global_layers(SHAPES[size]) for size in PARAMETERS] == [3, 4, 7, 8, 10, 10]


def test_specials_are_never_labels_of_a_masked_objective() -> None:
    data = recipe("17m", "mlm", "pretrain").data
    assert label_share(OBJECTIVES["mlm"], data) == 0.3 * 1022 / 1024
    assert label_share(OBJECTIVES["clm"], data) == 1023 / 1024


def test_rows_of_both_kinds_cost_the_mean_of_their_objectives_and_the_memory_of_the_larger() -> None:
    run = with_fields(recipe("17m", "mixed", "pretrain"), {"data.causal_share": 0.25, "data.piece_length": 300})
    parts = [mean_flops_per_token(run.model, OBJECTIVES[name], run.data).forward for name in ("mntp", "clm")]
    mixed = mean_flops_per_token(run.model, OBJECTIVES["mixed"], run.data).forward
    assert mixed == pytest.approx(0.75 * parts[0] + 0.25 * parts[1], rel=1e-12)
    assert parts[0] == flops_per_token(run.model, False, 300, label_share(OBJECTIVES["mntp"], run.data)).forward
    assert label_share(OBJECTIVES["mixed"], run.data) == pytest.approx(0.75 * 0.3 * 298 / 300 + 0.25 * 299 / 300)
    assert largest_label_share(OBJECTIVES["mixed"], run.data) == 299 / 300


def test_a_falling_mask_share_costs_the_work_of_its_mean_and_the_memory_of_its_start() -> None:
    run = with_fields(recipe("17m", "mlm", "pretrain"), {"data.mask_share": 0.4, "data.mask_share_end": 0.2})
    assert label_share(OBJECTIVES["mlm"], run.data) == pytest.approx(0.3 * 1022 / 1024, rel=1e-12)
    assert largest_label_share(OBJECTIVES["mlm"], run.data) == 0.4 * 1022 / 1024
    whole = with_fields(run, {"compute.loss_chunk_bytes": 2**40, "data.mask_share_end": 0.0})
    assert logits(with_fields(run, {"compute.loss_chunk_bytes": 2**40}), 0) == logits(whole, 0) > 0
