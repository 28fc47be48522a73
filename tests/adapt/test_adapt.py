"""The verb: from a published model and text to an exported model, by one command that also goes on."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing import event_accumulator

from megatron_ettin.adapt.start import read_record, read_start
from megatron_ettin.adapt.text import is_corpus
from megatron_ettin.cli import main
from megatron_ettin.commands.adapt import asked_for, get_ready, options_of, resolve
from megatron_ettin.config.freezing import frozen_weights
from megatron_ettin.corpus.build.build import build_corpus
from megatron_ettin.corpus.reader import open_corpus
from megatron_ettin.errors import ConfigError
from megatron_ettin.export import read_folder
from megatron_ettin.observe.plot import plot_runs
from megatron_ettin.observe.records import read_records
from megatron_ettin.rows.run_data import open_data
from megatron_ettin.run_folder import read_config
from megatron_ettin.train.record import Recorder
from tests.adapt.starts import SHAPES, loss_by_transformers, write_start, write_text
from tests.adapt.test_start import LOSS_TOLERANCE, spoil
from tests.support.tokenizers import write_kind
from tests.support.warm import warm

SHORT = {"num_hidden_layers": 4, "max_position_embeddings": 256}
FLAGS = (
    "--tokens", "12K", "--precision", "fp32", "--batch.rows", "8", "--data.held-out-share", "0.1",
    "--observe.evaluate-every", "0", "--observe.no-tensorboard",
)  # fmt: skip
"""Six steps or so."""
LAYOUT_TOLERANCE = 1e-5
"""A loss of one rank and of two, in nats: the sums are in float64, and a few steps keep them so."""


@dataclass(frozen=True)
class Place:
    """A folder with a start and some text, and what the command said."""

    folder: Path
    start: Path
    text: Path
    run: Path
    said: str


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A run from ModernBERT's form on text, by two ranks."""
    folder = tmp_path_factory.mktemp("adapted")
    start, text = (
        write_start(folder / "start", SHAPES["ModernBERT-base"], **SHORT),
        write_text(folder / "my.jsonl", 200),
    )
    arguments = ("adapt", start, "--data", text, "--run-folder", folder / "run", *FLAGS)
    said = warm(2, "megatron_ettin", *arguments).stdout
    return Place(folder, start, text, folder / "run", said)


def test_text_becomes_an_exported_model(adapted):
    parity = json.loads((adapted.run / "export" / "parity.json").read_text())
    assert parity["met"] and adapted.said.count("prepared 200 documents") == 1
    read = read_folder(adapted.run / "export")
    before = read_folder(adapted.start)
    assert read.config.model.rope_base_local == before.config.model.rope_base_local == 10_000
    assert any((read.tensors[name] != tensor).any() for name, tensor in before.tensors.items())
    card = (adapted.run / "export" / "README.md").read_text()
    assert f"| started from | {adapted.start} |" in card and "| text | text, 200 documents, " in card
    assert "# start, trained further" in card


def test_the_first_evaluation_is_the_loss_that_transformers_computes_of_the_start(adapted):
    config = read_config(adapted.run)
    batches = open_data(config).held_out(config.objective, config.observe.evaluate_rows)
    first = read_records(adapted.run, "evaluation")[0]
    assert first["step"] == 0
    assert first["loss"] == pytest.approx(loss_by_transformers(adapted.start, batches), abs=LOSS_TOLERANCE)


def test_one_process_without_a_launcher_takes_the_same_steps(adapted, tmp_path):
    prefix = adapted.run / "corpus" / "text"
    words = ["adapt", adapted.start, "--data", prefix, "--run", tmp_path / "run", *FLAGS]
    assert main([str(word) for word in words]) == 0
    for one, two in zip(read_records(tmp_path / "run"), read_records(adapted.run), strict=True):
        assert one["step"] == two["step"] and one["loss"] == pytest.approx(two["loss"], abs=LAYOUT_TOLERANCE)


def test_the_same_command_goes_on_without_the_text_and_the_start(adapted, capsys, monkeypatch):
    command = ["adapt", str(adapted.start), "--data", str(adapted.text), "--run", str(adapted.run), *FLAGS]
    before = (adapted.run / "corpus" / "text.bin").stat().st_mtime_ns
    hidden = [path.rename(path.with_suffix(".hidden")) for path in (adapted.start, adapted.text)]
    try:
        assert main(command) == 0
    finally:
        for path, name in zip(hidden, (adapted.start, adapted.text), strict=True):
            path.rename(name)
    said = capsys.readouterr().out
    assert "exported already" in said and "prepared" not in said
    assert (adapted.run / "corpus" / "text.bin").stat().st_mtime_ns == before


