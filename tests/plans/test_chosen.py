"""Where a run is asked for, a plan's folder stands for its last stage with a checkpoint, PLAN/STAGE for that stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megatron_ettin.errors import CheckpointError
from megatron_ettin.plans.chosen import chosen_run, named_run


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """Three stages, of which two have saved."""
    folder = tmp_path / "150m"
    stages = [{"name": name, "folder": f"{place}-{name}"} for place, name in enumerate(("long", "short", "end"), 1)]
    for stage in stages[:2]:
        (folder / stage["folder"] / "checkpoints" / "step-00000020").mkdir(parents=True)
    (folder / "3-end").mkdir()
    (folder / "3-end" / "metrics.jsonl").touch()
    (folder / "plan.json").write_text(json.dumps({"stages": stages}))
    return folder


def test_a_plan_stands_for_its_last_stage_with_a_checkpoint_and_says_so(plan: Path) -> None:
    said: list[str] = []
    assert named_run(str(plan), said.append) == (plan / "2-short", None)
    assert named_run(f"{plan}@20", said.append) == (plan / "2-short", 20)
    assert said == [f"{plan} holds a plan: {plan / '2-short'} is taken, the last stage with a checkpoint"] * 2


@pytest.mark.parametrize("name", ["3-end", "end"])
def test_a_stage_is_named_by_its_folder_or_by_its_name(name: str, plan: Path) -> None:
    assert chosen_run(plan / name, lambda text: None) == plan / "3-end"


def test_what_is_no_plan_is_left_as_it_is(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert chosen_run(folder, pytest.fail) == folder


def test_a_stage_that_a_plan_has_not_and_a_plan_that_has_saved_nothing_are_refused(plan: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds a plan without a stage decay; it has long, short, end"):
        chosen_run(plan / "decay", pytest.fail)
    (tmp_path / "fresh").mkdir()
    (tmp_path / "fresh" / "plan.json").write_text(json.dumps({"stages": [{"name": "a", "folder": "1-a"}]}))
    with pytest.raises(CheckpointError, match="nothing has been saved yet"):
        chosen_run(tmp_path / "fresh", pytest.fail)
