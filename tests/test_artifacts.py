"""What an earlier version wrote opens, resumes and converts: the files in ``tests/artifacts``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from megatron_ettin.cli import main
from megatron_ettin.export import read_canonical, read_folder
from megatron_ettin.observe import read_records
from megatron_ettin.run_folder import read_config
from megatron_ettin.train.run import train

ARTIFACTS = Path(__file__).parent / "artifacts"
LOSS_TOLERANCE = 5e-3
"""Relative; the run computes in bf16, whose sums another processor rounds in another order."""
OTHER_DROPOUT = 0.1
"""Relative; dropout draws other bits than the version that wrote the run, and a step has a few dozen labels."""


@pytest.fixture
def artifacts(tmp_path, monkeypatch):
    """A copy, as the current folder: the settings of the run name the corpus by a relative path."""
    shutil.copytree(ARTIFACTS, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def test_the_corpus_opens_verifies_and_shows(artifacts, capsys):
    assert main(["corpus", "verify", "corpus"]) == 0
    assert main(["corpus", "show", "corpus", "7"]) == 0
    assert "paper green wheel maple" in capsys.readouterr().out


def test_the_run_resumes_to_the_end_that_it_had(artifacts):
    run = artifacts / "run-mlm"
    assert read_records(run, "step")[-1]["step"] == 20
    outcome = train(read_config(run), run, read_canonical)
    assert outcome.state.finished
    assert (run / "console.log").read_text().count("dropout") == 1  # its bits are others from here on
    recorded = [json.loads(line) for line in (artifacts / "recorded-metrics.jsonl").read_text().splitlines()]
    steps = [record for record in recorded if record["kind"] == "step"]
    found = read_records(run, "step")
    for name in ("step", "tokens", "labels", "batch", "lr"):
        assert [record[name] for record in found] == [record[name] for record in steps], name
    losses = [record["loss"] for record in steps]
    assert [record["loss"] for record in found[:20]] == pytest.approx(losses[:20], rel=LOSS_TOLERANCE)
    assert [record["loss"] for record in found[20:]] == pytest.approx(losses[20:], rel=OTHER_DROPOUT)


def test_the_checkpoint_converts_to_the_stored_export_bit_for_bit(artifacts):
    assert main(["convert", "run-mlm", "again"]) == 0
    before, after = (load_file(artifacts / name / "model.safetensors") for name in ("export-mlm", "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name].view(torch.int32), after[name].view(torch.int32)) for name in before)
    for name in ("config.json", "tokenizer.json"):
        assert (artifacts / "export-mlm" / name).read_bytes() == (artifacts / "again" / name).read_bytes(), name


def test_the_stored_export_is_read(artifacts):
    read = read_folder(artifacts / "export-mlm")
    assert read.config.model.layers == 2 and read.config.objective == "mlm"


def test_nothing_of_the_machine_that_wrote_them_is_kept():
    for path in ARTIFACTS.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [mark for mark in (b"/home/", b"/root/", b"/Users/") if mark in content], path