def test_a_run_on_a_corpus_goes_on_and_is_checked_without_the_folder_of_its_start(adapted, tmp_path, monkeypatch):
    """Stopped in the middle, with text to remember: only the first start needs START, and none draws weights."""
    monkeypatch.setattr("megatron_ettin.model.build.initialize_weights", lambda *_: pytest.fail("drawn in vain"))
    start, run, record = tmp_path / "start", tmp_path / "run", Recorder.step
    shutil.copytree(adapted.start, start)
    corpus = str(adapted.run / "corpus" / "text")
    command = ["adapt", str(start), "--data", corpus, "--remember", corpus, "--run", str(run), *FLAGS]

    def step_and_signal(self, state, *arguments):
        record(self, state, *arguments)
        if state.step == 3:
            os.kill(os.getpid(), signal.SIGUSR1)

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "step", step_and_signal)
        assert main(command) != 0
    shutil.rmtree(start)
    assert main(["check", str(run), "--quiet"]) == 0
    assert main(command) == 0
    for one, other in zip(read_records(run, "step"), read_records(adapted.run, "step"), strict=True):
        assert one["step"] == other["step"] and one["loss"] == pytest.approx(other["loss"], abs=LAYOUT_TOLERANCE)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--schedule.peak-rate", "1e-3"], "schedule.peak_rate"),
        (["--json-key", "body"], "was prepared with --json-key"),
        (["--data", "{folder}/other.jsonl"], "was prepared without"),
    ],
)
def test_the_same_run_with_other_settings_or_text_is_refused(changed, message, adapted, capsys):
    write_text(adapted.folder / "other.jsonl")
    data = [] if "--data" in changed else ["--data", str(adapted.text)]
    words = [word.replace("{folder}", str(adapted.folder)) for word in changed]
    assert main(["adapt", str(adapted.start), *data, "--run", str(adapted.run), *FLAGS, *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["check", "estimate"])
def test_check_and_estimate_take_the_folder_of_a_run(verb, adapted, capsys):
    assert main([verb, str(adapted.run)]) == 0
    assert "goes on with the run in it" in capsys.readouterr().out or verb == "estimate"


def other_tokenizer(folder: Path) -> list[str]:
    build_corpus(write_text(folder / "my.jsonl"), folder / "other", write_kind(folder / "no_unknown", "no_unknown"))
    return [str(folder / "start"), "--data", str(folder / "other")]


def spoilt(what: str) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        spoil(folder / "start", what)
        return [str(folder / "start"), "--data", str(write_text(folder / "my.jsonl"))]

    return make


def gemma(folder: Path) -> list[str]:
    start = write_start(folder / "gemma", SHAPES["mmBERT-small"], num_hidden_layers=1)
    return [str(start), "--data", str(write_text(folder / "my.jsonl"))]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (spoilt("nan"), "NaN"),
        (spoilt("tokenizer"), "has no tokenizer.json"),
        (spoilt("pickle"), "safetensors"),
        (spoilt("architecture"), "model_type 'bert' cannot be read"),
        (other_tokenizer, "has another tokenizer"),
        (gemma, "--tokenizer-engine huggingface"),
        (lambda folder: [str(folder / "nowhere"), "--data", "x"], "no such folder"),
        (lambda folder: [str(folder / "start"), "--data", str(folder / "absent.jsonl")], "absent.jsonl"),
        (lambda folder: [str(folder / "start")], "--data missing"),
        (lambda folder: ["--data", "x"], "START missing"),
    ],
)
def test_bad_input_is_one_clear_line_before_anything_is_written(arguments, message, tmp_path, capsys):
    write_start(tmp_path / "start", SHAPES["ModernBERT-base"], num_hidden_layers=1)
    words = arguments(tmp_path)
    assert main(["adapt", *words, "--tokens", "12K", "--run", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_frozen_parts_of_the_export_are_those_of_the_start_bit_for_bit(adapted, tmp_path):
    """Also in bf16: the weights of the start are not rounded to it."""
    data = ["--data", str(adapted.run / "corpus" / "text"), "--run", str(tmp_path / "run")]
    freeze = ["--precision", "bf16", "--freeze", "0-1,embeddings"]
    assert main(["adapt", str(adapted.start), *data, *FLAGS, *freeze]) == 0
    before, after = read_folder(adapted.start), read_folder(tmp_path / "run" / "export")
    same = {name for name, tensor in before.tensors.items() if torch.equal(tensor, after.tensors[name])}
    assert same == frozen_weights(before.config.model, ["0-1", "embeddings"])


def test_the_loss_on_old_text_is_recorded_drawn_and_shown_from_step_0_on(adapted, tmp_path, capsys):
    old = tmp_path / "old"
    build_corpus(write_text(tmp_path / "old.jsonl", 90), old, adapted.start)
    data = ["--data", str(adapted.run / "corpus" / "text"), "--run", str(tmp_path / "run"), "--remember", str(old)]
    shown = ["--observe.evaluate-every", "2", "--observe.tensorboard"]
    assert main(["adapt", str(adapted.start), *data, *FLAGS, *shown]) == 0
    records = read_records(tmp_path / "run", "evaluation")
    assert [record["step"] for record in records][:3] == [0, 2, 4]
    config = read_config(tmp_path / "run")
    remembered = open_data(replace(config, data=replace(config.data, data=str(old))))
    expected = loss_by_transformers(adapted.start, remembered.held_out("mlm", config.observe.evaluate_rows))
    assert records[0]["remembered"] == pytest.approx(expected, abs=LOSS_TOLERANCE)
    assert records[0]["remembered"] != records[0]["loss"]
    assert f"remembered {records[0]['remembered']:.4f}" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "run"), "--quiet"]) == 0
    assert "remember   old: 90 documents" in capsys.readouterr().out
    events = event_accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("evaluation/remembered")][:3] == [0, 2, 4]
    before = plot_runs([tmp_path / "run"])[1].read_text()
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    (tmp_path / "run" / "metrics.jsonl").write_text(text.replace('"remembered"', '"something"'))
    assert plot_runs([tmp_path / "run"])[1].read_text().count("<use") < before.count("<use")


