"""The schedule simulator against closed forms, Megatron-Core's own order, and a search of every placement."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from megatron_ettin.config.codec import with_fields
from megatron_ettin.config.recipes import recipe
from megatron_ettin.config.run import RunConfig
from megatron_ettin.cost.placement import (
    BACKWARD_COST,
    balanced,
    head_cost,
    layer_costs,
    layer_placement,
    least_maximum,
    stage_costs,
    timeline,
)
from megatron_ettin.cost.simulator import schedule, simulate

ROUNDING = 1e-9


@pytest.mark.parametrize(("devices", "chunks"), [(1, 1), *itertools.product((2, 3, 4, 8), (1, 2, 4))])
@pytest.mark.parametrize("rounds", [1, 2, 5])
@pytest.mark.parametrize("backward", [1.0, 2.0, 3.0])
def test_equal_stages_wait_as_long_as_the_closed_form_says(
    devices: int, chunks: int, rounds: int, backward: float
) -> None:
    stages, micro_batches = devices * chunks, devices * rounds
    found = simulate([1.0] * stages, [backward] * stages, devices, micro_batches)
    closed_form = (devices - 1) / (chunks * micro_batches + devices - 1)
    assert abs(found.bubble - closed_form) < ROUNDING


@pytest.mark.parametrize(
    ("devices", "micro_batches", "expected"),
    [(4, 8, (0.273, 0.158, 0.086)), (8, 16, (0.304, 0.179, 0.099)), (8, 64, (0.099, 0.052, 0.027))],
)
def test_published_bubbles_are_met(devices: int, micro_batches: int, expected: tuple[float, ...]) -> None:
    for chunks, bubble in zip((1, 2, 4), expected, strict=True):
        found = simulate([1.0] * (devices * chunks), [2.0] * (devices * chunks), devices, micro_batches)
        assert round(found.bubble, 3) == pytest.approx(bubble, abs=0.001)


@pytest.mark.parametrize(
    ("devices", "chunks", "micro_batches"), [(2, 1, 5), (4, 1, 8), (2, 2, 6), (4, 2, 8), (4, 3, 4)]
)
def test_the_order_is_megatron_cores(devices: int, chunks: int, micro_batches: int) -> None:
    schedules = pytest.importorskip("megatron.core.pipeline_parallel.schedules")
    table = schedules.get_schedule_table(micro_batches, chunks, devices)
    for device in range(devices):
        group = SimpleNamespace(size=lambda: devices, rank=lambda device=device: device)
        neighbours = SimpleNamespace(
            pp_group=group, virtual_pipeline_model_parallel_size=chunks if chunks > 1 else None
        )
        total, _, warmup, _ = schedules.get_pp_rank_microbatches(
            micro_batches, chunks, devices, p2p_communicator=neighbours
        )
        ours = schedule(device, devices, chunks, micro_batches)
        assert [(m, chunk) for kind, chunk, m in ours if kind == "F"] == list(table)
        backwards = [(m, chunks - 1 - chunk) for m, chunk in table]
        assert [(m, chunk) for kind, chunk, m in ours if kind == "B"] == backwards
        kinds = "".join(kind for kind, _, _ in ours)
        assert kinds == "F" * warmup + "FB" * (total - warmup) + "B" * warmup


def test_a_slow_stage_sets_the_pace() -> None:
    found = simulate([1.0, 3.0], [2.0, 6.0], 2, 50)
    assert found.total == 1.0 + 50 * 9.0 + 2.0
    assert found.busy == (150.0, 450.0)


def run_of(size: str, objective: str, pipeline: int, virtual: int = 1) -> RunConfig:
    """A pretraining run of 32 micro-batches."""
    change = {
        "layout.pipeline": pipeline, "layout.virtual_pipeline": virtual, "batch.warmup_tokens": 0, "batch.rows": 128,
    }  # fmt: skip
    return with_fields(recipe(size, objective, "pretrain"), change)


def test_the_1b_decoder_loses_less_than_half_of_what_an_even_split_loses() -> None:
    config = run_of("1b", "clm", 4)
    even = stage_costs(layer_costs(config), head_cost(config), (7, 7, 7, 7))
    lost_even = simulate(even, [BACKWARD_COST * cost for cost in even], 4, 32).bubble
    assert lost_even == pytest.approx(0.26, abs=0.005)
    assert timeline(config).bubble == pytest.approx(0.115, abs=0.002)
    assert layer_placement(config) == (8, 8, 7, 5)


def every_placement(layers: int, stages: int) -> list[tuple[int, ...]]:
    return [
        tuple(after - before for before, after in itertools.pairwise((0, *cuts, layers)))
        for cuts in itertools.combinations(range(1, layers), stages - 1)
    ]


@pytest.mark.parametrize("size", ["17m", "68m", "150m", "tiny"])
@pytest.mark.parametrize("objective", ["mlm", "clm"])
@pytest.mark.parametrize(("pipeline", "virtual"), [(2, 1), (4, 1), (2, 2)])
def test_the_balanced_placement_is_the_best_there_is(size: str, objective: str, pipeline: int, virtual: int) -> None:
    config = with_fields(run_of(size, objective, pipeline, virtual), {"model.vocabulary": 50_368})

    def time(placement: tuple[int, ...]) -> float:
        forward = stage_costs(layer_costs(config), head_cost(config), placement)
        return simulate(forward, [BACKWARD_COST * cost for cost in forward], pipeline, 32).total

    best = min(time(placement) for placement in every_placement(config.model.layers, pipeline * virtual))
    assert time(layer_placement(config)) <= best * (1 + 1e-9)


def test_the_partition_has_the_cheapest_most_expensive_group() -> None:
    costs = (3.0, 1.0, 1.0, 3.0, 1.0, 1.0, 3.0)
    for head in (0.0, 2.0, 20.0):
        for stages in (1, 2, 3, 4):
            found = least_maximum(costs, head, stages)
            best = min(max(stage_costs(costs, head, item)) for item in every_placement(7, stages))
            assert max(stage_costs(costs, head, found)) == best and sum(found) == 7


def test_a_given_placement_is_kept_and_every_stage_has_a_layer() -> None:
    config = with_fields(run_of("17m", "clm", 4), {"layout.pipeline_layers": (1, 2, 3, 1)})
    assert layer_placement(config) == (1, 2, 3, 1)
    assert min(balanced((1.0,) * 7, 1000.0, 4, 1, 2.0)) == 1


def test_an_encoders_last_layer_costs_what_its_labels_need() -> None:
    encoder, decoder = (run_of("17m", objective, pipeline=2) for objective in ("mlm", "clm"))
    costs = layer_costs(encoder)
    assert 0.3 * costs[0] < costs[-1] < 0.6 * costs[0]
    assert layer_costs(decoder)[-1] == layer_costs(decoder)[0]
    assert layer_costs(with_fields(encoder, {"layout.tensor": 2}))[-1] == costs[0]
