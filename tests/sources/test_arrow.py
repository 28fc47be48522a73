"""Arrow files and streams, feather, and datasets saved by `datasets`."""

import json
import os
import shutil
import struct

import pyarrow as pa
import pyarrow.feather
import pytest

from megatron_ettin.corpus.build import BuildOptions, build_corpus
from megatron_ettin.errors import DataError
from megatron_ettin.sources.arrow import arrow_documents, batch_starts
from megatron_ettin.sources.files import find_inputs, make_sources, require_kind
from tests.corpus.conftest import texts, tokenizer  # noqa: F401 - fixtures
from tests.corpus.oracle import write_megatron
from tests.corpus.test_build import content

KINDS = {"file": pa.ipc.new_file, "stream": pa.ipc.new_stream}


def write(path, column, kind="file", rows=3, name="text"):
    table = pa.table({"other": pa.array(range(len(column))), name: column})
    with KINDS[kind](str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)
    return path


def source_of(path):
    return make_sources(find_inputs([path]).files)[0]


TYPES = {
    "string": lambda column: pa.array(column),
    "large": lambda column: pa.array(column, pa.large_string()),
    "view": lambda column: pa.array(column, pa.string_view()),
    "binary": lambda column: pa.array([text and text.encode() for text in column], pa.binary()),
    "dictionary": lambda column: pa.array(column).dictionary_encode(),
    "null word": lambda column: pa.DictionaryArray.from_arrays(pa.array(range(len(column))), pa.array(column)),
}


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_text_type_gives_the_same_corpus(tmp_path, tokenizer, texts, type_, kind):  # noqa: F811
    wanted = [*texts[:7], *texts[50:60]]
    given = TYPES[type_]([*wanted[:5], None, *wanted[5:]])
    rows = len(given) if type_ == "dictionary" else 4  # an IPC file has one dictionary
    write(tmp_path / "t.arrow", given, kind, rows)
    corpus = build_corpus(tmp_path / "t.arrow", tmp_path / "c", tokenizer, BuildOptions(on_error="skip")).corpus
    write_megatron([{"text": text} for text in wanted], tmp_path / "m", tokenizer)
    assert content(tmp_path / "c") == content(tmp_path / "m_text_document")
    assert corpus.manifest.rejected == {"not_a_string": 1}
    with pytest.raises(DataError, match="t.arrow: row 5: not_a_string: the row holds no value"):
        build_corpus(tmp_path / "t.arrow", tmp_path / "d", tokenizer)


@pytest.mark.parametrize("kind", KINDS)
def test_lists_of_ids_are_taken_as_they_are(tmp_path, tokenizer, kind):  # noqa: F811
    ids = [[300, 301], [302], [303, 304, 305], [306]]
    write(tmp_path / "t.arrow", pa.array(ids, pa.list_(pa.int32())), kind, 2, "ids")
    corpus = build_corpus(tmp_path / "t.arrow", tmp_path / "c", tokenizer, BuildOptions(keys=("ids",))).corpus
    assert [corpus.document(number).tolist() for number in range(4)] == ids


def test_large_batches_are_read_in_pieces_from_any_row(tmp_path, monkeypatch):
    monkeypatch.setattr("megatron_ettin.sources.arrow.BATCH_BYTES", 100)
    column = [f"text {number} " * 3 for number in range(100)]
    source = source_of(write(tmp_path / "t.arrow", pa.array(column), rows=40))
    for start in (0, 1, 39, 40, 85, 100):
        found = list(arrow_documents(source, ["text"], start))
        assert b"".join(bytes(batch.content) for batch in found) == "".join(column[start:]).encode()
        assert [batch.first for batch in found] == sorted(batch.first for batch in found)
        assert len(found) >= (100 - start) / 10 and sum(batch.documents for batch in found) == 100 - start


def test_a_file_that_is_not_whole_is_refused_wherever_it_is_cut(tmp_path, tokenizer):  # noqa: F811
    for kind in KINDS:
        whole = write(tmp_path / f"{kind}.arrow", pa.array([f"text {number}" for number in range(9)]), kind)
        data, ends = whole.read_bytes(), batch_starts(source_of(whole))[1:]
        assert len(ends) == 2
        part = tmp_path / "part.arrow"
        for cut in {*range(0, len(data), 13), *ends, len(data) - 1}:
            part.write_bytes(data[:cut])
            with pytest.raises(DataError, match="part.arrow: not a whole arrow file"):
                list(arrow_documents(source_of(part), ["text"], 0))
    part.write_bytes(data[: ends[0]])
    with pytest.raises(DataError, match=r"has no end mark.*fetch it, or write it, again"):
        build_corpus(part, tmp_path / "c", tokenizer)


def test_offsets_outside_of_the_text_are_not_followed(tmp_path):
    path = write(tmp_path / "t.arrow", pa.array(["abcd", "efgh", "ijkl"]))
    data, offsets = path.read_bytes(), struct.pack("<4i", 0, 4, 8, 12)
    assert data.count(offsets) == 1
    for wrong in ((0, 4, 8, 1 << 30), (0, -4, 8, 12), (0, 9, 8, 12)):
        path.write_bytes(data.replace(offsets, struct.pack("<4i", *wrong)))
        with pytest.raises(DataError, match="not a whole arrow file"):
            list(arrow_documents(source_of(path), ["text"], 0))


