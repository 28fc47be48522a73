"""A figure without its circumstances is worth nothing: every record says them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

RECORDS = sorted((Path(__file__).parents[2] / "benchmarks" / "results").iterdir())
CIRCUMSTANCES = {
    "date": r"20\d\d-\d\d-\d\d",
    "hardware": r"EPYC|Xeon|H100|H200",
    "versions": r"(?i)python\W+3\.\d+|torch\W+\d+\.\d+",
    "command": r"python (-m|benchmarks/)|bash examples/",
}


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.name)
def test_a_record_says_hardware_versions_command_and_date(record: Path) -> None:
    text = (record / "README.md" if record.is_dir() else record).read_text()
    assert [name for name, form in CIRCUMSTANCES.items() if not re.search(form, text)] == []


def test_the_page_of_results_names_every_record() -> None:
    page = next(path for path in RECORDS if path.name == "README.md").read_text()
    assert [path.name for path in RECORDS if path.name not in page and path.name != "README.md"] == []
