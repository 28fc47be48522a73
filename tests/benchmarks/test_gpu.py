"""The GPU benchmark takes every way on a CPU, keeps what it has measured, and knows its limits."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from benchmarks.gpu_parts import supervisor, worker
from benchmarks.gpu_parts.limits import H100, ROOFLINE_H100, roofline
from benchmarks.gpu_parts.results import RUNNING, Results
from benchmarks.gpu_parts.rows import Row, plan, thinned, without_twins
from benchmarks.gpu_parts.supervisor import LOST, SPENT, WORTH, supervise
from megatron_ettin.config.shapes import PUBLISHED_SIZES, SHAPES
from tests.support.launch import ROOT, run

CALCULATED_DECODERS = {"17m": 6.252e6, "32m": 3.447e6, "68m": 1.606e6, "150m": 807e3, "400m": 328e3, "1b": 137e3}
"""Tokens a second of an H100, calculated apart as those of encoders are, with rows of 1,024."""
COUNTED_APART = 0.035
"""Two lists of ideal kernels may differ by a read or a write of the hidden states here and there."""


def dry_run(file: Path, *options: str, status: int = 0) -> str:
    command = [sys.executable, "-W", "ignore", ROOT / "benchmarks" / "gpu.py", "--dry-run", "--resume", file, *options]
    return run(command, timeout=1800, status=status).stdout


def stored(file: Path) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert "environment" in lines[0]
    return {line["key"]: line for line in lines if "key" in line}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    file = tmp_path_factory.mktemp("gpu") / "results.jsonl"
    dry_run(file, "--budget-seconds", "100000")  # a busy machine may take its time
    return stored(file)


def test_every_kind_of_row_is_produced(measured: dict[str, dict[str, Any]]) -> None:
    assert list(measured) == [row.key for row in thinned(plan())]
    done = [entry for entry in measured.values() if entry["status"] == "done"]
    assert {entry["row"]["kind"] for entry in done} == {"machine", "numerics", "step", "peer", "profile", "kernels"}
    steps = [entry for entry in done if entry["row"]["kind"] == "step"]
    assert {entry["row"]["backend"] for entry in steps} == {"auto", "sdpa", "varlen", "flash", "te"}
    assert {entry["row"]["precision"] for entry in steps} == {"bf16", "fp8", "fp32"}
    assert {entry["row"]["fp8_recipe"] for entry in steps} == {"current", "delayed", "blocks"}
    assert {(entry["row"]["objective"], entry["row"]["row_length"]) for entry in steps} == {
        ("mlm", 1024), ("mlm", 8192), ("clm", 1024), ("clm", 8192)
    }  # fmt: skip
    assert {(entry["row"]["kernels"], entry["row"]["plain"]) for entry in steps} == {
        ("auto", False), ("auto", True), ("torch", False)
    }  # fmt: skip
    (profiled,) = [entry["values"] for entry in done if entry["row"]["kind"] == "profile"]
    assert profiled["trace"] == "trace-17m.json.gz"
    (own,) = [entry["values"]["kernels"] for entry in done if entry["row"]["kind"] == "kernels"]
    assert len(own) == 8 and all(pair["torch_seconds"] > 0 for pair in own)
    for entry in steps:
        values = entry["values"]
        assert values["tokens_per_second"] > 0 and values["roofline_share"] > 0 and values["estimated_gibibytes"] > 0
        assert values["choices"] and values["host_waits"] >= 1
        assert 0 < values["host_seconds"] <= values["micro_batch_seconds"]


def test_numerics_of_every_back_end_are_met(measured: dict[str, dict[str, Any]]) -> None:
    checks = [entry for entry in measured.values() if entry["row"]["kind"] == "numerics"]
    assert len(checks) == 13
    for entry in checks:
        assert entry["status"] == "done" and entry["values"]["met"], entry


def test_what_cannot_be_measured_is_refused_with_the_reason(measured: dict[str, dict[str, Any]]) -> None:
    refused = [entry for entry in measured.values() if entry["status"] == "refused"]
    assert refused
    assert all(entry["row"]["backend"] == "flash_attention_2" for entry in refused)
    assert all("flash-attn is not installed" in entry["reason"] for entry in refused)


def test_a_later_call_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    file, some = tmp_path / "results.jsonl", "row_length=1024 backend=varlen"
    one = f"numerics size=17m objective=clm {some}"
    assert "the budget is spent" in dry_run(file, "--budget-seconds", "0.1", "--only", one, status=SPENT)
    dry_run(file, "--only", one, "--budget-seconds", "100000")
    first = stored(file)
    assert list(first) == [one]
    output = dry_run(file, "--only", some, "--budget-seconds", "100000")
    assert f"{one}: done" not in output
    assert stored(file)[one] == first[one]
    assert len(stored(file)) > 1


def test_a_row_in_which_the_process_ends_twice_is_given_up(tmp_path: Path) -> None:
    row, machine = Row(kind="step"), {"device": "some GPU"}
    for attempt in (1, 2):
        results = Results.open(tmp_path / "results.jsonl", machine)
        results.close_lost()
        assert not results.finished(row)
        results.begin(row, limit=60.0)
        assert stored(tmp_path / "results.jsonl")[row.key]["attempts"] == attempt
        assert stored(tmp_path / "results.jsonl")[row.key]["status"] == RUNNING
    results = Results.open(tmp_path / "results.jsonl", machine)
    results.close_lost()
    assert results.finished(row)
    assert "the process ended in it 2 times" in results.rows[row.key]["reason"]
    with pytest.raises(SystemExit, match="another file"):
        Results.open(tmp_path / "results.jsonl", {"device": "another GPU"})


def failing_at(failures: dict[str, Exception]):
    """A measurement that fails for some rows."""

    def measure(row: Row, machine: object, results: Results) -> dict[str, Any]:
        if row.key in failures:
            raise failures[row.key]
        return {"met": True}

    return measure


def test_a_row_that_fails_in_any_way_costs_no_other_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Row(kind="step", size=size) for size in PUBLISHED_SIZES[:4]]
    lost = RuntimeError("CUDA error: an illegal memory access was encountered")
    monkeypatch.setattr(worker, "measure", failing_at({rows[0].key: KeyError("renamed"), rows[1].key: lost}))
    results = Results.open(tmp_path / "results.jsonl", {"device": "some GPU"})
    with pytest.raises(SystemExit) as ended:
        worker.work_off(rows, mock.MagicMock(), results, lambda: 1000.0)
    assert ended.value.code == LOST
    assert [stored(tmp_path / "results.jsonl")[row.key]["status"] for row in rows[:2]] == ["refused", "refused"]
    results = Results.open(tmp_path / "results.jsonl", {"device": "some GPU"})
    assert worker.work_off(rows, mock.MagicMock(), results, lambda: 1000.0) == []
    assert [entry["status"] for entry in stored(tmp_path / "results.jsonl").values()] == ["refused"] * 2 + ["done"] * 2


def test_a_line_that_was_cut_off_costs_no_other(tmp_path: Path) -> None:
    file, rows = tmp_path / "results.jsonl", [Row(kind="step", size=size) for size in PUBLISHED_SIZES[:3]]
    Results.open(file, {"device": "some GPU"}).done(rows[0], {"met": True}, 1.0)
    whole = file.read_text()
    file.write_text(whole + '{"key": "step siz')
    results = Results.open(file, {"device": "some GPU"})
    assert results.finished(rows[0]) and file.read_text().startswith(whole)
    results.begin(rows[1], limit=60.0)
    assert [*stored(file)] == [rows[0].key, rows[1].key]


WORKER = """
import sys, time
from pathlib import Path
sys.path.append(sys.argv[2])
from benchmarks.gpu_parts.results import Results
from benchmarks.gpu_parts.rows import Row
results = Results.open(Path(sys.argv[1]), {"device": "some GPU"})
if not results.finished(Row(kind="step")):
    results.begin(Row(kind="step"), float(sys.argv[3]))
    time.sleep(60)
