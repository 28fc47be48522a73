"""``ettin check``: what is right, what is wrong and what is missing, before a run starts."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from megatron_ettin.checkpoint.manifest import files_of, hash_share, write_manifest
from megatron_ettin.checkpoint.state import TrainState
from megatron_ettin.commands.check import main
from megatron_ettin.config.codec import to_json, with_fields
from megatron_ettin.config.recipes import STAGES, recipe
from megatron_ettin.config.shapes import SHAPES
from megatron_ettin.corpus.build.build import build_corpus
from megatron_ettin.tokenizer.train import train_tokenizer
from tests.twins.corpus_writer import VOCABULARY, write_corpus

DOCUMENTS = [[1 + (number + place) % 200 for place in range(30 + number % 50)] for number in range(200)]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "text", DOCUMENTS)


def checked(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, list[str]]]:
    """Exit status, and the lines by their state."""
    status = main([str(argument) for argument in arguments])
    lines: dict[str, list[str]] = {"ok": [], "open": [], "error": []}
    for line in capsys.readouterr().out.split("\n\n")[0].splitlines():
        if line.split()[0] in lines:
            lines[line.split()[0]].append(line)
    return status, lines


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("stage", STAGES)
def test_every_recipe_can_be_checked(size: str, stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    for objective in ("mlm", "clm"):
        status, lines = checked(capsys, size, objective, stage, "--world", "8")
        assert status == 0 and not lines["error"]
        assert any("no --data" in line for line in lines["open"])
        assert any("no --from" in line for line in lines["open"]) == (stage != "pretrain")


def test_the_resolved_settings_are_printed_and_changes_marked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["17m", "mlm", "pretrain", "--tensor", "2"]) == 0
    shown = capsys.readouterr().out
    assert "layout.tensor" in shown and "2   (recipe: 1)" in shown and "fingerprint " in shown
    assert main(["17m", "mlm", "pretrain", "--quiet"]) == 0
    assert "fingerprint " not in capsys.readouterr().out


def test_ranks_that_idle_are_named_with_a_layout_that_loses_less(capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = checked(capsys, "150m", "mlm", "extension", "--world", "64")
    (line,) = [line for line in lines["ok"] if "sharing" in line]
    assert status == 0 and "9 or 10 micro-batches of 1 rows on each of 64 data ranks" in line
    assert "without rows 5.0% of their time in a full step, 5.0% in the stage: a data size of 38 or 76" in line


def test_data_is_opened_and_counted(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = checked(capsys, "tiny", "mlm", "pretrain", "--data", corpus)
    assert status == 0 and not lines["open"]
    text = "\n".join(lines["ok"])
    assert "200 documents" in text and f"{VOCABULARY} ids" in text and "about" in text
    assert f"{VOCABULARY} of vocabulary" in text, "an open vocabulary is taken from the data"


def test_a_damaged_corpus_is_an_error_and_the_rest_is_still_checked(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus.with_name("text.bin").write_bytes(b"short")
    status, lines = checked(capsys, "tiny", "mlm", "pretrain", "--data", corpus)
    assert status == 2 and len(lines["error"]) == 1 and "5 bytes" in lines["error"][0]
    assert any("steps" in line for line in lines["ok"])


def test_a_mixture_with_a_missing_source_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixture = tmp_path / "mix.json"
    mixture.write_text(json.dumps({"sources": [{"name": "web", "prefix": "nothing", "passes": 1}]}))
    status, lines = checked(capsys, "tiny", "mlm", "pretrain", "--data", mixture)
    assert status == 2 and "nothing.json: no such file" in lines["error"][0]


def test_every_broken_rule_is_an_error_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = checked(capsys, "1b", "mlm", "extension", "--tensor", "7", "--checkpoint.keep", "1")
    assert status == 2 and len(lines["error"]) == 2
    status, lines = checked(capsys, "1b", "mlm", "extension", "--tensor", "4", "--world", "6")
    assert status == 2 and "world size 6" in lines["error"][0]


def previous_run(folder: Path, size: str = "tiny", saved: bool = True) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(to_json(recipe(size, "clm", "pretrain")))
    if saved:
        (folder / "checkpoints" / "step-00000120").mkdir(parents=True)
    return folder


def test_the_run_to_go_on_from_must_have_the_shape_and_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = previous_run(tmp_path / "good")
    status, lines = checked(capsys, "tiny", "clm", "extension", "--from", f"{good}@120")
    assert status == 0 and any("step-00000120" in line for line in lines["ok"])
    odd = previous_run(tmp_path / "of@home" / "run")
    status, lines = checked(capsys, "tiny", "clm", "extension", "--from", odd)
    assert status == 0, "an @ in a folder's name names no step"
    for name, folder, message in (
        ("step", f"{good}@7", "step 7 is not there; steps there: 120"),
        ("size", previous_run(tmp_path / "big", size="17m"), "hidden 256 there, 128 here"),
        ("empty", previous_run(tmp_path / "empty", saved=False), "no checkpoint yet"),
        ("absent", tmp_path / "nowhere", "no such file"),
    ):
        status, lines = checked(capsys, "tiny", "clm", "extension", "--from", folder)
        assert status == 2 and message in lines["error"][0], name
    status, lines = checked(capsys, "tiny", "mlm", "extension", "--from", good)
    assert status == 2 and "was trained on clm" in lines["error"][0] and "stage cross" in lines["error"][0]


def test_a_hugging_face_folder_must_have_the_shape_and_safetensors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {"num_hidden_layers": 7, "hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 4}
    fields["vocab_size"] = 512
    (tmp_path / "config.json").write_text(json.dumps(fields))
    arguments = ("tiny", "mlm", "pretrain", "--init-from", tmp_path)
    assert "no .safetensors file" in checked(capsys, *arguments)[1]["error"][0]
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert checked(capsys, *arguments)[0] == 0
    for changed, message in (
        ({"hidden_size": 256}, "hidden 256 there, 128 here"),
        ({"global_attn_every_n_layers": 2}, "global_every 2 there, 3 here"),
        ({"layer_types": ["full_attention"] * 7}, "global_every 1 there, 3 here"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(fields | changed))
        assert message in checked(capsys, *arguments)[1]["error"][0]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    arguments = ("tiny", "mlm", "pretrain", "--model.vocabulary", "576", "--init-from", tmp_path)
    assert "vocabulary 512 there, 576 here" in checked(capsys, *arguments)[1]["error"][0]


def test_lost_settings_of_a_run_are_those_of_its_newest_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = previous_run(tmp_path / "run")
    (run / "config.json").rename(tmp_path / "settings")
    arguments = ["tiny", "clm", "pretrain", "--run", run]
    status, lines = checked(capsys, *arguments)
    assert status == 2 and "no checkpoint tells the settings" in lines["error"][0]
    settings = json.loads((tmp_path / "settings").read_text())
    newest = run / "checkpoints" / "step-00000120"
    (newest / "state.json").write_text(json.dumps({"config": settings, "state": TrainState(step=120).to_dict()}))
    write_manifest(newest, hash_share(newest, files_of(newest), 0, 1))
    status, lines = checked(capsys, *arguments)
    assert status == 0 and "goes on with the run in it from step 120" in "\n".join(lines["ok"])
    status, lines = checked(capsys, *arguments, "--schedule.peak-rate", "1e-4")
    assert status == 2 and "this folder holds a run with other settings" in lines["error"][0]


def test_a_run_without_its_checkpoints_is_refused_as_its_start_refuses_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = previous_run(tmp_path / "run", saved=False)
    assert "at step 0: nothing has been saved yet" in "\n".join(
        checked(capsys, "tiny", "clm", "pretrain", "--run", run)[1]["ok"]
    )
    (run / "saves.jsonl").write_text('{"step": 120, "reason": "steps", "time": 1.0}\n')
    for known in (True, False):  # with config.json, and without
        status, lines = checked(capsys, "tiny", "clm", "pretrain", "--run", run)
        assert status == 2 and "would begin at step 0: its checkpoints/ is gone" in lines["error"][0], known
        (run / "config.json").unlink(missing_ok=True)
    (run / "checkpoints").mkdir()
    status, lines = checked(capsys, "tiny", "clm", "pretrain", "--run", run)
    assert status == 2 and "no whole checkpoint is left" in lines["error"][0]


def test_a_folder_with_another_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("tiny", "mlm", "pretrain", "--run", tmp_path)
    stored = with_fields(recipe("tiny", "mlm", "pretrain"), {"model.vocabulary": 8192, "layout.data": 2})
    (tmp_path / "config.json").write_text(to_json(stored))
    assert "goes on with the run in it" in "\n".join(checked(capsys, *arguments)[1]["ok"])
    other = with_fields(recipe("tiny", "mlm", "pretrain"), {"schedule.peak_rate": 1e-5})
    (tmp_path / "config.json").write_text(to_json(other))
    status, lines = checked(capsys, *arguments)
    assert status == 2 and "this folder holds a run with other settings" in lines["error"][0]


def test_the_disk_that_a_run_takes_is_compared_with_what_is_free(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("17m", "mlm", "pretrain", "--run", tmp_path / "not" / "yet", "--checkpoint.every-tokens")
    free = 10 * 10**9
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(total=free, free=free))
    lines = checked(capsys, *arguments, "0")[1]
    (line,) = [line for line in lines["ok"] if line.startswith("ok     disk")]
    assert "1 to keep and the newest 2 saved by the clock; 237.19MB each, 10.00GB free" in line
    status, lines = checked(capsys, *arguments, "1B")
    (line,) = [line for line in lines["open"] if "disk" in line]
    assert status == 0 and "make room, raise --checkpoint.every-tokens" in line
    lines = checked(capsys, *arguments, "0", "--checkpoint.keep", "0")[1]
    assert any("one more each 30 minutes" in line for line in lines["ok"])


def test_only_a_deep_check_finds_a_flipped_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [f"document {number} about the sea, the wind and {number * 7} ships" for number in range(300)]
    tokenizer = tmp_path / "tokenizer.json"
    train_tokenizer(iter(texts), 400).save(str(tokenizer))
    source = tmp_path / "text.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    build_corpus(source, tmp_path / "corpus", tokenizer)
    arguments = ("tiny", "mlm", "pretrain", "--data", tmp_path / "corpus", "--deep")
    status, lines = checked(capsys, *arguments)
    assert status == 0 and any("every byte read" in line for line in lines["ok"])
    content = bytearray((tmp_path / "corpus.bin").read_bytes())
    content[100] ^= 1
    (tmp_path / "corpus.bin").write_bytes(content)
    assert checked(capsys, *arguments[:-1])[0] == 0, "sizes and fingerprint still fit"
    status, lines = checked(capsys, *arguments)
    assert status == 2 and "corpus is damaged: .bin checksum" in lines["error"][0]
