"""The layout check sees what a forgotten reduction does, and passes what rounding does."""

import json

import pytest

from megatron_ettin.study.layout_check import compared, main

FIGURES = {"kind": "step", "labels": 30, "gradient_norm": 1.0}
STEPS = [FIGURES | {"step": i, "tokens": 100 * i, "loss": 6.0 / i} for i in (1, 2, 3)]


def changed(**changes: object) -> list[dict]:
    return [*STEPS[:2], STEPS[2] | changes]


@pytest.mark.parametrize("other", [STEPS, changed(loss=2.0 + 2e-5)])
def test_equal_to_rounding_passes(other):
    assert compared(STEPS, other)["met"]


@pytest.mark.parametrize(
    "other",
    [changed(loss=2.001), changed(loss=None), changed(loss=float("nan")), changed(labels=29), STEPS[:2], []],
)
def test_anything_else_fails(other):
    assert not compared(STEPS, other)["met"]


def test_the_result_is_written_only_when_it_is_met(tmp_path, capsys):
    for name, records in (("one", STEPS), ("same", STEPS), ("other", changed(loss=9.0))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert main([str(tmp_path / name) for name in ("one", "other", "bad.json")]) == 1
    assert not (tmp_path / "bad.json").exists()
    assert main([str(tmp_path / name) for name in ("one", "same", "good.json")]) == 0
    assert json.loads((tmp_path / "good.json").read_text())["met"]
    assert "same 3 steps" in capsys.readouterr().out
