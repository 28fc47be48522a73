"""MDS shards, sentences, partitions, several columns: the rarer ways in."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from megatron_ettin.corpus.build import BuildOptions, build_corpus
from megatron_ettin.corpus.build.sentences import split_text
from megatron_ettin.corpus.reader import open_corpus
from megatron_ettin.errors import ConfigError, DataError
from megatron_ettin.sources import members
from tests.corpus.oracle import read_lines, write_megatron
from tests.corpus.test_build import content, eod_of
from tests.sources.mds_writer import write_mds
from tests.sources.test_read_ahead import MANY, PACK


@pytest.fixture
def encoded(tokenizer, texts):
    """Ids of every text that has any, without template specials."""
    from tokenizers import Tokenizer

    reference = Tokenizer.from_file(str(tokenizer))
    found = [reference.encode(text, add_special_tokens=False).ids for text in texts]
    return [ids for ids in found if ids]


@pytest.mark.parametrize("compress", [True, False])
def test_mds_text_equals_jsonl(tmp_path, jsonl, texts, tokenizer, compress, monkeypatch):
    monkeypatch.setattr("megatron_ettin.sources.mds.BATCH_BYTES", 5000)
    samples = [{"id": str(number), "text": text, "len": number} for number, text in enumerate(texts)]
    write_mds(tmp_path / "mds", samples, {"id": "str", "len": "int", "text": "str"}, 90, compress)
    build_corpus(tmp_path / "mds", tmp_path / "c", tokenizer)
    build_corpus(jsonl, tmp_path / "d", tokenizer)
    assert content(tmp_path / "c") == content(tmp_path / "d")


@pytest.mark.parametrize("encoding", ["ndarray:uint32", "ndarray:int64", "ndarray"])
def test_mds_ids_are_taken_as_they_are(tmp_path, tokenizer, encoded, encoding):
    samples = [{"id": "x", "input_ids": np.array(ids, np.uint16 if encoding == "ndarray" else None)} for ids in encoded]
    write_mds(tmp_path / "mds", samples, {"id": "str", "input_ids": encoding}, 150)
    with pytest.raises(DataError, match="columns: id, input_ids"):
        build_corpus(tmp_path / "mds", tmp_path / "c", tokenizer)
    corpus = build_corpus(
        tmp_path / "mds", tmp_path / "c", tokenizer, BuildOptions(keys=("input_ids",), append_eod=True, restart=True)
    ).corpus
    assert [corpus.document(number)[:-1].tolist() for number in range(corpus.documents)] == encoded
    assert (corpus.document(0)[-1], corpus.eod) == (eod_of(tokenizer),) * 2


def test_ids_with_template_specials_are_refused_or_stripped(tmp_path, tokenizer, encoded):
    special = {entry["content"]: entry["id"] for entry in json.loads(tokenizer.read_text())["added_tokens"]}
    samples = [{"input_ids": [special["[CLS]"], *ids, special["[SEP]"]]} for ids in encoded]
    write_mds(tmp_path / "mds", samples, {"input_ids": "ndarray:uint32"}, 150)
    options = {"keys": ("input_ids",)}
    with pytest.raises(DataError, match="template_specials.*--strip-template-specials"):
        build_corpus(tmp_path / "mds", tmp_path / "c", tokenizer, BuildOptions(**options))
    options |= {"strip_template_specials": True, "restart": True}
    corpus = build_corpus(tmp_path / "mds", tmp_path / "c", tokenizer, BuildOptions(**options)).corpus
    assert [corpus.document(number).tolist() for number in range(corpus.documents)] == encoded


def test_ids_outside_the_vocabulary_are_refused(tmp_path, tokenizer):
    for bad in (700_000, -1):
        path = tmp_path / f"{bad}.parquet"
        pa.parquet.write_table(pa.table({"ids": [[5, 6], [7, bad]]}), path)
        with pytest.raises(DataError, match="invalid_ids"):
            build_corpus(path, tmp_path / f"c{bad}", tokenizer, BuildOptions(keys=("ids",)))


def test_parquet_nulls_and_columns(tmp_path, tokenizer):
    path = tmp_path / "t.parquet"
    table = pa.table(
        {"a": ["x", None, "", "y z"], "b": pa.array(["1", "2", "3", "4"], pa.large_string()), "n": [1] * 4}
    )
    pa.parquet.write_table(table, path, row_group_size=2)
    with pytest.raises(DataError, match="row 1: not_a_string"):
        build_corpus(path, tmp_path / "c", tokenizer, BuildOptions(keys=("a",)))
    options = BuildOptions(keys=("a", "b"), on_error="skip", restart=True)
    first, second = build_corpus(path, tmp_path / "c", tokenizer, options).corpora
    assert (first.documents, second.documents) == (3, 3)
    assert first.manifest.rejected == {"not_a_string": 1}
    write_megatron(
        [{"a": a, "b": b} for a, b in (("x", "1"), ("", "3"), ("y z", "4"))], tmp_path / "m", tokenizer, ("a", "b")
    )
    for key in "ab":
        assert content(tmp_path / f"c_{key}_document") == content(tmp_path / f"m_{key}_document")
    with pytest.raises(DataError, match="column 'n' holds int64"):
        build_corpus(path, tmp_path / "d", tokenizer, BuildOptions(keys=("n",)))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="not a readable parquet file"):
        build_corpus(path, tmp_path / "e", tokenizer)


@pytest.mark.parametrize("suffix", PACK)
def test_cut_files_give_the_corpus_of_one_thread(tmp_path, jsonl, tokenizer, suffix, monkeypatch):
    monkeypatch.setattr(members, "PART_BYTES", 1000)
    lines = jsonl.read_bytes().splitlines(keepends=True)
    pieces = [b"".join(lines[at : at + 5]) for at in range(0, len(lines), 5)]
    path = tmp_path / f"text.jsonl.{suffix}"
    path.write_bytes(PACK[suffix](pieces))
    one, many = (
        build_corpus(path, tmp_path / name, tokenizer, BuildOptions(threads=threads)).corpus
        for name, threads in (("one", 1), ("many", MANY))
    )
    assert one.fingerprint == many.fingerprint


@pytest.mark.parametrize("partitions", [1, 2, 5])
def test_partitions_give_the_order_of_megatron(tmp_path, jsonl, tokenizer, partitions):
    records = read_lines(jsonl)
    ordered = [record for start in range(partitions) for record in records[start::partitions]]
    write_megatron(ordered, tmp_path / "m", tokenizer, eod=eod_of(tokenizer))
    build_corpus(jsonl, tmp_path / "c", tokenizer, BuildOptions(append_eod=True, partitions=partitions))
    assert content(tmp_path / "c") == content(tmp_path / "m_text_document")


@pytest.fixture
def punkt(tmp_path, monkeypatch):
    """nltk data for a small punkt model, made here; the real one is trained likewise."""
    import nltk
    from nltk.tokenize import punkt

    monkeypatch.setenv("NLTK_DATA", str(tmp_path / "nltk"))
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk")])
    trainer = punkt.PunktTrainer()
    trainer.train("Mr. Smith went. He came at 5 p.m. yesterday! Dr. No said so. Mr. Jones left. " * 20, finalize=True)
    folder = tmp_path / "nltk" / "tokenizers" / "punkt_tab" / "english"
    folder.mkdir(parents=True)
    punkt.save_punkt_params(trainer.get_params(), str(folder))
    return punkt


@pytest.mark.parametrize("keep_newlines", [False, True])
def test_sentences_are_those_of_megatron(tmp_path, tokenizer, punkt, keep_newlines):
    from megatron_ettin.corpus.build.sentences import load_splitter

    texts = ["Mr. Smith went home.\nHe came back.\n\nWhy? Nobody knows!", "", "One sentence", "A. " * 400, " \n "] * 20
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    splitter = load_splitter("english", keep_newlines=keep_newlines)
    records = [{"text": split_text(splitter, text)} for text in texts]
    write_megatron(records, tmp_path / "m", tokenizer, eod=eod_of(tokenizer), level="sentence")
    options = BuildOptions(
        split_sentences=True, keep_newlines=keep_newlines, append_eod=True, threads=2, megatron_names=True
    )
    corpus = build_corpus(path, tmp_path / "c", tokenizer, options).corpus
    assert content(tmp_path / "c") == content(tmp_path / "m_text_sentence")
    assert content(tmp_path / "c_text_sentence") == content(tmp_path / "c")
    assert corpus.sequences > corpus.documents == len(texts)
    assert len(records[0]["text"]) > 1


SPLITTING = """
import sys, time
from megatron_ettin.corpus.build.sentences import SentencePool
pool = SentencePool("english", keep_newlines=False, children=2)
print(*(child.pid for child in pool._children), flush=True)
time.sleep(100)
"""


def test_processes_that_split_sentences_end_with_a_killed_build(punkt, root):
    import subprocess
    import sys
    import time

    with subprocess.Popen([sys.executable, "-c", SPLITTING], cwd=root, stdout=subprocess.PIPE, text=True) as build:
        children = build.stdout.readline().split()
        build.kill()
    assert len(children) == 2
    for _ in range(200):
        states = subprocess.run(["ps", "-o", "stat=", "-p", ",".join(children)], capture_output=True, text=True).stdout
        if all(state.startswith("Z") for state in states.split()):
            return
        time.sleep(0.1)
    pytest.fail(f"still there: {children}")


def test_absent_punkt_data_is_told_with_the_remedy(tmp_path, jsonl, tokenizer, monkeypatch):
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with pytest.raises(ConfigError, match="nltk.downloader punkt_tab"):
        build_corpus(jsonl, tmp_path / "c", tokenizer, BuildOptions(split_sentences=True))


def test_megatron_invocations_work_unchanged(tmp_path, jsonl, tokenizer, root):
    import subprocess
    import sys

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "[SEP]"}}))
    command = f"""tools/preprocess_data.py --input {jsonl} --output-prefix {tmp_path / "c"} --json-keys text
        --tokenizer-type HuggingFaceTokenizer --tokenizer-model {folder} --append-eod --workers 2 --partitions 1
        --log-interval 100"""
    done = subprocess.run([sys.executable, *command.split()], cwd=root, capture_output=True, text=True, check=True)
    special = {entry["content"]: entry["id"] for entry in json.loads(tokenizer.read_text())["added_tokens"]}
    write_megatron(read_lines(jsonl), tmp_path / "m", tokenizer, eod=special["[SEP]"])
    assert content(tmp_path / "c_text_document") == content(tmp_path / "m_text_document")
    assert open_corpus(tmp_path / "c_text_document").eod == special["[SEP]"]
    assert "documents  409" in done.stdout
