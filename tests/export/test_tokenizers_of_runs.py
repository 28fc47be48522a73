"""The tokenizer of a run from its data to its exports: one and the same, of every kind, wherever two of them meet."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_ettin.checkpoint.load import find
from megatron_ettin.cli import main
from megatron_ettin.config.run import RunConfig
from megatron_ettin.errors import DataError
from megatron_ettin.export import read_canonical
from megatron_ettin.export.runs import export_checkpoint
from megatron_ettin.run_folder import DATA_RECORD, TOKENIZER, stored_tokenizer
from megatron_ettin.tokenizer.identity import read_identity
from megatron_ettin.train.run import train
from tests.export.test_runs import config_of
from tests.support.tokenizers import TEXTS, byte_level, write_kind, write_texts


def prepared(folder: Path, tokenizer: Path, *flags: str) -> Path:
    """A corpus of the texts."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["prepare", "--input", str(write_texts(folder / "text.jsonl")), "--tokenizer-model", str(tokenizer)]
    assert main([*command, "--output-prefix", str(folder / "corpus"), *flags]) == 0
    return folder / "corpus"


def short(corpus: Path, objective: str = "mlm", stage: str = "pretrain", **start: str) -> RunConfig:
    """Two steps."""
    config = config_of(corpus, objective, stage)
    schedule = replace(config.schedule, tokens=900)
    return replace(config, schedule=schedule, start=replace(config.start, **start))


