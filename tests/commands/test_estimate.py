"""``ettin estimate``: the exact counts, times from a given or measured speed, and notes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from megatron_ettin.commands.estimate import main
from megatron_ettin.config.codec import to_json, with_fields
from megatron_ettin.config.freezing import frozen_weights
from megatron_ettin.config.recipes import recipe
from megatron_ettin.config.shapes import PUBLISHED_SIZES
from megatron_ettin.config.weights import shapes
from megatron_ettin.cost.estimate import Speed, estimate_run
from megatron_ettin.cost.memory import frozen_parameters
from megatron_ettin.errors import ConfigError

PUBLISHED_H100_RATES = {"17m": 985e3, "32m": 655e3, "68m": 463e3, "150m": 296e3, "400m": 146e3, "1b": 64e3}


def figures(tmp_path: Path, *arguments: str) -> list[dict[str, object]]:
    path = tmp_path / "figures.json"
    assert main([*arguments, "--json", str(path)]) == 0
    found: list[dict[str, object]] = json.loads(path.read_text())
    return found


def test_all_sizes_are_estimated_without_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = figures(tmp_path, "--mfu", "0.4")
    assert [(item["size"], item["objective"]) for item in found] == [
        (size, objective) for size in PUBLISHED_SIZES for objective in ("mlm", "clm")
    ]
    shown = capsys.readouterr().out
    assert "16,913,600" in shown and "1,031,314,112" in shown and "40% of 989 TFLOP/s" in shown


def test_hours_follow_from_work_and_speed() -> None:
    config = recipe("150m", "mlm", "pretrain")
    found = estimate_run(config, Speed(mfu=0.5))
    seconds = found.flops.training * config.schedule.tokens / (0.5 * 989e12)
    assert found.device_hours == pytest.approx(seconds / 3600)
    assert estimate_run(config, Speed()).device_hours == pytest.approx(found.device_hours / 2)


def test_published_rates_lie_below_the_peak() -> None:
    for size, rate in PUBLISHED_H100_RATES.items():
        assert rate < estimate_run(recipe(size, "mlm", "pretrain"), Speed()).tokens_per_second


def test_waiting_in_the_pipeline_lengthens_the_run() -> None:
    config = recipe("1b", "clm", "pretrain")
    four = estimate_run(with_fields(config, {"layout.pipeline": 4}), Speed(mfu=0.4))
    one = estimate_run(config, Speed(mfu=0.4))
    assert four.bubble > 0 and four.device_hours == pytest.approx(one.device_hours / (1 - four.bubble))


def test_what_data_ranks_idle_lengthens_the_run_and_is_said_with_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    """608 rows on 64 ranks: 9 or 10 rows each; a full step takes as long as ten."""
    config = recipe("150m", "mlm", "extension")
    found = estimate_run(with_fields(config, {"layout.data": 64}), Speed(mfu=0.4))
    assert found.idle.full == found.idle.stage == pytest.approx(1 - 608 / (64 * 10)) and found.micro_batches == 10
    assert found.device_hours == pytest.approx(estimate_run(config, Speed(mfu=0.4)).device_hours * 640 / 608)
    assert main(["150m", "mlm", "extension", "--layout.data", "64"]) == 0
    shown = capsys.readouterr().out
    assert "5.0% of the data ranks' time goes without rows" in shown
    assert "a data size of 38 or 76 leaves none" in shown


def test_what_data_ranks_idle_while_the_batch_grows_is_weighed_by_its_steps() -> None:
    """On 64 ranks 32 rows take as long as 64, 96 as long as 128, and so on; full steps divide."""
    config = with_fields(recipe("150m", "mlm", "pretrain"), {"layout.data": 64})
    found = estimate_run(config, Speed()).idle
    sizes = range(32, 2816, 32)
    taken = [64 * -(-rows // 64) for rows in sizes]
    assert found.full == 0.0 and found.growing == pytest.approx(1 - sum(sizes) / sum(taken))
    assert 0 < found.stage < found.growing / 10


def test_the_advice_names_micro_batches_that_leave_less(capsys: pytest.CaptureFixture[str]) -> None:
    run = ["150m", "mlm", "pretrain", "--layout.data", "256"]
    assert main([*run, "--layout.micro-batch-rows", "4"]) == 0
    assert "layout.micro_batch_rows=11 leaves 0.0%; a data size of 176 or 352 leaves none" in capsys.readouterr().out
    assert main(run) == 0, "what is not given is chosen so that the ranks share evenly"
    assert "leaves" not in capsys.readouterr().out


def test_shorter_pieces_cost_less_attention() -> None:
    config = recipe("17m", "mlm", "extension")
    full, short = (estimate_run(config, Speed(mean_piece=length)).flops for length in (0, 1067))
    assert short.attention_global < full.attention_global / 5 and short.matrices == full.matrices


def test_a_measured_run_gives_its_speed(tmp_path: Path) -> None:
    config = with_fields(recipe("17m", "mlm", "pretrain"), {"data.mask_share": 0.3})
    (tmp_path / "config.json").write_text(to_json(config))
    (tmp_path / "environment.json").write_text(json.dumps({"ranks": 4}))
    with (tmp_path / "metrics.jsonl").open("w") as stream:
        for step in range(1, 11):
            rate = 1.0 if step <= 5 else 4e6
            stream.write(json.dumps({"kind": "step", "step": step, "tokens": step, "tokens_per_second": rate}) + "\n")
    found = figures(tmp_path, "17m", "mlm", "pretrain", "--measured", str(tmp_path))[0]
    assert found["tokens_per_second"] == pytest.approx(1e6), "of one rank, from the later half"


def test_memory_shrinks_with_the_ranks_that_share_it() -> None:
    config = recipe("1b", "mlm", "pretrain")
    alone = estimate_run(config, Speed()).memory
    shared = estimate_run(with_fields(config, {"layout.data": 8}), Speed()).memory
    assert shared.optimizer == pytest.approx(alone.optimizer / 8, rel=1e-6)
    assert (shared.weights, shared.gradients, shared.activations) == (
        alone.weights, alone.gradients, alone.activations,
    )  # fmt: skip
    assert alone.weights == 2 * 1_031_314_112 and alone.optimizer == 12 * 1_031_314_112
    frozen = estimate_run(with_fields(config, {"optimizer.freeze": ("0-13", "embeddings")}), Speed()).memory
    stay = sum(math.prod(shapes(config.model)[name]) for name in frozen_weights(config.model, ("0-13", "embeddings")))
    assert frozen.optimizer == alone.optimizer - 8 * stay and frozen.gradients == alone.gradients
    for layout in ({"layout.pipeline": 2}, {"layout.tensor": 2}, {"layout.tensor": 4, "layout.pipeline": 4}):
        shared = with_fields(config, {"optimizer.freeze": ("0-27",)} | layout)
        parts = [frozen_parameters(shared, device) for device in range(shared.layout.pipeline)]
        matrices = 28 * (4 * 1792**2 + 3 * 1792 * 3840) // shared.layout.tensor
        assert sum(parts) == matrices + (2 * 28 - 1) * 1792
    full = estimate_run(with_fields(config, {"layout.recompute": "full"}), Speed()).memory
    assert full.activations < alone.activations / 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["17m", "mlm", "pretrain", "--device", "abacus"], "no peak FLOP/s known for device 'abacus'"),
        (["17m", "mlm", "pretrain", "--mfu", "40"], "mfu=40.0 must lie between 0 and 1"),
        (["17m", "mlm", "pretrain", "--mfu", "0.4", "--measured", "x"], "two sources"),
        (["17m", "mlm", "pretrain", "--measured", "nowhere"], "nowhere"),
        (["tiny", "mlm", "pretrain"], "model.vocabulary=0 is taken from the data"),
        (["1b", "mlm", "pretrain", "--world", "6", "--tensor", "4"], "does not divide the world size 6"),
    ],
)
def test_what_cannot_be_estimated_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        main(arguments)
    assert message in str(caught.value)


def test_notes_warn_of_small_pipelines_and_of_too_little_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["17m", "clm", "pretrain", "--pipeline", "2", "--mfu", "0.3"]) == 0
    assert "prefer data ranks" in capsys.readouterr().out
    assert main(["1b", "clm", "pretrain", "--micro-batch", "32", "--device", "L40S"]) == 0
    assert "does not fit" in capsys.readouterr().out
