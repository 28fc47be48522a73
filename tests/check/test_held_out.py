"""Few documents: nothing is held out, which is said before the start, and the run ends as any other."""

from __future__ import annotations

import pytest

from megatron_ettin.commands.check import main
from megatron_ettin.run_folder import list_checkpoints
from tests.train.runs import config_of, go, state_of, toy_documents
from tests.twins.corpus_writer import write_corpus


@pytest.mark.parametrize("documents", [60, 1])
def test_too_few_documents_are_told_and_the_run_ends_with_its_checkpoint(documents, tmp_path, capsys):
    prefix = write_corpus(tmp_path / "few", toy_documents(100 + documents)[100:])
    files = sorted(tmp_path.iterdir())
    arguments = ["tiny", "mlm", "pretrain", "--data", str(prefix), "--quiet", "--data.held-out-share"]
    assert main([*arguments, "0.001"]) == 0
    said = capsys.readouterr().out
    assert "open   held out   no document is held out at data.held_out_share=0.001" in said
    assert "--data.held-out-share 0.05" in said
    assert main([*arguments, "0"]) == 0 and "held out" not in capsys.readouterr().out, "that is what was asked for"
    assert sorted(tmp_path.iterdir()) == files, "a check writes nothing"
    state = go(config_of(prefix, steps=2, data__held_out_share=0.001), tmp_path / "run").state
    assert state.finished and list_checkpoints(tmp_path / "run")[-1].step == state.step
    assert state_of(tmp_path / "run", state.step)["finished"]
    assert "nothing is held out" in (tmp_path / "run" / "console.log").read_text()


def test_a_corpus_with_held_out_documents_is_not_complained_of(tmp_path, capsys):
    prefix = write_corpus(tmp_path / "text", toy_documents(60))
    assert main(["tiny", "mlm", "pretrain", "--data", str(prefix), "--data.held-out-share", "0.2"]) == 0
    assert "no document is held out" not in capsys.readouterr().out