"""


def test_a_row_that_hangs_is_killed_by_its_own_limit_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "results.jsonl"
    monkeypatch.setattr(supervisor, "LOOK_EVERY", 0.05)
    assert supervise(lambda _: [sys.executable, "-c", WORKER, str(file), str(ROOT), "0.3"], 1000.0, file) == 0
    (entry,) = stored(file).values()
    assert entry["status"] == "refused" and entry["reason"] == "no end after 0 s"


def test_a_row_that_an_earlier_call_left_does_not_hang_while_the_next_worker_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "results.jsonl"
    monkeypatch.setattr(supervisor, "LOOK_EVERY", 0.05)
    Results.open(file, {"device": "some GPU"}).begin(Row(kind="step"), limit=0.0)
    assert supervise(lambda _: [sys.executable, "-c", "import time; time.sleep(0.5)"], 1000.0, file) == 0
    assert stored(file)[Row(kind="step").key]["status"] == RUNNING


def test_a_budget_that_ends_within_a_row_leaves_it_for_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "results.jsonl"
    monkeypatch.setattr(supervisor, "LOOK_EVERY", 0.05)
    assert supervise(lambda _: [sys.executable, "-c", WORKER, str(file), str(ROOT), "50"], 2.0, file) == SPENT
    assert not Results.read(file).finished(Row(kind="step"))


@pytest.mark.parametrize(
    ("ends", "workers", "status"),
    [([-signal.SIGKILL, LOST, 0], 3, 0), ([SPENT, 0], 1, SPENT), ([1, 0], 1, 1)],
    ids=["killed and lost", "out of time", "cannot begin"],
)
def test_a_worker_that_lost_the_device_is_followed_by_another(
    tmp_path: Path, ends: list[int], workers: int, status: int
) -> None:
    program = """