@pytest.mark.parametrize(
    ("kind", "objective"),
    [("no_unknown", "mlm"), ("roberta", "mlm"), ("roberta", "clm"), ("unigram", "mlm"), ("wordpiece", "clm")],
)
def test_every_kind_of_tokenizer_goes_from_text_to_a_folder_for_transformers(
    kind: str, objective: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoTokenizer

    tokenizer = write_kind(tmp_path / "tokenizer", kind)
    engine = ["--tokenizer-engine", "huggingface"] if kind in ("unigram", "wordpiece") else []
    corpus = prepared(tmp_path / "data", tokenizer, *engine)
    train(short(corpus, objective), tmp_path / "run", read_canonical)
    capsys.readouterr()
    assert main(["order", str(tmp_path / "run"), "--step", "1", "--text"]) == 0
    shown = capsys.readouterr().out
    assert any(word in shown for word in ("many", "words", "while", "numbers", "letters")), "masks may hide some"
    shutil.rmtree(tmp_path / "data")
    export_checkpoint(find(tmp_path / "run"), tmp_path / "out")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "out")
    identity = read_identity(tmp_path / "out" / "tokenizer.json")
    trained = stored_tokenizer(find(tmp_path / "run"))
    assert trained and (identity.fingerprint, identity.special_ids) == (trained.fingerprint, trained.special_ids)
    import tokenizers

    plain = tokenizers.Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    ids, roles = plain.encode(TEXTS[7], add_special_tokens=False).ids, identity.special_ids
    ends = [roles["[SEP]"]] if objective == "mlm" else []
    assert loaded(TEXTS[7])["input_ids"] == [roles["[CLS]"], *ids, *ends]
    names = (loaded.cls_token_id, loaded.sep_token_id, loaded.pad_token_id, loaded.mask_token_id)
    assert names == tuple(roles[name] for name in ("[CLS]", "[SEP]", "[PAD]", "[MASK]"))
    assert (loaded.bos_token_id, loaded.eos_token_id) == (roles["[CLS]"], roles["[SEP]"])
    mapped = json.loads((tmp_path / "out" / "special_tokens_map.json").read_text())
    assert ("unk_token" in mapped) == (kind != "no_unknown")
    if kind == "roberta":
        assert mapped["mask_token"] == "<mask>"
        assert objective == "clm" or "<mask>" in (tmp_path / "out" / "README.md").read_text()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run and its export, and the same text by another tokenizer of equal size and by a re-spelt one."""
    folder = tmp_path_factory.mktemp("world")
    write_kind(folder / "ours", "usual")
    other = write_kind(folder / "other", "usual")
    content = json.loads((other / "tokenizer.json").read_text())
    content["normalizer"] = None
    (other / "tokenizer.json").write_text(json.dumps(content))
    spelt = write_kind(folder / "spelt", "usual")
    content = json.loads((spelt / "tokenizer.json").read_text())
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    content |= {"post_processor": None, "padding": None}
    (spelt / "tokenizer.json").write_text(json.dumps(content))
    for name in ("ours", "other", "spelt"):
        prepared(folder / f"{name}-data", folder / name)
    train(short(folder / "ours-data" / "corpus"), folder / "run", read_canonical)
    export_checkpoint(find(folder / "run"), folder / "export")
    return folder


def test_a_run_keeps_its_tokenizer_in_all_places(world: Path) -> None:
    ours = read_identity(world / "ours" / "tokenizer.json")
    assert (world / "run" / TOKENIZER).read_bytes() == (world / "ours" / "tokenizer.json").read_bytes()
    record = json.loads((world / "run" / DATA_RECORD).read_text())["tokenizer"]
    manifest = json.loads((world / "ours-data" / "corpus.json").read_text())["tokenizer"]
    training = json.loads((world / "export" / "training.json").read_text())["tokenizer"]
    stored = stored_tokenizer(find(world / "run"))
    assert stored
    assert record == training == stored.to_dict()
    assert manifest == record | {"fingerprint": ""}, "a corpus has a copy of the file to take it from"
    assert stored.fingerprint == ours.fingerprint


@pytest.mark.parametrize("start", ["huggingface", "from_run"])
def test_weights_of_another_tokenizer_are_refused_before_anything_is_trained(
    start: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(world / ("export" if start == "huggingface" else "run"))
    stage = "pretrain" if start == "huggingface" else "cross"
    wrong = short(world / "other-data" / "corpus", "mntp" if stage == "cross" else "mlm", stage, **{start: source})
    with pytest.raises(DataError, match="has another tokenizer .*prepare the text with the tokenizer.json"):
        train(wrong, tmp_path / "wrong", read_canonical)
    assert not list((tmp_path / "wrong" / "checkpoints").iterdir())
    right = short(world / "spelt-data" / "corpus", wrong.objective, stage, **{start: source})
    assert train(right, tmp_path / "right", read_canonical).state.finished
    said = (tmp_path / "right" / "console.log").read_text()
    assert "only the size" not in said
    assert "rope " in said and "window 8 -> 8, vocabulary 300 -> 300" in said.replace("7 -> 7", "8 -> 8")
    bare = shutil.copytree(source, tmp_path / "bare")
    if start == "huggingface":
        (bare / "tokenizer.json").unlink()
        unknown = short(world / "ours-data" / "corpus", huggingface=str(bare))
        train(unknown, tmp_path / "unknown", read_canonical)
        said = (tmp_path / "unknown" / "console.log").read_text()
        assert "has no fingerprint of its tokenizer: only the size of the vocabulary was compared" in said


def test_convert_refuses_another_tokenizer_and_works_wherever_the_corpus_is(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = str(world / "run")
    assert main(["convert", run, "wrong", "--tokenizer", str(world / "other" / "tokenizer.json")]) == 2
    assert "has another tokenizer" in capsys.readouterr().err
    assert not Path("wrong").exists()
    hidden = (world / "ours-data").rename(world / "hidden")
    try:
        assert main(["convert", run, "out"]) == 0
        assert main(["convert", run, "spelt", "--tokenizer", str(world / "spelt")]) == 0
    finally:
        hidden.rename(world / "ours-data")
    assert "only the size" not in capsys.readouterr().out
    assert read_identity(Path("out/tokenizer.json")) == read_identity(Path("spelt/tokenizer.json"))


def test_a_run_of_before_is_converted_with_a_word_about_what_was_compared(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(world / "run", tmp_path / "run")
    (run / TOKENIZER).unlink()
    monkeypatch.setattr("megatron_ettin.export.runs.stored_tokenizer", lambda checkpoint: None)
    said: list[str] = []
    assert export_checkpoint(find(run), tmp_path / "out", say=said.append)
    assert len(said) == 1 and "only the size of the vocabulary was compared" in said[0]


def test_check_tells_what_a_start_would_refuse(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = ["--model.layers", "4", "--model.hidden", "32", "--model.intermediate", "48", "--model.heads", "2",
             "--model.window", "8", "--run", str(tmp_path / "run"), "--quiet"]  # fmt: skip
    checked = ["check", "tiny", "mlm", "pretrain", *shape, "--init-from", str(world / "export"), "--data"]
    main([*checked, str(world / "other-data" / "corpus")])
    assert "has another tokenizer" in capsys.readouterr().out
    main([*checked, str(world / "spelt-data" / "corpus")])
    assert "another tokenizer" not in capsys.readouterr().out
    cross = ["check", "tiny", "mntp", "cross", *shape, "--from", str(world / "run"), "--data"]
    main([*cross, str(world / "other-data" / "corpus")])
    assert "has another tokenizer" in capsys.readouterr().out


def test_sources_of_a_mixture_are_compared_by_fingerprint(world: Path, tmp_path: Path) -> None:
    def mixture(*names: str) -> Path:
        sources = [{"name": name, "prefix": str(world / f"{name}-data" / "corpus"), "passes": 1} for name in names]
        path = tmp_path / f"{'-'.join(names)}.json"
        path.write_text(json.dumps({"sources": sources}))
        return path

    assert train(short(mixture("ours", "spelt")), tmp_path / "run", read_canonical).state.finished
    with pytest.raises(DataError, match="were made by different tokenizers"):
        train(short(mixture("ours", "other")), tmp_path / "wrong", read_canonical)


def test_a_vocabulary_of_equal_size_is_another_tokenizer(world: Path) -> None:
    assert read_identity(world / "ours" / "tokenizer.json").vocabulary == byte_level().get_vocab_size()
