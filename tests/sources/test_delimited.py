"""csv and tsv files: read as Python's csv and pandas read them, and every bad record named with its line."""

import csv
import gzip
import io
import json
import random

import pandas
import pytest

from megatron_ettin.corpus.build import BuildOptions, build_corpus
from megatron_ettin.corpus.build.feed import Feeder
from megatron_ettin.errors import DataError
from megatron_ettin.sources.delimited import DELIMITERS, delimited_documents, records
from megatron_ettin.sources.files import make_sources, require_kind
from tests.corpus.conftest import tokenizer  # noqa: F401 - a fixture
from tests.corpus.oracle import write_megatron
from tests.corpus.test_build import content

FIELDS = [
    "", "a", "two words", "Gr\u00fc\u00dfe", "\u65e5\u672c", 'a "quoted" word', ",", "\t", "\r\n", "one\ntwo\n", '"',
    "\u2028\x0b\x85",
]  # fmt: skip


def source_of(path):
    (source,) = make_sources([(path, path.name.split(".")[1], "gz" if path.name.endswith(".gz") else None)])
    return source


def pieces_of(data, size):
    return [data[at : at + size] for at in range(0, len(data), size)]


def written(rows, delimiter, line_end, quoting):
    made = io.StringIO(newline="")
    csv.writer(made, delimiter=delimiter, lineterminator=line_end, quoting=quoting).writerows(rows)
    return made.getvalue().encode()


@pytest.mark.parametrize("kind", DELIMITERS)
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_records_are_those_of_csv_and_pandas_however_the_bytes_are_cut(tmp_path, kind, line_end):
    draw = random.Random(kind + line_end)
    rows = [["n", "text", "more"], *([str(n), *draw.choices(FIELDS, k=2)] for n in range(200))]
    path = tmp_path / f"t.{kind}"
    # with lines that end with \r, csv quotes no \n of itself
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)[line_end == "\r" :]:
        data = written(rows, DELIMITERS[kind], line_end, quoting)
        path.write_bytes(data)
        for size in (1, 2, 7, 64, len(data)):
            found = list(records(source_of(path), pieces_of(data, size)))
            assert [[field.encode("latin-1").decode() for field in record.fields] for record in found] == rows
            assert [record.line for record in found] == first_lines(data)
        frame = pandas.read_csv(path, sep=DELIMITERS[kind], dtype=str, keep_default_na=False, lineterminator=None)
        assert [list(frame.columns), *frame.to_numpy().tolist()] == rows


def first_lines(data):
    """The line at which each record starts, by quotes alone: none of these fields has one outside of quotes."""
    lines, number, inside = [], 1, False
    for line in data.splitlines(keepends=True):
        if not inside:
            lines.append(number)
        inside ^= line.count(b'"') % 2 == 1
        number += 1
    return lines


def test_blank_lines_byte_order_marks_and_a_missing_last_line_end_are_fine(tmp_path, tokenizer):  # noqa: F811
    path = tmp_path / "t.csv"
    path.write_bytes(b'\xef\xbb\xbf\r\n"text",n\r\n\r\na word,1\r\n\n"",2\nmore,3')
    corpus = build_corpus(path, tmp_path / "c", tokenizer).corpus
    write_megatron([{"text": text} for text in ("a word", "", "more")], tmp_path / "m", tokenizer)
    assert content(tmp_path / "c") == content(tmp_path / "m_text_document")
    assert corpus.manifest.sources[0].bytes == path.stat().st_size


def test_several_columns_are_corpora_of_their_own(tmp_path, tokenizer):  # noqa: F811
    (tmp_path / "t.tsv").write_text('a\tb\tc\n1\tone\t"x\ty"\n2\t\ttwo\n')
    options = BuildOptions(keys=("c", "b"))
    reports = build_corpus(tmp_path / "t.tsv", tmp_path / "t", tokenizer, options)
    for key, texts in (("c", ["x\ty", "two"]), ("b", ["one", ""])):
        write_megatron([{key: text} for text in texts], tmp_path / "m", tokenizer, keys=(key,))
        assert content(tmp_path / f"t_{key}_document") == content(tmp_path / f"m_{key}_document")
    assert [manifest.documents for manifest in reports.manifests] == [2, 2]


BAD = {
    "no column 'text'; columns, from the first line: id, body: name one by --json-keys": b"id,body\n1,a\n",
    "several columns are named 'text'": b"text,text\na,b\n",
    "line 1: the names of the columns are not UTF-8": b"t\xe9xt,text\n1,a\n",
    "is UTF-16; convert it, by `iconv": "text\na\n".encode("utf-16"),
    "line 4: a quote is opened in the record that starts there and not closed": b'n,text\n1,"a\nb"\n2,"c\n3,d\n',
    "line 3: a quote within a field of the record that starts there is not doubled": b'text\na\n"b" c\nd\n',
    "line 4, row 1: invalid_utf8: byte 0xff is not valid UTF-8; re-encode": b'n,text\n1,"a\nb"\n2,b\xff\n3,c\n',
    "line 4, row 1: ragged_row: the row has not as many fields as the header": b'n,text\n1,"a\nb"\n2,b,c\n3,d\n',
    "line 3, row 1: ragged_row: .*give it a field for each column": b"n,text\n1,a\n2\n3,d\n",
    "no text in the input": b"text\n",
}  # fmt: skip


