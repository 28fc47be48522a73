"""metrics.jsonl: every step is there, once, whatever happened to the process."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from megatron_ettin.config.codec import with_fields
from megatron_ettin.config.recipes import recipe
from megatron_ettin.errors import DataError
from megatron_ettin.observe import Meter, open_sinks, read_records

CONFIG = with_fields(recipe("tiny", "mlm", "pretrain"), {"observe.log_every": 5, "observe.tensorboard": False})


class Terminal:
    """A stream that says it is a terminal, or not."""

    def __init__(self, live: bool) -> None:
        self.live, self.text = live, ""

    def isatty(self) -> bool:
        return self.live

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def record(step: int, **more: object) -> dict[str, object]:
    return {"kind": "step", "step": step, "tokens": 8000 * step, "loss": 9.0 - step, "lr": 1e-3, **more}


def write(run: Path, steps: range, start: int = 0, live: bool = False) -> str:
    stream = Terminal(live)
    sinks = open_sinks(run, CONFIG, reports=True, start_step=start, stream=stream)  # type: ignore[arg-type]
    for step in steps:
        sinks.write(record(step, tokens_per_second=1000.0))
    sinks.close()
    return stream.text


def test_records_are_on_disk_before_the_next_step(tmp_path: Path) -> None:
    sinks = open_sinks(tmp_path, CONFIG, reports=True, stream=Terminal(False))  # type: ignore[arg-type]
    for step in range(1, 4):
        sinks.write(record(step))
        assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == step
    sinks.close()


def test_a_resumed_run_repeats_no_record(tmp_path: Path) -> None:
    write(tmp_path, range(1, 9))
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"kind": "step", "st')
    write(tmp_path, range(7, 10), start=6)
    assert [item["step"] for item in read_records(tmp_path)] == list(range(1, 10))


def test_numbers_that_are_not_finite_stay_valid_json(tmp_path: Path) -> None:
    sinks = open_sinks(tmp_path, CONFIG, reports=True, stream=Terminal(False))  # type: ignore[arg-type]
    sinks.write(record(1) | {
        "loss": math.nan, "gradient_norm": math.inf, "sources": {"web": math.nan, "books": 1.0},
    })  # fmt: skip
    sinks.close()
    line = (tmp_path / "metrics.jsonl").read_text()
    found = json.loads(line, parse_constant=lambda name: pytest.fail(name))
    assert found["loss"] is None and found["not_finite"] == ["loss", "gradient_norm", "sources"]
    assert found["sources"] == {"web": None, "books": 1.0}


def test_off_a_terminal_there_is_a_line_every_few_steps_and_nothing_else(tmp_path: Path) -> None:
    text = write(tmp_path, range(1, 13))
    assert "\r" not in text and "\x1b" not in text
    assert [line.split(" | ")[0] for line in text.splitlines()] == ["step 5", "step 10"]
    assert "loss 4.0000" in text and "left" in text
    assert (tmp_path / "console.log").read_text() == text


def test_on_a_terminal_every_step_is_shown_in_place(tmp_path: Path) -> None:
    text = write(tmp_path, range(1, 7), live=True)
    assert [f"step {step} " in text for step in range(1, 7)] == [True] * 6
    assert text.count("\n") == 1, "only the kept line ends"


def test_ranks_that_do_not_report_write_nothing(tmp_path: Path) -> None:
    sinks = open_sinks(tmp_path / "run", CONFIG, reports=False)
    sinks.write(record(1))
    sinks.message("unheard")
    sinks.close()
    assert not (tmp_path / "run").exists()


def test_tensorboard_reads_what_was_written_and_forgets_what_was_undone(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = with_fields(CONFIG, {"observe.tensorboard": True})
    for start, loss in ((0, 1.0), (3, 2.0)):
        sinks = open_sinks(tmp_path, config, True, start_step=start, stream=Terminal(False))  # type: ignore[arg-type]
        for step in range(start + 1, start + 6):
            sinks.write(record(step) | {"loss": loss})
        sinks.close()
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    found = {event.step: event.value for event in accumulator.Scalars("step/loss")}
    assert found == {1: 1.0, 2: 1.0, 3: 1.0, 4: 2.0, 5: 2.0, 6: 2.0, 7: 2.0, 8: 2.0}


def test_weights_and_biases_gets_every_number_under_a_name_that_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, dict[str, object]]] = []

    class Run:
        def log(self, numbers: dict[str, object], step: int) -> None:
            calls.append((f"log {step}", numbers))

        def finish(self) -> None:
            calls.append(("finish", {}))

    def init(**arguments: object) -> Run:
        calls.append(("init", arguments))
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    config = with_fields(CONFIG, {"observe.wandb": "pairs"})
    for start in (0, 1):
        sinks = open_sinks(tmp_path, config, True, start_step=start, stream=Terminal(False))  # type: ignore[arg-type]
        sinks.write(record(start + 1, note="text"))
        sinks.close()
    assert [name for name, _ in calls] == ["init", "log 1", "finish", "init", "log 2", "finish"]
    assert calls[0][1] == calls[3][1] and calls[0][1]["project"] == "pairs" and calls[0][1]["resume"] == "allow"
    assert calls[1][1] == {"step/tokens": 8000, "step/loss": 8.0, "step/lr": 1e-3}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"step": 1}\nnot json\n{"step": 2}\n', "line 2 is not JSON"),
        ('{"step": 1}\n[]\n', "line 2 is not a metrics record"),
        ('{"step": "1"}\n', "line 1 is not a metrics record"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        read_records(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        read_records(tmp_path / "nowhere")


def test_speed_counts_every_device_and_only_known_peaks() -> None:
    clock = iter([0.0, 10.0, 20.0])
    meter = Meter(peak_flops=1000.0, devices=2, clock=lambda: next(clock))
    first = meter.add(seconds=5.0, tokens=100, flops=5000.0)
    assert (first.tokens_per_second, first.mfu, first.goodput) == (20.0, 0.5, 0.5)
    second = meter.add(seconds=5.0, tokens=100, flops=5000.0, accepted=False)
    assert (second.mfu, second.goodput) == (0.5, 0.25), "a refused step is no good time"
    assert Meter(peak_flops=None).add(1.0, 10, 10.0).mfu is None


def test_an_unknown_device_has_no_peak() -> None:
    from megatron_ettin.cost.hardware import peak_flops

    assert peak_flops("AMD EPYC 9654", "bf16") is None and peak_flops("NVIDIA GeForce RTX 3090", "bf16") is None
    assert peak_flops("NVIDIA H100 80GB HBM3", "bf16") == peak_flops("NVIDIA H200", "bf16") == 989e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "fp8") is None, "this device has no fp8"
    assert peak_flops("NVIDIA H100 PCIe", "bf16") == 756e12
