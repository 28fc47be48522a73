"""Bad records stop a build with file, line, byte and reason, or are skipped, counted and listed. Never silently."""

import gzip
import json

import pytest
import zstandard

from megatron_ettin.corpus.build import BuildOptions, build_corpus
from megatron_ettin.errors import ConfigError, DataError

GOOD = b'{"text": "good"}\n'
BAD = {
    "invalid_utf8": b'{"text": "a\xffb"}\n',
    "byte_order_mark": b'\xef\xbb\xbf{"text": "a"}\n',
    "invalid_json": b'{"text": "a"\n',
    "missing_key": b'{"txt": "a"}\n',
    "not_a_string": b'{"text": null}\n',
    "too_long": b'{"text": "' + b"x" * 5000 + b'"}\n',
}
LIMIT = 2000


@pytest.fixture(params=["jsonl", "jsonl.gz"])
def write(tmp_path, request, monkeypatch):
    """Writes a file of that kind; blocks are small."""
    monkeypatch.setattr("megatron_ettin.corpus.build.run.block_bytes", lambda total: 300)

    def writer(data):
        path = tmp_path / f"t.{request.param}"
        path.write_bytes(gzip.compress(data) if request.param.endswith("gz") else data)
        return path

    return writer


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_line_stops_with_its_place(tmp_path, tokenizer, write, kind):
    path = write(GOOD * 100 + BAD[kind] + GOOD * 100)
    with pytest.raises(DataError) as caught:
        build_corpus(path, tmp_path / "c", tokenizer, BuildOptions(maximum_document_bytes=LIMIT))
    place = int(str(caught.value).partition("byte ")[2].partition(":")[0])
    assert f"{path}: line 101, byte " in str(caught.value)
    assert 0 <= place - len(GOOD) * 100 <= len(BAD[kind])
    assert kind in str(caught.value)
    assert "--on-error skip" in str(caught.value)


def test_skipped_records_are_counted_and_listed(tmp_path, tokenizer, write):
    data, places = b"", []
    for kind, line in BAD.items():
        data += GOOD * 20
        places.append((data.count(b"\n") + 1, kind, len(data)))
        data += line
    path = write(data + GOOD)
    options = BuildOptions(maximum_document_bytes=LIMIT, on_error="skip", threads=3)
    corpus = build_corpus(path, tmp_path / "c", tokenizer, options).corpus
    assert corpus.documents == 20 * len(BAD) + 1
    assert corpus.manifest.rejected == dict.fromkeys(BAD, 1)
    listed = [json.loads(line) for line in (tmp_path / "c.rejects.jsonl").read_text().splitlines()]
    assert [(entry["line"], entry["kind"]) for entry in listed] == [place[:2] for place in places]
    assert all(entry["file"] == str(path) and entry["reason"] for entry in listed)
    assert all(0 <= entry["offset"] - place[2] < 5100 for entry, place in zip(listed, places, strict=True))


def test_blank_lines_are_counted_and_not_documents(tmp_path, tokenizer, write):
    corpus = build_corpus(write(b"\n" + GOOD + b" \t\r\n" + GOOD + b"\n"), tmp_path / "c", tokenizer).corpus
    assert corpus.documents == 2
    assert corpus.manifest.sources[0].blank_lines == 3


def test_windows_line_ends_and_a_missing_last_newline_are_fine(tmp_path, tokenizer, write):
    corpus = build_corpus(write(GOOD.replace(b"\n", b"\r\n") * 3 + GOOD.strip()), tmp_path / "c", tokenizer).corpus
    assert corpus.documents == 4


def test_lone_surrogates_become_u_fffd_and_are_counted(tmp_path, tokenizer, write):
    corpus = build_corpus(write(rb'{"text": "a\ud800b"}' + b"\n"), tmp_path / "c", tokenizer).corpus
    other = build_corpus(write('{"text": "a\ufffdb"}\n'.encode()), tmp_path / "d", tokenizer).corpus
    assert corpus.document(0).tolist() == other.document(0).tolist()
    assert corpus.manifest.sources[0].lone_surrogates == 1


def test_a_line_longer_than_blocks_and_limits_is_not_held(tmp_path, tokenizer, write):
    long = b'{"text": "' + b"y" * 100_000 + b'"}\n'
    options = BuildOptions(maximum_document_bytes=LIMIT, on_error="skip")
    corpus = build_corpus(write(GOOD + long + GOOD + long.strip()), tmp_path / "c", tokenizer, options).corpus
    assert corpus.documents == 2
    assert corpus.manifest.rejected == {"too_long": 2}
    whole = build_corpus(write(GOOD + long + GOOD), tmp_path / "d", tokenizer).corpus
    assert whole.documents == 3


