"""The modelled step: kernels as an independent count has them, messages by closed forms, and plans that fit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from megatron_ettin.config.codec import with_fields
from megatron_ettin.config.derived import model_ranks
from megatron_ettin.config.recipes import recipe
from megatron_ettin.config.run import RunConfig
from megatron_ettin.cost.count import parameters
from megatron_ettin.cost.fit import FILLED, FRAMEWORK_BYTES
from megatron_ettin.cost.hardware import GIBI, H100_CLUSTER
from megatron_ettin.cost.memory import heaviest
from megatron_ettin.cost.scaling import efficiency, fastest, layouts, on_gpus, stage_seconds, step_time
from megatron_ettin.cost.step_time import micro_batch_time

COUNTED = [
    ("torch", "17m", "pretrain", 144, 40e-3), ("torch", "17m", "extension", 18, 75e-3),
    ("torch", "150m", "pretrain", 72, 180e-3), ("torch", "1b", "pretrain", 24, 310e-3),
    ("auto", "17m", "pretrain", 144, 29e-3), ("auto", "150m", "pretrain", 72, 147e-3),
    ("auto", "1b", "pretrain", 24, 278e-3),
]  # fmt: skip
"""Seconds of a micro-batch when every operation of the code, recorded on tensors without data, is costed by itself; and
what they are less by the bytes that own kernels save."""
ALIKE = 0.17
"""How far a sum over kinds of kernels may be from that of single operations, which is rounded to two digits."""


def run_of(size: str, stage: str = "pretrain", **layout: object) -> RunConfig:
    return with_fields(recipe(size, "mlm", stage), {f"layout.{name}": value for name, value in layout.items()})


@pytest.mark.parametrize(("kernels", "size", "stage", "rows", "seconds"), COUNTED)
def test_a_micro_batch_takes_what_its_operations_take_one_by_one(
    kernels: str, size: str, stage: str, rows: int, seconds: float
) -> None:
    run = with_fields(run_of(size, stage, micro_batch_rows=rows), {"compute.kernels": kernels})
    assert micro_batch_time(run, H100_CLUSTER).total == pytest.approx(seconds, rel=ALIKE)


def test_few_rows_of_a_small_model_wait_for_the_host() -> None:
    few, many = (micro_batch_time(run_of("17m", micro_batch_rows=rows), H100_CLUSTER) for rows in (4, 64))
    assert few.launching > 0.5 and many.launching == 0.0
    assert few.total == pytest.approx(370 * H100_CLUSTER.launch)


def test_without_overlap_all_gradients_and_weights_travel_in_the_open() -> None:
    """Scattered in fp32 and gathered in bf16, along one ring in a node, along eight of 50 GB/s each between nodes."""
    bare = replace(H100_CLUSTER, hop_inside=0.0, hop_across=0.0)
    count = parameters(run_of("1b").model).total
    for gpus, rate in ((8, 450e9), (64, 400e9)):
        open_ = run_of("1b", data=gpus, choose_overlap=False)
        expected = 6 * count * (gpus - 1) / gpus / rate
        assert step_time(open_, bare).exposed == pytest.approx(expected)
        hidden = step_time(run_of("1b", data=gpus), bare).exposed
        assert 0.05 * expected < hidden < 0.2 * expected, "only the embedding's bucket is left"


def test_a_model_of_one_bucket_hides_nothing() -> None:
    open_ = on_gpus(run_of("17m", choose_overlap=False), 64, H100_CLUSTER)
    overlapped = on_gpus(run_of("17m"), 64, H100_CLUSTER)
    assert step_time(overlapped, H100_CLUSTER).exposed == step_time(open_, H100_CLUSTER).exposed > 0


def test_tensor_ranks_pay_for_each_layer_output() -> None:
    """Four all-reduces of a layer and one of the embedding's gradient, for every micro-batch, within a node."""
    bare = replace(H100_CLUSTER, hop_inside=0.0)
    run = run_of("150m", tensor=2, data=4, micro_batch_rows=11)
    output = 11 * 1024 * 768 * 2
    labels = 11 * 1024 * 0.3 * 1022 / 1024
    of_layers = (4 * 22 + 1) * output * 2 * (2 - 1) / 2 / 450e9
    of_head = labels * (768 * 2 + 3 * 4) / 450e9
    assert step_time(run, bare).shared == pytest.approx(64 * (of_layers + of_head), rel=1e-6)


def test_efficiency_is_lost_to_rows_that_do_not_divide() -> None:
    even, uneven = (on_gpus(run_of("1b", "extension"), gpus, H100_CLUSTER) for gpus in (32, 64))
    assert efficiency(even, H100_CLUSTER) > 0.98
    assert 0.94 < efficiency(uneven, H100_CLUSTER) < 608 / 640


def test_a_stage_is_its_steps() -> None:
    constant = on_gpus(run_of("150m", "extension"), 8, H100_CLUSTER)
    steps = constant.schedule.tokens / (608 * 8192)
    assert stage_seconds(constant, H100_CLUSTER) == pytest.approx(steps * step_time(constant, H100_CLUSTER).total)
    growing = on_gpus(run_of("150m", micro_batch_rows=44), 64, H100_CLUSTER)
    full = growing.schedule.tokens / (2816 * 1024) * step_time(growing, H100_CLUSTER).total
    assert stage_seconds(growing, H100_CLUSTER) > 1.02 * full
    assert efficiency(growing, H100_CLUSTER, stage=True) < efficiency(growing, H100_CLUSTER)


def test_layouts_fill_the_gpus_and_fit_and_the_fastest_of_them_is_taken() -> None:
    found = list(layouts(recipe("1b", "clm", "extension"), 64, H100_CLUSTER))
    for run in found:
        assert model_ranks(run.layout) * run.layout.data == 64
        assert heaviest(run)[1].total + FRAMEWORK_BYTES <= FILLED * 80 * GIBI
        assert run.batch.rows % run.layout.micro_batch_rows == 0
    assert {run.layout.tensor for run in found} == {1, 2, 4} and {run.layout.pipeline for run in found} == {1, 2}
    best = step_time(fastest(found, H100_CLUSTER), H100_CLUSTER).total
    assert best == min(step_time(run, H100_CLUSTER).total for run in found)


def test_causal_context_ranks_wait_for_the_one_that_sees_the_whole_row() -> None:
    fields = {"layout.context": 2, "layout.micro_batch_rows": 1}
    encoder, decoder = (with_fields(recipe("1b", name, "extension"), fields) for name in ("mlm", "clm"))
    many = {"layout.micro_batch_rows": 2}
    for run, slower in ((encoder, False), (decoder, True)):
        one, two = (micro_batch_time(item, H100_CLUSTER).total for item in (run, with_fields(run, many)))
        assert (one > 0.53 * two) == slower