import os, sys
calls = open(sys.argv[1], "a+"); calls.write("x"); calls.flush(); calls.seek(0)
end = int(sys.argv[2].split(",")[len(calls.read()) - 1])
os.kill(os.getpid(), -end) if end < 0 else sys.exit(end)
"""
    calls, given = tmp_path / "calls", []

    def command(left: float) -> list[str]:
        given.append(left)
        return [sys.executable, "-c", program, str(calls), ",".join(map(str, ends))]

    assert supervise(command, 1000.0, tmp_path / "results.jsonl") == status
    assert len(calls.read_text()) == workers
    assert given == sorted(given, reverse=True) and given[0] <= 1000.0


def test_no_worker_is_begun_that_has_no_time_to_measure(tmp_path: Path) -> None:
    ends = [sys.executable, "-c", f"raise SystemExit({LOST})"]
    assert supervise(lambda _: ends, WORTH / 2, tmp_path / "none") == LOST


def test_the_plan_covers_every_size_objective_and_length_once() -> None:
    rows = plan()
    assert len({row.key for row in rows}) == len(rows)
    plain = {(row.size, row.objective, row.row_length) for row in rows if row == Row(
        kind="step", size=row.size, objective=row.objective, row_length=row.row_length
    )}  # fmt: skip
    assert plain == {(s, o, n) for s in PUBLISHED_SIZES for o in ("mlm", "clm") for n in (1024, 8192)}


def test_attention_that_auto_chooses_is_not_measured_twice() -> None:
    left = without_twins(plan(), "varlen")
    assert {row.backend for row in left if row.kind == "step"} == {"auto", "flash", "te", "sdpa"}
    left = without_twins(plan(), "sdpa")
    assert [row.precision for row in left if row.backend == "sdpa" and row.kind != "peer"] == ["fp32"]
    assert {row.backend for row in left if row.kind == "peer"} == {"sdpa", "flash_attention_2"}


@pytest.mark.parametrize("size", PUBLISHED_SIZES)
def test_the_roofline_is_the_one_calculated_apart(size: str) -> None:
    model = SHAPES[size]
    found = [roofline(model, False, [1024], 0.3, H100), roofline(model, True, [1024], 1.0, H100),
             roofline(model, False, [8192], 0.3, H100)]  # fmt: skip
    apart = [ROOFLINE_H100[1024][size], CALCULATED_DECODERS[size], ROOFLINE_H100[8192][size]]
    assert found == pytest.approx(apart, rel=COUNTED_APART)