@pytest.mark.parametrize("cut", [1, 9, 40])
def test_a_truncated_gz_stops_or_is_counted(tmp_path, tokenizer, cut):
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(
        gzip.compress(GOOD * 10) + gzip.compress(b"".join(GOOD[:-3] + b'%d"}\n' % i for i in range(99)))[:-cut]
    )
    with pytest.raises(DataError, match="truncated.*ends at byte"):
        build_corpus(path, tmp_path / "c", tokenizer)
    corpus = build_corpus(path, tmp_path / "d", tokenizer, BuildOptions(on_error="skip")).corpus
    assert corpus.documents >= 10
    assert corpus.manifest.rejected["truncated"] == 1


def test_garbage_after_a_gz_member_is_found(tmp_path, tokenizer):
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(gzip.compress(GOOD) + b"\0" * 1000)
    assert build_corpus(path, tmp_path / "c", tokenizer).corpus.documents == 1
    path.write_bytes(gzip.compress(GOOD) + b"garbage, not a member")
    with pytest.raises(DataError, match="truncated"):
        build_corpus(path, tmp_path / "d", tokenizer)


def test_a_special_token_in_text_follows_the_policy(tmp_path, tokenizer, write):
    path = write(GOOD + b'{"text": "a<|endoftext|>b"}\n' + GOOD)
    eod = {entry["content"]: entry["id"] for entry in json.loads(tokenizer.read_text())["added_tokens"]}[
        "<|endoftext|>"
    ]
    for engine in ("native", "huggingface"):
        special = build_corpus(path, tmp_path / f"a{engine}", tokenizer, BuildOptions(engine=engine)).corpus
        assert eod in special.document(1).tolist()
        assert special.manifest.specials_in_text == 1
        options = BuildOptions(engine=engine, specials_in_text="split")
        split = build_corpus(path, tmp_path / f"b{engine}", tokenizer, options).corpus
        assert eod not in split.document(1).tolist()
        options = BuildOptions(engine=engine, specials_in_text="reject", on_error="skip")
        rejected = build_corpus(path, tmp_path / f"c{engine}", tokenizer, options).corpus
        assert rejected.manifest.rejected == {"special_token": 1}
        assert rejected.documents == 2
        with pytest.raises(DataError, match="line 2, .*special_token"):
            build_corpus(
                path, tmp_path / f"d{engine}", tokenizer, BuildOptions(engine=engine, specials_in_text="reject")
            )


def test_an_input_without_text_makes_no_corpus_and_leaves_nothing(tmp_path, tokenizer, write):
    for data in (b"", b"\n\n", b'{"text": ""}\n'):
        path = write(data)
        with pytest.raises(DataError, match="no text in the input.*name files that hold text"):
            build_corpus(path, tmp_path / "c", tokenizer)
        assert list(tmp_path.iterdir()) == [path]


def test_settings_that_cannot_work_are_refused(tmp_path, tokenizer, write):
    path = write(GOOD)
    for options in ({"keys": ()}, {"shard": (2, 2)}, {"maximum_document_bytes": 0}, {"keep_newlines": True}):
        with pytest.raises(ConfigError):
            BuildOptions(**options)
    with pytest.raises(ConfigError, match="--eod-token"):
        build_corpus(path, tmp_path / "c", tokenizer, BuildOptions(append_eod=True, eod_token="</s>"))
    (tmp_path / "x.unknown").write_bytes(GOOD)
    with pytest.raises(DataError, match="--input-format"):
        build_corpus(tmp_path / "x.unknown", tmp_path / "c", tokenizer)
    assert build_corpus(tmp_path / "x.unknown", tmp_path / "c", tokenizer, BuildOptions(input_format="jsonl")).corpus


def test_a_zst_file_cut_anywhere_inside_a_frame_is_reported(tmp_path, tokenizer):
    frames = [zstandard.compress(b'{"text": "a word"}\n' * 3), zstandard.compress(b'{"text": "more"}\n')]
    content, ends = b"".join(frames), (0, len(frames[0]), len(b"".join(frames)))
    path = tmp_path / "t.jsonl.zst"
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        build = lambda: build_corpus(path, tmp_path / f"c{cut}", tokenizer)  # noqa: B023, E731 - used at once
        if cut in ends:
            if cut:
                assert build().corpus.documents == (0, 3, 4)[ends.index(cut)]
        else:
            with pytest.raises(DataError, match="truncated.*zstd data ends at byte"):
                build()


def test_a_zstd_window_without_bound_is_refused_with_the_remedy(tmp_path, tokenizer):
    def build(window):
        parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=window)
        packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        path = tmp_path / f"{window}.jsonl.zst"
        path.write_bytes(packer.compress(b'{"text": "a"}\n') + packer.flush())
        return build_corpus(path, tmp_path / f"c{window}", tokenizer)

    assert build(27).corpus.documents == 1
    with pytest.raises(DataError, match="window above 128 MiB.*compress it again"):
        build(28)