def test_text_to_remember_of_which_nothing_is_held_out_is_refused(adapted, tmp_path, capsys):
    build_corpus(write_text(tmp_path / "old.jsonl", 3), tmp_path / "old", adapted.start)
    data = ["--data", str(adapted.run / "corpus" / "text"), "--run", str(tmp_path / "run")]
    flags = ["--tokens", "12K", "--data.held-out-share", "0.0001", "--remember", str(tmp_path / "old")]
    assert main(["adapt", str(adapted.start), *data, *flags]) == 2
    assert "none of its documents is held out" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_preparation_that_was_interrupted_goes_on_by_the_same_command(tmp_path, monkeypatch, capsys):
    start = write_start(tmp_path / "start", SHAPES["ModernBERT-base"], num_hidden_layers=1)
    words = [str(start), "--data", str(write_text(tmp_path / "my.jsonl")), "--tokens", "12K"]
    words += ["--run", str(tmp_path / "run")]

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("megatron_ettin.adapt.text.build_corpus", interrupted)
        assert main(["adapt", *words]) == 130
    assert (tmp_path / "run" / "start.json").is_file() and not (tmp_path / "run" / "corpus" / "text.json").exists()
    asked, read = asked_for(words), read_record(tmp_path / "run" / "start.json")
    _, flags = resolve(asked, read, 1)
    for said in ("prepared 60 documents", ""):
        get_ready(asked, read, options_of(flags, read), "", print)
        assert said in capsys.readouterr().out
    assert open_corpus(tmp_path / "run" / "corpus" / "text").documents == 60


def test_text_is_told_from_corpora_and_mixtures(adapted, tmp_path):
    (tmp_path / "mixture.json").write_text(json.dumps({"sources": [{"name": "a", "prefix": "a", "passes": 1}]}))
    (tmp_path / "lines.json").write_text('{"text": "one"}\n{"text": "two"}\n')
    (tmp_path / "joined.json").write_text(json.dumps({"sources": [], "tokenizer": {}}))
    prefix = adapted.run / "corpus" / "text"
    known = [prefix, f"{prefix}.json", f"{prefix}.bin", tmp_path / "mixture.json", tmp_path / "joined"]
    assert all(is_corpus(str(path)) for path in known)
    assert not any(is_corpus(str(path)) for path in (tmp_path / "lines.json", adapted.text, tmp_path, "*.jsonl"))


def test_an_objective_may_be_crossed(tmp_path):
    folder = write_start(tmp_path / "start", SHAPES["ModernBERT-base"], num_hidden_layers=1)
    asked = asked_for([str(folder), "--data", "text.jsonl", "--tokens", "1B", "--objective", "clm"])
    config, _ = resolve(asked, read_start(asked.start), 1)
    assert (config.objective, config.stage) == ("clm", "cross")
    assert config.model.rope_base_global == 160_000 and config.start.huggingface == str(folder)


def test_rows_by_flag_take_their_micro_batch_with_them(tmp_path):
    folder = write_start(tmp_path / "start", SHAPES["ModernBERT-base"], num_hidden_layers=1)
    words = ["--batch.rows", "6", "--data.row-length", "1024"]
    asked = asked_for([str(folder), "--data", "a.jsonl", "b.jsonl", "--tokens", "1B", *words])
    assert asked.data == ("a.jsonl", "b.jsonl")
    config, _ = resolve(asked, read_start(asked.start), 2)
    assert (config.batch.rows, config.layout.micro_batch_rows, config.data.piece_length) == (6, 1, 1024)
    (tmp_path / "corpus.idx").touch()
    idle = [str(folder), "--data", str(tmp_path / "corpus"), "--tokens", "1B", "--json-key", "body"]
    with pytest.raises(ConfigError, match="--json-key has no effect"):
        resolve(asked_for(idle), read_start(str(folder)), 1)
    with pytest.raises(ConfigError, match="leave out --init-from"):
        resolve(
            asked_for([str(folder), "--data", "a", "--tokens", "1B", "--init-from", "x"]), read_start(asked.start), 1
        )
