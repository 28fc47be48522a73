"""The builder: byte equality with Megatron-LM, formats, threads, resuming, bad records."""

import csv
import gzip
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import zstandard

from megatron_ettin.corpus.build import BuildOptions, build_corpus
from megatron_ettin.corpus.build.run import SMALL_BLOCK
from megatron_ettin.corpus.reader import open_corpus
from megatron_ettin.errors import DataError
from tests.corpus.oracle import read_lines, write_megatron


def content(prefix):
    return prefix.with_name(prefix.name + ".bin").read_bytes(), prefix.with_name(prefix.name + ".idx").read_bytes()


def eod_of(tokenizer):
    return {token["content"]: token["id"] for token in json.loads(tokenizer.read_text())["added_tokens"]}[
        "<|endoftext|>"
    ]


@pytest.fixture(scope="module")
def expected(tmp_path_factory, jsonl, tokenizer):
    """Both files as Megatron-LM's script writes them, with an eod."""
    folder = tmp_path_factory.mktemp("megatron")
    write_megatron(read_lines(jsonl), folder / "m", tokenizer, eod=eod_of(tokenizer))
    return content(folder / "m_text_document")


@pytest.fixture(params=[1, 3])
def small_blocks(monkeypatch, request):
    """Blocks of a few hundred bytes, so that small files have many; the number of threads is the parameter."""
    monkeypatch.setattr("megatron_ettin.corpus.build.run.block_bytes", lambda total: 700)
    return request.param


def test_files_equal_those_of_megatron(tmp_path, jsonl, tokenizer, expected, small_blocks):
    build_corpus(jsonl, tmp_path / "c", tokenizer, BuildOptions(append_eod=True, threads=small_blocks))
    assert content(tmp_path / "c") == expected


def test_huggingface_engine_gives_the_same_files(tmp_path, jsonl, tokenizer, expected):
    build_corpus(jsonl, tmp_path / "c", tokenizer, BuildOptions(append_eod=True, engine="huggingface"))
    assert content(tmp_path / "c") == expected


