"""A study's folder has one owner at a time."""

from __future__ import annotations

import os
from pathlib import Path

from megatron_ettin.commands.study import OWNER
from megatron_ettin.ownership import claim_folder
from tests.support.launch import ettin
from tests.train.runs import write_toy


def test_a_second_study_in_the_same_folder_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    corpus, study = write_toy(tmp_path), tmp_path / "study"
    study.mkdir()
    claim = claim_folder(study, OWNER, "the first study")
    try:
        refused = ettin("study", "--data", corpus, "--run", study, "--size", "tiny", "--tokens", "20K", status=2)
        assert f"{study} is in use by process {os.getpid()}" in refused.stderr and "Traceback" not in refused.stderr
        assert {path.name for path in study.iterdir()} == {claim.path.name}
    finally:
        claim.release()
