"""Pictures of runs: there for one and for several, the same for the same records."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from megatron_ettin.commands.plot import main
from megatron_ettin.errors import DataError
from megatron_ettin.observe.plot import labels, plot_runs, smoothed

PNG = b"\x89PNG\r\n\x1a\n"


def make_run(folder: Path, offset: float = 0.0, steps: int = 60) -> Path:
    folder.mkdir(parents=True)
    with (folder / "metrics.jsonl").open("w") as stream:
        for step in range(1, steps + 1):
            record = {
                "kind": "step", "step": step, "tokens": 8000 * step, "loss": 4 + offset + 5 * math.exp(-step / 20),
                "lr": 1e-3, "gradient_norm": 1 / step, "tokens_per_second": 1e4,
            }  # fmt: skip
            stream.write(json.dumps(record) + "\n")
        stream.write(json.dumps({"kind": "evaluation", "step": steps, "tokens": 8000 * steps, "loss": 4.5}) + "\n")
    return folder


def test_one_run_is_drawn_into_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "encoder")
    assert main([str(run), "--reference", "7.1"]) == 0
    assert capsys.readouterr().out.split() == [f"{run}/plot.png", f"{run}/plot.svg"]
    assert (run / "plot.png").read_bytes().startswith(PNG)


def test_a_comparison_shows_every_run_and_is_the_same_each_time(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, offset) for name, offset in (("encoder", 0.0), ("decoder", 0.5))]
    first, second = (plot_runs(runs, tmp_path / name, reference=7.0) for name in ("a", "b.c"))
    assert [path.name for path in second] == ["b.c.png", "b.c.svg"]
    assert first[1].read_bytes() == second[1].read_bytes()
    assert first[1].read_text().count("<path") > 50


def test_a_record_without_a_figure_leaves_a_gap_and_no_error(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=3)
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps({"kind": "step", "step": 4, "tokens": 32000, "loss": None, "lr": 1e-3}) + "\n")
    assert all(path.is_file() for path in plot_runs([run], tmp_path / "picture"))


def test_a_folder_without_steps_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(DataError, match="no step recorded yet"):
        plot_runs([tmp_path], tmp_path / "x")
    with pytest.raises(DataError, match="no such file"):
        plot_runs([tmp_path / "nowhere"], tmp_path / "x")


def test_runs_are_named_by_what_tells_them_apart() -> None:
    assert labels([Path("/a/x/run"), Path("/a/y/run")]) == ["x/run", "y/run"]
    assert labels([Path("/a/x"), Path("/b/y")]) == ["x", "y"]
    assert labels([Path("/a/x"), Path("/a/x")]) == ["x (1)", "x (2)"]


def test_the_smooth_line_follows_a_slope_without_lag() -> None:
    slope = [100.0 - step for step in range(100)]
    found = smoothed(slope, share=0.1)
    assert found[:90] == pytest.approx(slope[:90])
    assert smoothed([2.0] * 7) == [2.0] * 7