@pytest.mark.parametrize("message", BAD)
@pytest.mark.parametrize("compressed", [False, True])
def test_a_bad_file_is_refused_with_its_line(tmp_path, tokenizer, message, compressed):  # noqa: F811
    path = tmp_path / ("t.csv.gz" if compressed else "t.csv")
    path.write_bytes(gzip.compress(BAD[message]) if compressed else BAD[message])
    with pytest.raises(DataError, match=message):
        build_corpus(path, tmp_path / "c", tokenizer)
    assert not (tmp_path / "c.json").exists()


def test_bad_rows_are_skipped_counted_and_listed(tmp_path, tokenizer):  # noqa: F811
    path = tmp_path / "t.csv"
    path.write_bytes(b"n,text\n1,one\n2,two,too\n3\n4,b\xff\n5,five\n")
    corpus = build_corpus(path, tmp_path / "c", tokenizer, BuildOptions(on_error="skip")).corpus
    assert corpus.documents == 2 and corpus.manifest.rejected == {"invalid_utf8": 1, "ragged_row": 2}
    listed = [json.loads(line) for line in (tmp_path / "c.rejects.jsonl").read_text().splitlines()]
    assert [(entry["kind"], entry["offset"]) for entry in listed] == [
        ("ragged_row", 1), ("ragged_row", 2), ("invalid_utf8", 3),
    ]  # fmt: skip


@pytest.mark.parametrize("text", ['text\n"' + "x" * 300_000, "text\n" + "x" * 300_000, 'text\n"' + "x\n" * 150_000])
def test_what_never_ends_is_not_held(tmp_path, text):
    """A quote that is not closed, or a file without line ends, stops the reading at a bound."""
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match="line 2: .* above 200000 bytes"):
        list(records(source_of(tmp_path / "t.csv"), pieces_of(text.encode(), 1000), 100_000))


def test_a_long_text_is_judged_as_in_every_format(tmp_path, tokenizer):  # noqa: F811
    (tmp_path / "t.csv").write_text("text\nshort\n" + "x " * 700 + "\n")
    options = BuildOptions(on_error="skip", maximum_document_bytes=1000)
    corpus = build_corpus(tmp_path / "t.csv", tmp_path / "c", tokenizer, options).corpus
    assert corpus.manifest.rejected == {"too_long": 1}


def test_a_file_cut_off_in_transit_gives_its_whole_records_or_an_error(tmp_path, tokenizer):  # noqa: F811
    rows = [["text"], *([f"text {number} " + random.Random(number).randbytes(30).hex()] for number in range(2000))]
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(written(rows, ",", "\n", csv.QUOTE_MINIMAL))[:-4000])
    with pytest.raises(DataError, match="truncated.*ends at byte"):
        build_corpus(path, tmp_path / "c", tokenizer)
    corpus = build_corpus(path, tmp_path / "d", tokenizer, BuildOptions(on_error="skip")).corpus
    assert 1000 < corpus.documents < 2000 and corpus.manifest.rejected == {"truncated": 1}


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_a_build_stopped_within_a_file_goes_on(tmp_path, tokenizer, name, monkeypatch):  # noqa: F811
    monkeypatch.setattr("megatron_ettin.sources.delimited.BATCH_BYTES", 300)
    rows = [["text"], *([f"{number}\nthe sea was dark"] for number in range(400))]
    data = written(rows, ",", "\n", csv.QUOTE_MINIMAL)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    expected = build_corpus(tmp_path / name, tmp_path / "whole", tokenizer).corpus
    wait, calls = Feeder.wait, []

    def stop(self):
        calls.append(self)
        if len(calls) == 20:
            raise DataError("stopped")
        wait(self)

    monkeypatch.setattr(Feeder, "wait", stop)
    with pytest.raises(DataError, match="stopped"):
        build_corpus(tmp_path / name, tmp_path / "text", tokenizer)
    report = build_corpus(tmp_path / name, tmp_path / "text", tokenizer)
    assert 0 < report.resumed_documents < 400 and report.corpus.fingerprint == expected.fingerprint


def test_a_large_csv_goes_whole_to_one_shard(tmp_path, tokenizer):  # noqa: F811
    (tmp_path / "t.csv").write_text("text\n" + "the sea was dark\n" * 200)
    reports = [
        build_corpus(tmp_path / "t.csv", tmp_path / "c", tokenizer, BuildOptions(shard=(i, 3))) for i in range(3)
    ]
    assert [report.manifests[0].documents for report in reports] == [200, 0, 0]
    assert reports[0].uncut == (str(tmp_path / "t.csv"),)


def test_documents_begin_at_any_row(tmp_path):
    data = b"text\n" + b"".join(b"%d\n" % number for number in range(50))
    (tmp_path / "t.csv").write_bytes(data)
    source = source_of(tmp_path / "t.csv")
    require_kind(source)
    for start in (0, 1, 49, 50):
        batches = list(delimited_documents(source, [data], ["text"], start))
        texts = [bytes(batch.content) for batch in batches]
        assert b"".join(texts) == b"".join(b"%d" % number for number in range(start, 50))
        assert [batch.first for batch in batches] == ([start] if start < 50 else [])
