"""`ettin tokenizer train` makes a tokenizer with the Ettin special tokens that the native engine reproduces."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest
from transformers import AutoTokenizer

from megatron_ettin.cli import main
from megatron_ettin.errors import DataError
from megatron_ettin.tokenizer.special_tokens import SPECIAL_TOKENS
from megatron_ettin.tokenizer.tokenizer import Tokenizer
from megatron_ettin.tokenizer.train import read_texts, text_files, train_tokenizer
from tests.tokenizer.conftest import Pair
from tests.tokenizer.samples import ATOMS, SENTENCES, training_text


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    with gzip.open(tmp_path / "text.jsonl.gz", "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps({"text": text}) + "\n" for text in training_text())
    return tmp_path


def test_train(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "tokenizer",
        "train",
        "--input",
        str(texts / "*.gz"),
        "--output",
        str(texts / "out"),
        "--vocabulary",
        "800",
    ]
    assert main(command) == 0
    assert "800 tokens" in capsys.readouterr().out
    tokenizer = Tokenizer.from_file(texts / "out")
    assert list(tokenizer.special_ids) == list(SPECIAL_TOKENS) and tokenizer.vocabulary_size == 800
    Pair.of(tokenizer.content.decode()).assert_equal([*SENTENCES, *ATOMS])
    assert tokenizer.decode(tokenizer.encode(SENTENCES[0])) == SENTENCES[0]
    assert main(command) == 2


def test_transformers_loads_it_with_template_and_mask(texts: Path) -> None:
    main(["tokenizer", "train", "--input", str(texts / "*.gz"), "--output", str(texts / "out"), "--vocabulary", "600"])
    loaded, ours = AutoTokenizer.from_pretrained(texts / "out"), Tokenizer.from_file(texts / "out")
    ids = ours.special_ids
    assert loaded("a  [MASK]")["input_ids"] == [ids["[CLS]"], *ours.encode("a").tolist(), ids["[MASK]"], ids["[SEP]"]]
    assert loaded.mask_token_id == ids["[MASK]"] and loaded.pad_token_id == ids["[PAD]"]


@pytest.mark.parametrize(
    ("lines", "where"),
    [('{"text": "a"}\nno json\n', "line 2"), ('{"other": "a"}\n', "line 1"), ('{"text": 3}\n', "line 1")],
)
def test_bad_lines_are_named(tmp_path: Path, lines: str, where: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.jsonl").write_text(lines)
    assert main(["tokenizer", "train", "--input", str(tmp_path / "bad.jsonl"), "--output", str(tmp_path / "out")]) == 2
    assert where in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_vocabulary_too_small_for_bytes_is_refused(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "tokenizer",
        "train",
        "--input",
        str(texts / "*.gz"),
        "--output",
        str(texts / "out"),
        "--vocabulary",
        "100",
    ]
    assert main(command) == 2
    assert "262" in capsys.readouterr().err


def test_a_folder_of_text_is_found_and_other_formats_are_refused(tmp_path):
    (tmp_path / "b.txt").write_text("two")
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n')
    assert [source.path.name for source in text_files([str(tmp_path)])] == ["a.jsonl"]
    (tmp_path / "a.jsonl").unlink()
    assert [source.path.name for source in text_files([str(tmp_path)])] == ["b.txt"]
    (tmp_path / "c.mds").write_bytes(b"")
    with pytest.raises(DataError, match="mds"):
        text_files([str(tmp_path)])


def test_every_format_gives_the_same_tokenizer(tmp_path):
    texts = list(training_text())
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "b.parquet", row_group_size=3)
    pyarrow.feather.write_feather(pyarrow.table({"text": texts}), str(tmp_path / "c.feather"), chunksize=3)
    for name, delimiter, opener in (("d.csv", ",", open), ("e.tsv.gz", "\t", gzip.open)):
        with opener(tmp_path / name, "wt", newline="", encoding="utf-8") as stream:
            csv.writer(stream, delimiter=delimiter).writerows([["n", "text"], *enumerate(texts)])
    learned = {
        train_tokenizer(read_texts(text_files([str(path)]), "text", 10**9), 500).to_str()
        for path in sorted(tmp_path.iterdir())
    }
    assert len(learned) == 1 and len(list(tmp_path.iterdir())) == 5
    with pytest.raises(DataError, match="no column 'body'.*columns: text"):
        next(read_texts(text_files([str(tmp_path / "b.parquet")]), "body", 10**9))
    (tmp_path / "f.csv").write_text('n,text\n1,"two\nlines"\n2\n')
    with pytest.raises(DataError, match="f.csv, line 4: not as many fields as the header"):
        list(read_texts(text_files([str(tmp_path / "f.csv")]), "text", 10**9))
