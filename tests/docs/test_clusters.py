"""docs/clusters.md holds what its script makes, its commands run, and what it says in words follows from its tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from megatron_ettin.cli import main
from megatron_ettin.config.derived import model_ranks
from megatron_ettin.config.shapes import PUBLISHED_SIZES
from tools.plan_clusters import GPUS, TABLES, planned, stage_row, with_table


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs" / "clusters.md").read_text()


def test_what_is_assumed_is_what_the_model_takes(page: str) -> None:
    assert TABLES["assumptions"]() in page


@pytest.mark.parametrize(("size", "stage", "gpus"), [("17m", "pretrain", 256), ("1b", "extension", 64)])
def test_rows_of_the_page_are_those_of_the_script(page: str, size: str, stage: str, gpus: int) -> None:
    table = re.search(rf"<!-- {stage} -->\n(.*?)<!-- end of {stage} -->", page, re.DOTALL)
    assert table and f"| {' | '.join(stage_row(size, stage, gpus))} |" in table[1]


@pytest.mark.slow
def test_the_page_is_what_the_script_makes(page: str) -> None:
    made = page
    for name, make in TABLES.items():
        assert f"<!-- {name} -->" in page, name
        made = with_table(made, name, make())
    assert made == page


@pytest.mark.slow
def test_what_the_page_says_of_layouts_is_what_the_model_finds() -> None:
    for size in PUBLISHED_SIZES:
        assert all(model_ranks(planned(size, "mlm", "pretrain", gpus).layout) == 1 for gpus in GPUS)
        assert all(planned(size, "mlm", "extension", gpus).layout.context > 1 for gpus in (64, 256))


@pytest.mark.slow
def test_the_goal_is_met_but_for_the_growing_batch_of_150m() -> None:
    rows = [line.strip("| ").split(" | ") for line in TABLES["goals"]().splitlines()[2:]]
    assert {row[-1] for row in rows} == {"met", "met by full steps alone"}
    assert [row[:3] for row in rows if row[-1] != "met"] == [["pretrain", "150m", "64"]]


def test_commands_of_the_page_run_and_say_that_they_are_modelled(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    commands = "".join(re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)).splitlines()
    assert commands
    for command in commands:
        ettin, *arguments = command.split()
        assert ettin == "ettin" and main(arguments) == 0
        assert "modelled, not measured on any GPU" in capsys.readouterr().out