def test_lines_are_built_without_numpy(tmp_path, jsonl, tokenizer):
    """Importing it takes longer than starting, and its BLAS keeps threads busy that have nothing to do."""
    code = (
        "import sys; from megatron_ettin.cli import main\n"
        f"main(['prepare', '--input', {str(jsonl)!r}, '--output-prefix', {str(tmp_path / 'c')!r},"
        f" '--tokenizer-model', {str(tokenizer)!r}])\n"
        "sys.exit('numpy' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def write_gz(path, data):
    half = len(data) // 2
    path.write_bytes(gzip.compress(data[:half]) + gzip.compress(b"") + gzip.compress(data[half:]))


def write_zst(path, data):
    half = len(data) // 2
    path.write_bytes(zstandard.compress(data[:half]) + zstandard.compress(data[half:]))


def table_of(data):
    records = [json.loads(line) for line in data.splitlines()]
    return pa.table({"id": [r["id"] for r in records], "text": [r["text"] for r in records]})


def write_parquet(path, data, row_group_size=50):
    pa.parquet.write_table(table_of(data), path, row_group_size=row_group_size)


def write_arrow(path, data):
    kind = pa.ipc.new_stream if path.suffix == ".arrows" else pa.ipc.new_file
    table = table_of(data)
    with kind(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=50)


def write_feather(path, data):
    pa.feather.write_feather(table_of(data), str(path), compression="zstd", chunksize=70)


def write_delimited(path, data):
    rows = [(record["id"], record["text"]) for record in map(json.loads, data.splitlines())]
    made = io.StringIO(newline="")
    csv.writer(made, delimiter="," if "csv" in path.name else "\t").writerows([("id", "text"), *rows])
    content = made.getvalue().encode()
    {".gz": write_gz, ".zst": write_zst}.get(path.suffix, Path.write_bytes)(path, content)


WRITERS = {
    "t.jsonl.gz": write_gz, "t.jsonl.zst": write_zst, "t.parquet": write_parquet, "t.arrow": write_arrow,
    "t.arrows": write_arrow, "t.feather": write_feather, "t.csv": write_delimited, "t.tsv": write_delimited,
    "t.csv.gz": write_delimited, "t.tsv.zst": write_delimited,
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_files(tmp_path, jsonl, tokenizer, expected, name, small_blocks):
    WRITERS[name](tmp_path / name, jsonl.read_bytes())
    build_corpus(tmp_path / name, tmp_path / "c", tokenizer, BuildOptions(append_eod=True, threads=small_blocks))
    assert content(tmp_path / "c") == expected


def test_folder_of_text_files_is_one_document_each(tmp_path, tokenizer, texts):
    folder = tmp_path / "in"
    folder.mkdir()
    for number, text in enumerate(texts[:40]):
        (folder / f"{number:03d}.txt").write_bytes(text.encode())
    report = build_corpus(folder, tmp_path / "c", tokenizer)
    records = [{"text": text} for text in texts[:40]]
    write_megatron(records, tmp_path / "m", tokenizer)
    assert content(tmp_path / "c") == content(tmp_path / "m_text_document")
    assert len(report.corpus.manifest.sources) == 40


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz"])
def test_text_is_cut_at_a_separator(tmp_path, tokenizer, suffix, small_blocks):
    texts = ["one", "", "two\nlines", "x" * 3000, "three"]
    data = "\n\n\n".join(texts).encode() + b"\n\n\n"
    path = tmp_path / f"t{suffix}"
    path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
    build_corpus(path, tmp_path / "c", tokenizer, BuildOptions(text_separator="\n\n\n", threads=small_blocks))
    write_megatron([{"text": text} for text in texts], tmp_path / "m", tokenizer)
    assert content(tmp_path / "c") == content(tmp_path / "m_text_document")


def test_manifest_tells_counts_and_sources(tmp_path, jsonl, tokenizer, texts):
    (tmp_path / "again.jsonl").write_bytes(jsonl.read_bytes())  # one file given twice would be read once
    inputs = [jsonl, tmp_path / "again.jsonl"]
    report = build_corpus(inputs, tmp_path / "c", tokenizer, BuildOptions(append_eod=True))
    manifest = open_corpus(tmp_path / "c").manifest
    assert manifest == report.corpus.manifest
    assert manifest.documents == 2 * len(texts)
    assert manifest.empty_documents == 2
    assert manifest.specials_in_text == 2
    assert [source.documents for source in manifest.sources] == [len(texts)] * 2
    assert manifest.sources[0].bytes == jsonl.stat().st_size
    assert manifest.text_bytes == 2 * sum(len(text.encode()) for text in texts)
    assert manifest.appended_eod == eod_of(tokenizer)


def test_corpus_returns_the_documents(tmp_path, jsonl, tokenizer, texts):
    from tokenizers import Tokenizer

    reference = Tokenizer.from_file(str(tokenizer))
    corpus = build_corpus(jsonl, tmp_path / "c", tokenizer).corpus
    encoded = [reference.encode(text, add_special_tokens=False).ids for text in texts]
    assert [corpus.document(number).tolist() for number in range(corpus.documents)] == encoded
    assert corpus.lengths(0, corpus.documents).tolist() == [len(ids) for ids in encoded]
    assert corpus.lengths(3, 7).tolist() == [len(ids) for ids in encoded[3:7]]


def test_several_keys_give_several_corpora(tmp_path, tokenizer, texts):
    records = [{"a": text, "b": [text, "", "tail"]} for text in texts[:60]]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    build_corpus(path, tmp_path / "c", tokenizer, BuildOptions(keys=("a", "b"), append_eod=True))
    write_megatron(records, tmp_path / "m", tokenizer, keys=("a", "b"), eod=eod_of(tokenizer))
    for key in ("a", "b"):
        assert content(tmp_path / f"c_{key}_document") == content(tmp_path / f"m_{key}_document")
    corpus = open_corpus(tmp_path / "c_b_document")
    assert corpus.sequences > corpus.documents
    layout = corpus.pairs[0].map()
    sentences = layout.lengths[slice(*layout.document_indices[:2])]
    assert len(corpus.document(0)) == sentences.sum() == corpus.lengths(0, 1)[0]


def test_a_finished_corpus_is_not_built_again(tmp_path, jsonl, tokenizer):
    first = build_corpus(jsonl, tmp_path / "c", tokenizer)
    assert not first.already_complete
    assert build_corpus(jsonl, tmp_path / "c", tokenizer).already_complete
    with pytest.raises(DataError, match="other inputs or settings"):
        build_corpus(jsonl, tmp_path / "c", tokenizer, BuildOptions(append_eod=True))
    build_corpus(jsonl, tmp_path / "c", tokenizer, BuildOptions(append_eod=True, overwrite=True))
    assert open_corpus(tmp_path / "c").eod is not None


def test_a_file_without_manifest_is_not_overwritten(tmp_path, jsonl, tokenizer):
    (tmp_path / "c.bin").write_bytes(b"precious")
    with pytest.raises(DataError, match="--overwrite"):
        build_corpus(jsonl, tmp_path / "c", tokenizer)
    assert (tmp_path / "c.bin").read_bytes() == b"precious"


def test_shards_in_order_are_the_whole(tmp_path, jsonl, tokenizer, small_blocks):
    write_gz(tmp_path / "z.jsonl.gz", jsonl.read_bytes())
    inputs = [jsonl, tmp_path / "z.jsonl.gz", jsonl]
    whole = build_corpus(inputs, tmp_path / "w", tokenizer).corpus
    parts = [
        build_corpus(inputs, tmp_path / "p", tokenizer, BuildOptions(shard=(i, 5), threads=small_blocks)).corpus
        for i in range(5)
    ]
    assert [part.prefix.name for part in parts] == [f"p-{i:05d}-of-00005" for i in range(5)]
    assert sum(part.documents for part in parts) == whole.documents
    tokens = [part.pairs[0].map().tokens for part in (*parts, whole)]
    assert np.concatenate(tokens[:-1]).tobytes() == tokens[-1].tobytes()


def test_blocks_are_small_enough_to_share(tmp_path):
    assert SMALL_BLOCK <= 4 << 20