def test_bad_files_and_columns_are_refused(tmp_path, tokenizer):  # noqa: F811
    write(tmp_path / "t.arrow", pa.array(["a"]))
    with pytest.raises(DataError, match="no column 'body'; columns: other, text: name one by --json-keys"):
        build_corpus(tmp_path / "t.arrow", tmp_path / "c", tokenizer, BuildOptions(keys=("body",)))
    with pytest.raises(DataError, match="column 'other' holds int64"):
        build_corpus(tmp_path / "t.arrow", tmp_path / "c", tokenizer, BuildOptions(keys=("other",), restart=True))
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"])
    with pa.ipc.new_file(str(tmp_path / "twice.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match="several columns are named 'text'"):
        build_corpus(tmp_path / "twice.arrow", tmp_path / "c", tokenizer, BuildOptions(restart=True))
    write(tmp_path / "bytes.arrow", pa.array([b"a", b"\xff"]))
    with pytest.raises(DataError, match="bytes.arrow: row 1: invalid_utf8"):
        build_corpus(tmp_path / "bytes.arrow", tmp_path / "c", tokenizer, BuildOptions(restart=True))
    (tmp_path / "t.arrow.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(DataError, match="arrow is compressed inside, not as a file"):
        build_corpus(tmp_path / "t.arrow.gz", tmp_path / "c", tokenizer)
    (tmp_path / "one.feather").write_bytes(b"FEA1")
    with pytest.raises(DataError, match="feather of version 1"):
        require_kind(source_of(tmp_path / "one.feather"))
    shutil.copy(tmp_path / "t.arrow", tmp_path / "t.csv")
    with pytest.raises(DataError, match="holds arrow data; give it a name that ends in .arrow"):
        require_kind(source_of(tmp_path / "t.csv"))


def test_names_that_are_not_utf8_are_read(tmp_path, tokenizer):  # noqa: F811
    name = os.fsencode(tmp_path) + b"/a\xff.arrow"
    os.rename(write(tmp_path / "t.arrow", pa.array(["a word", "more"])), name)
    assert build_corpus(os.fsdecode(name), tmp_path / "c", tokenizer).corpus.documents == 2


def saved(folder, texts, splits=(), files=3):  # noqa: F811
    """What `datasets` writes, by its own hand."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    made = datasets.Dataset.from_dict({"text": texts})
    if splits:
        datasets.DatasetDict(dict.fromkeys(splits, made)).save_to_disk(str(folder))
    else:
        made.save_to_disk(str(folder), num_shards=files)
    return folder


def test_a_saved_dataset_is_read_in_its_order_and_only_what_it_names(tmp_path, tokenizer, texts):  # noqa: F811
    folder = saved(tmp_path / "data", texts[:50])
    write(folder / "cache-0123.arrow", pa.array(["not of it"]), "stream")
    report = build_corpus(folder, tmp_path / "c", tokenizer)
    write_megatron([{"text": text} for text in texts[:50]], tmp_path / "m", tokenizer)
    assert content(tmp_path / "c") == content(tmp_path / "m_text_document")
    assert report.left_out == {"not named by the state.json beside it": (str(folder / "cache-0123.arrow"),)}
    assert find_inputs([folder / "state.json"]).files == find_inputs([folder]).files
    (folder / "data-00001-of-00003.arrow").unlink()
    with pytest.raises(DataError, match="state.json: names data-00001-of-00003.arrow, which is not there"):
        build_corpus(folder, tmp_path / "d", tokenizer)


def test_of_splits_the_only_one_is_read_and_one_of_several_must_be_named(tmp_path, texts):  # noqa: F811
    one = saved(tmp_path / "one", texts[:5], ["train"])
    assert [path for path, *_ in find_inputs([one]).files] == [one / "train" / "data-00000-of-00001.arrow"]
    two = saved(tmp_path / "two", texts[:5], ["train", "test"])
    with pytest.raises(DataError, match=f"holds the splits train, test; name the folder of one, such as {two}/train"):
        find_inputs([two])
    assert [path.parent for path, *_ in find_inputs([two / "test"]).files] == [two / "test"]


def test_arrow_files_of_a_cache_are_read_without_their_description(tmp_path):
    """The cache of `datasets` has a description beside the files, and no list of them."""
    (tmp_path / "dataset_info.json").write_text('{"features": {}}')
    write(tmp_path / "x-train.arrow", pa.array(["a"]), "stream")
    found = find_inputs([tmp_path])
    assert [path.name for path, *_ in found.files] == ["x-train.arrow"]
    assert [path.name for path in found.left_out["describes a dataset"]] == ["dataset_info.json"]


@pytest.mark.parametrize(
    ("state", "message"),
    [({"_data_files": [{}]}, "not the state of a saved dataset"),
     ({"_data_files": [], "_indices_data_files": [{}]}, "flatten_indices")],
)  # fmt: skip
def test_a_state_that_cannot_be_followed_is_refused(tmp_path, state, message):
    (tmp_path / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match=message):
        find_inputs([tmp_path])
    (tmp_path / "state.json").unlink()
    for splits in ("train", ["../up"], ["gone"]):
        (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": splits}))
        with pytest.raises(DataError, match="save it again|save the dataset again"):
            find_inputs([tmp_path])
