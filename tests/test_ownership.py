"""A folder has one owner at a time, whoever is killed, wherever it runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from megatron_ettin import ownership
from megatron_ettin.errors import OwnershipError
from megatron_ettin.ownership import claim_folder, owned, owner_of, this_process

HOLD = """
import sys, time
from pathlib import Path
from megatron_ettin import ownership
if sys.argv[2] == "nolinks":
    def link(*_): raise OSError(95, "no links")
    ownership.os.link = link
ownership.GRACE = float(sys.argv[3])
try:
    claim = ownership.claim_folder(Path(sys.argv[1]), "run", "a test")
except ownership.OwnershipError as error:
    print("refused", error, flush=True)
else:
    print("owns", flush=True)
    sys.stdin.read()
    claim.release()
"""


def holder(folder: Path, links: str = "links", grace: float = 0.3) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(folder), links, str(grace)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def elsewhere(folder: Path, **changes: object) -> Path:
    """A claim as a process on another host would have made it."""
    path = folder / ".run.owner-00000001"
    owner = replace(this_process("train"), host="other", boot="another boot", **changes)  # type: ignore[arg-type]
    path.write_text(json.dumps(asdict(owner)))
    return path


@pytest.mark.parametrize("links", ["links", "nolinks"])
def test_of_many_starts_one_owns_the_folder(tmp_path: Path, links: str) -> None:
    starts = [holder(tmp_path, links) for _ in range(8)]
    answers = [said(start) for start in starts]
    for start in starts:
        start.communicate("")
    assert sum(answer.startswith("owns") for answer in answers) == 1
    assert all("in use by process" in answer for answer in answers if not answer.startswith("owns"))


def test_the_next_start_goes_on_by_itself_when_the_owner_was_killed(tmp_path: Path) -> None:
    first = holder(tmp_path)
    assert said(first).startswith("owns")
    assert owner_of(tmp_path, "run")[1] == "alive"
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert owner_of(tmp_path, "run")[1] == "gone"
    second = holder(tmp_path)
    assert said(second).startswith("owns")
    second.communicate("")
    assert owner_of(tmp_path, "run")[1] == "free"


def test_a_start_waits_for_an_owner_that_is_about_to_end(tmp_path: Path) -> None:
    first, second = holder(tmp_path), None
    assert said(first).startswith("owns")
    second = holder(tmp_path, grace=30)
    time.sleep(0.3)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert said(second).startswith("owns")
    second.communicate("")


def test_an_owner_elsewhere_that_is_silent_is_replaced_and_one_that_beats_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "HEARTBEAT", 0.2)
    path = elsewhere(tmp_path)
    stop = threading.Event()
    heart = threading.Thread(target=lambda: [os.utime(path) for _ in iter(lambda: stop.wait(0.1), True)])
    heart.start()
    try:
        with pytest.raises(OwnershipError, match="in use by process .* on other"):
            claim_folder(tmp_path, "run", "train")
    finally:
        stop.set()
        heart.join()
    with owned(tmp_path, "run", "train") as claim:
        assert claim.path.name == ".run.owner-00000002" and not path.exists()


def test_a_requeued_job_takes_its_own_folder_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    elsewhere(tmp_path, job="77", restarts=0)
    started = time.monotonic()
    with owned(tmp_path, "run", "train"):
        assert time.monotonic() - started < ownership.HEARTBEAT / 4


def test_take_over_decides_what_only_waiting_could(tmp_path: Path) -> None:
    elsewhere(tmp_path)
    assert owner_of(tmp_path, "run")[1] == "undecided"
    with owned(tmp_path, "run", "train", take_over=True) as claim:
        claim.require()


def test_an_owner_that_was_taken_over_publishes_nothing(tmp_path: Path) -> None:
    with owned(tmp_path, "run", "train") as claim:
        claim.require()
        later = tmp_path / ".run.owner-00000002"
        later.write_text(json.dumps(asdict(replace(this_process("another"), host="other"))))
        with pytest.raises(OwnershipError, match="was taken over by process"):
            claim.require()
    assert later.exists(), "a lost claim must not remove its successor's"


def test_a_number_is_never_given_twice(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        with owned(tmp_path, "run", "train") as claim:
            assert claim.path.name.endswith(f"{number:08d}")
    assert len(list(tmp_path.iterdir())) == 1


def test_things_in_one_folder_have_owners_of_their_own(tmp_path: Path) -> None:
    with owned(tmp_path, "rows.pack", "pack"), owned(tmp_path, "other.pack", "pack") as other:
        other.require()


def test_a_damaged_claim_is_named_and_not_overridden(tmp_path: Path) -> None:
    path = tmp_path / ".run.owner-00000004"
    path.write_text("{")
    with pytest.raises(OwnershipError, match="owner-00000004 is no claim"):
        claim_folder(tmp_path, "run", "train")
    assert path.exists()
