"""The line or row that a document is from: its text stands there, however the corpus was made."""

import csv
import gzip
import io
import json
import re
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_ettin.cli import main
from megatron_ettin.config.codec import to_json
from megatron_ettin.corpus import places as places_module
from megatron_ettin.corpus.build import BuildOptions, build_corpus
from megatron_ettin.corpus.build.join import join_corpora
from megatron_ettin.corpus.build.merge import merge_corpora
from megatron_ettin.corpus.places import Places
from megatron_ettin.rows.data_record import record_data
from megatron_ettin.rows.run_data import open_data
from megatron_ettin.tokenizer.tokenizer import Tokenizer
from tests.rows.conftest import run_config

ROWS_A_GROUP = 7


def distinct_texts(count):
    """Texts of which no two are equal; every fifth is empty but for its number."""
    return [f"{number} the sea was dark and cold" if number % 5 else str(number) for number in range(count)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Files of every kind whose records are numbered, and the text of each record by (file, number)."""
    folder, texts = tmp_path_factory.mktemp("inputs"), distinct_texts(260)
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    (folder / "a.jsonl").write_text("".join(lines[:90]))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress("".join(lines[90:130]).encode()))
    pq.write_table(pa.table({"text": texts[130:170]}), folder / "c.parquet", row_group_size=ROWS_A_GROUP)
    (folder / "d.jsonl").write_text("".join(lines[170:200]))
    rows = pa.table({"text": texts[200:230]})
    with pa.ipc.new_stream(str(folder / "e.arrow"), rows.schema) as writer:
        writer.write_table(rows, max_chunksize=ROWS_A_GROUP)
    with open(folder / "f.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([["text"], *([text] for text in texts[230:])])
    records = {}
    for name, begin, end, first in (
        ("a.jsonl", 0, 90, 1), ("b.jsonl.gz", 90, 130, 1), ("c.parquet", 130, 170, 0), ("d.jsonl", 170, 200, 1),
        ("e.arrow", 200, 230, 0), ("f.csv", 230, 260, 0),
    ):  # fmt: skip
        records |= {(str(folder / name), first + i): text for i, text in enumerate(texts[begin:end])}
    return folder, records


def text_of(corpus, number):
    return Tokenizer.from_file(corpus.tokenizer_json, engine="huggingface").decode(corpus.document(number))


def assert_exact(corpus, records):
    places = Places(corpus)
    for number in range(corpus.documents):
        place = places.of(number)
        assert place.first == place.last and records[place.path, place.first] == text_of(corpus, number)


def test_every_document_of_whole_joined_and_merged_corpora_is_found(tmp_path, inputs, tokenizer):
    folder, records = inputs
    build = [folder], tmp_path / "text", tokenizer
    assert_exact(build_corpus(*build).corpus, records)
    shards = [build_corpus(*build, BuildOptions(shard=(i, 5))).prefixes[0] for i in range(5)]
    assert_exact(join_corpora(shards, tmp_path / "joined"), records)
    assert_exact(merge_corpora([tmp_path / "joined"], tmp_path / "merged"), records)


def test_the_order_of_partitions_is_undone(tmp_path, inputs, tokenizer):
    folder, records = inputs
    build = [
        build_corpus([folder / name], tmp_path / name, tokenizer, BuildOptions(partitions=partitions)).prefixes[0]
        for name, partitions in (("a.jsonl", 4), ("c.parquet", 1), ("d.jsonl", 7))
    ]
    for corpus in (join_corpora(build, tmp_path / "joined"), merge_corpora(build, tmp_path / "merged")):
        assert_exact(corpus, records)
        assert Places(corpus).of(1).first == 5  # document 0, then 4


def test_a_row_is_named_with_its_group(tmp_path, inputs, tokenizer):
    folder, _ = inputs
    corpus = build_corpus(folder / "c.parquet", tmp_path / "text", tokenizer).corpus
    assert str(Places(corpus).of(16)).endswith("c.parquet, row 16 (row group 2, row 2 of it)")


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_a_row_of_a_csv_file_is_named_with_its_first_line(tmp_path, tokenizer, name):
    texts, made = [f"{number}\nand {number % 3}\n" * (number % 4) for number in range(50)], io.StringIO(newline="")
    csv.writer(made).writerows([["text", "n"], *([text, str(number)] for number, text in enumerate(texts))])
    content = made.getvalue().encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    places, line = Places(build_corpus(tmp_path / name, tmp_path / "text", tokenizer).corpus), 2
    told = {number: f"{tmp_path / name}, row {number} (line {line + sum(t.count(chr(10)) + 1 for t in texts[:number])})"
            for number in range(50)}  # fmt: skip
    assert [str(places.of(number)) for number in (49, 0, 7, 31)] == [told[number] for number in (49, 0, 7, 31)]
    (tmp_path / name).unlink()
    places_module._record_places.cache_clear()
    assert str(places.of(7)) == f"{tmp_path / name}, row 7"


def test_skipped_lines_widen_the_place_and_a_lone_shard_counts_from_its_first_byte(tmp_path, tokenizer):
    source, texts = tmp_path / "text.jsonl", distinct_texts(60)
    lines = [json.dumps({"text": text}) for text in texts]
    source.write_text("\n".join([*lines[:20], "", "{bad", *lines[20:]]) + "\n")
    corpus = build_corpus(source, tmp_path / "text", tokenizer, BuildOptions(on_error="skip")).corpus
    for number in range(60):
        place = Places(corpus).of(number)
        assert place.first <= number + 1 + 2 * (number >= 20) <= place.last == place.first + 2
    assert "line 3 to 5 (up to 2 before it were blank or skipped)" in str(Places(corpus).of(2))
    shard = build_corpus(source, tmp_path / "part", tokenizer, BuildOptions(on_error="skip", shard=(1, 2))).corpus
    begin = shard.manifest.sources[0].begin
    assert begin > 0 and str(Places(shard).of(0)).endswith(f", counted from byte {begin}")


def test_a_step_names_file_and_line_of_each_document(tmp_path, inputs, tokenizer, capsys):
    folder, records = inputs
    build = [folder], tmp_path / "text", tokenizer
    shards = [build_corpus(*build, BuildOptions(shard=(i, 3))).prefixes[0] for i in range(3)]
    corpus, run = join_corpora(shards, tmp_path / "text"), tmp_path / "run"
    config = run_config(corpus.prefix)
    config = replace(config, model=replace(config.model, vocabulary=corpus.manifest.tokenizer.vocabulary))
    run.mkdir()
    (run / "config.json").write_text(to_json(config))
    record_data(open_data(config), run)
    assert main(["order", str(run), "--step", "2", "--source"]) == 0
    found = re.findall(r"document (\d+), .*predicted; (\S+), (?:line|row) (\d+)", capsys.readouterr().out)
    assert found and all(records[path, int(n)] == text_of(corpus, int(document)) for document, path, n in found)
    for wrong in (["--document", "1", "--source"], ["--step", "1", "--source", "text"]):
        with pytest.raises(SystemExit):
            main(["order", str(run), *wrong])
