"""Shards of files of members, frames and row groups: in order they are the whole, and about equal."""

import gzip
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from megatron_ettin.commands.prepare import table
from megatron_ettin.corpus.build import BuildOptions, build_corpus
from megatron_ettin.corpus.build.feed import Feeder
from megatron_ettin.corpus.build.join import join_corpora
from megatron_ettin.corpus.together import described
from megatron_ettin.errors import DataError
from megatron_ettin.sources.cuts import shard_of
from megatron_ettin.sources.files import make_sources
from megatron_ettin.sources.members import GZIP_HEADER
from tests.corpus.conftest import tokenizer  # noqa: F401 - a fixture

COUNT = 300
MEMBER = 500
"""Bytes of text in a member or frame: lines are longer and shorter, and most members end within one."""


def members_of(content, compress):
    return b"".join(compress(content[at : at + MEMBER]) for at in range(0, len(content), MEMBER))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of each kind that can be cut, of the same documents, and one that cannot; some lines are very long."""
    folder, source = tmp_path_factory.mktemp("cuts"), random.Random(4)
    texts = [f"{n} " + "the sea was dark and cold " * (source.choice([0, 1, 3, 3, 9, 200])) for n in range(COUNT)]
    content = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    zstd = zstandard.ZstdCompressor(write_content_size=False).compress
    made = {
        "plain.jsonl": content, "members.jsonl.gz": members_of(content, gzip.compress),
        "frames.jsonl.zst": members_of(content, zstd), "one.jsonl.gz": gzip.compress(content),
        "no-end.jsonl.gz": members_of(content[:-1], gzip.compress),
    }  # fmt: skip
    for name, bytes_ in made.items():
        (folder / name).write_bytes(bytes_)
    settings = {"row_group_size": 3, "compression": "none", "use_dictionary": False}
    rows = pa.table({"text": texts})
    pq.write_table(rows, folder / "groups.parquet", **settings)
    for name, kind in (("file.arrow", pa.ipc.new_file), ("stream.arrow", pa.ipc.new_stream)):
        with kind(str(folder / name), rows.schema) as writer:
            writer.write_table(rows, max_chunksize=3)
    return folder


CUT = ["plain.jsonl", "members.jsonl.gz", "frames.jsonl.zst", "groups.parquet", "file.arrow", "stream.arrow"]
KINDS = [*CUT, "one.jsonl.gz", "no-end.jsonl.gz"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [3, 17])
def test_shards_in_order_are_the_whole(tmp_path, files, tokenizer, kind, count):  # noqa: F811
    build = [files / kind], tmp_path / "text", tokenizer
    whole = build_corpus(*build).corpus
    threads = 1 if count == 3 else 8
    shards = [build_corpus(*build, BuildOptions(shard=(i, count), threads=threads)).prefixes[0] for i in range(count)]
    joined = join_corpora(shards, tmp_path / "joined")
    assert joined.fingerprint == whole.fingerprint and joined.documents == COUNT
    assert described(joined).sources == whole.manifest.sources


@pytest.mark.parametrize("kind", CUT)
def test_shards_are_equal_but_for_what_cannot_be_cut(files, kind):
    """Parts differ by less than the largest member, frame or group; two of these are far from a sixth."""
    sources = make_sources([(files / kind, kind.split(".")[1], {"gz": "gz", "zst": "zst"}.get(kind.split(".")[-1]))])
    total = sources[0].size
    parts = [sum(source.bytes for source in shard_of(sources, i, 5)) for i in range(5)]
    assert sum(parts) == total and max(parts) - min(parts) < total / 6


@pytest.mark.parametrize("kind", CUT[1:])
def test_a_build_stopped_within_a_part_goes_on(tmp_path, files, tokenizer, kind, monkeypatch):  # noqa: F811
    monkeypatch.setattr("megatron_ettin.corpus.build.run.block_bytes", lambda total: 700)
    monkeypatch.setattr("megatron_ettin.sources.compressed.PIECE_BYTES", 300)
    for module in ("parquet", "arrow"):
        monkeypatch.setattr(f"megatron_ettin.sources.{module}.BATCH_BYTES", 300)
    build, options = [files / kind], BuildOptions(shard=(1, 3), threads=1)
    expected = build_corpus(build, tmp_path / "whole", tokenizer, options).corpus
    wait, calls = Feeder.wait, []

    def stop(self):
        calls.append(self)
        if len(calls) == 50:
            raise DataError("stopped")
        wait(self)

    monkeypatch.setattr(Feeder, "wait", stop)
    with pytest.raises(DataError, match="stopped"):
        build_corpus(build, tmp_path / "text", tokenizer, options)
    report = build_corpus(build, tmp_path / "text", tokenizer, options)
    assert 0 < report.resumed_documents < expected.documents and report.corpus.fingerprint == expected.fingerprint


def test_a_place_that_only_looks_like_a_member_is_no_cut(tmp_path):
    """Stored blocks of deflate hold the text as it is: headers of gzip members among it."""
    fake = b"\x1f\x8b\x08\x00\x01\x01\x01\x01\x00\x03"
    lines = [b'{"text": "' + b"x" * 90 + b'"}\n' for _ in range(200)]
    content = gzip.compress(b"".join(lines), compresslevel=0)
    for at in range(1000, len(content) - 1000, 1000):
        content = content[:at] + fake + content[at + len(fake) :]
    assert len(GZIP_HEADER.findall(content)) > 10
    (tmp_path / "a.jsonl.gz").write_bytes(content)
    sources = make_sources([(tmp_path / "a.jsonl.gz", "jsonl", "gz")])
    parts = [shard_of(sources, i, 4) for i in range(4)]
    assert [[source.bytes for source in part] for part in parts] == [[len(content)], [], [], []]


def test_a_large_file_that_cannot_be_cut_is_told(tmp_path, files, tokenizer):  # noqa: F811
    reports = [
        build_corpus(files / "one.jsonl.gz", tmp_path / "text", tokenizer, BuildOptions(shard=(i, 3))) for i in (0, 1)
    ]
    assert "1 (whole in this shard, though more than two shares: no place to cut)" in table(reports[0])
    assert "no place to cut" not in table(reports[1]) and reports[1].manifests[0].documents == 0
