"""A run survives people, disks and other programs: each case is a real process that trains, see ``run_cases``."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.run_cases import CASES
from tests.support.launch import ROOT, environment

QUICK = (
    "nothing is wrong", "a flipped bit in the newest shards", "no common.pt, with a manifest that fits",
    "config.json is lost", "a dead owner", "no room for metrics.jsonl", "nobody reads the output",
    "the evaluation fails", "SIGHUP while it trains", "state.json cannot be read", "a newer version's manifest",
    "a flipped bit in every manifest", "checkpoints/ is deleted", "a living owner", "no room for shards",
    "taken over while it saves", "checkpoints/ is deleted, start over", "a shard cut short, with a manifest that fits",
    "a pipe in the place of a shard", "SIGTERM while it saves beside the training",
    "a flush fails beside the training",
)  # fmt: skip
"""Cases of the default suite: one or two of each kind. All of them run with -m slow."""


def verdicts(folder: Path, names: list[str]) -> dict[str, dict]:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler and a loader that puts a library in front of others")
    library = folder / "faulty_disk.so"
    source = Path(__file__).with_name("faulty_disk.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.run_cases", str(folder), *(f"={name}" for name in names)],
        cwd=ROOT, env=environment({"LD_PRELOAD": str(library), "PYTHONWARNINGS": "ignore", "TMPDIR": str(folder)}),
        capture_output=True, text=True, timeout=1200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return {verdict["case"]: verdict for verdict in map(json.loads, done.stdout.splitlines())}


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    return verdicts(tmp_path_factory.mktemp("cases"), list(QUICK))


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict]]:
    yield verdicts(tmp_path_factory.mktemp("cases"), [case.name for case in CASES])


@pytest.mark.parametrize("name", QUICK)
def test_a_run_survives(quick: dict[str, dict], name: str) -> None:
    assert quick[name]["wrong"] == [], quick[name]["said"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_a_run_survives_every_case(every: dict[str, dict], name: str) -> None:
    assert every[name]["wrong"] == [], every[name]["said"]


def test_there_are_forty_cases_and_each_has_a_name_of_its_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 40
    assert set(QUICK) <= {case.name for case in CASES}
