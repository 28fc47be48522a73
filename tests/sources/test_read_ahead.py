"""Compressed files are cut where members and frames start, decompressed side by side, and handed out in order."""

import gzip
import random
import threading
import time

import pytest
import zstandard

from megatron_ettin import _native
from megatron_ettin.sources import members
from megatron_ettin.sources.compressed import DamagedStreamError
from megatron_ettin.sources.files import find_inputs, make_sources
from megatron_ettin.sources.read_ahead import ReadAhead

FALSE_HEADER = b"\x1f\x8b\x08\x00abcd\x00\x03"
MANY = 32
"""Encoders: nine readers."""


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(members, "PART_BYTES", 1000)
    monkeypatch.setattr(members, "STEP", 700)  # headers lie across the steps of the search


def contents(count):
    """Texts that compress little, and hold what looks like the header of a member."""
    source = random.Random(count)
    return [source.randbytes(source.randrange(0, 4000)) + FALSE_HEADER * (i % 3) for i in range(count)]


def gzip_members(parts):
    return b"".join(gzip.compress(part, i % 2) for i, part in enumerate(parts))  # level 0 stores: false headers stay


def zstd_frames(parts):
    frames = []
    for i, part in enumerate(parts):
        made = zstandard.ZstdCompressor(write_checksum=bool(i % 2), write_content_size=bool(i % 3))
        frames.append(made.compress(part))
        if i % 5 == 0:
            frames.append(b"\x50\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"xyz")  # a skippable frame
    return b"".join(frames)


PACK = {"gz": gzip_members, "zst": zstd_frames}


def sources_of(folder, suffix, many=3):
    written = {}
    for number in range(many):
        parts = contents(20 + number)
        path = folder / f"{number}.jsonl.{suffix}"
        path.write_bytes(PACK[suffix](parts))
        written[path] = b"".join(parts)
    sources = make_sources(find_inputs([folder]).files)
    return sources, [written[source.path] for source in sources]


def read(ahead, source):
    return b"".join(piece for piece, _ in ahead.pieces(source))


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("encoders", [1, MANY])
def test_pieces_come_in_order_with_the_checksum_of_the_file(tmp_path, suffix, encoders):
    sources, expected = sources_of(tmp_path, suffix)
    with ReadAhead(sources, encoders) as ahead:
        for source, content in zip(sources, expected, strict=True):
            assert read(ahead, source) == content
            assert ahead.checksum == _native.crc32c(source.path.read_bytes())


@pytest.mark.parametrize("suffix", PACK)
def test_files_are_cut_into_several_parts(tmp_path, suffix):
    sources, _ = sources_of(tmp_path, suffix, many=1)
    cuts, size = [0], sources[0].size
    with open(sources[0].path, "rb") as stream:
        while cuts[-1] < size:
            cuts.append(members.next_cut(stream.fileno(), suffix, cuts[-1], size))
    assert len(cuts) > 8
    assert min(b - a for a, b in zip(cuts[:-1], cuts[1:-1], strict=False)) >= members.PART_BYTES


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("kind", ["cut", "overwritten"])
def test_damage_keeps_what_was_before_and_the_next_file(tmp_path, suffix, kind):
    sources, expected = sources_of(tmp_path, suffix)
    content = sources[0].path.read_bytes()
    middle = len(content) // 2
    sources[0].path.write_bytes(content[:middle] + (b"" if kind == "cut" else bytes(6000) + content[middle + 6000 :]))
    sources = make_sources(find_inputs([tmp_path]).files)
    with ReadAhead(sources, MANY) as ahead:
        got = b""
        with pytest.raises(DamagedStreamError):
            for piece, _ in ahead.pieces(sources[0]):
                got += piece
        assert got[:5000] == expected[0][:5000]
        assert kind == "overwritten" or expected[0].startswith(got)  # stored bytes are checked at the member's end
        assert read(ahead, sources[1]) == expected[1]


@pytest.mark.parametrize("suffix", PACK)
def test_a_reader_that_is_left_early_leaves_no_thread(tmp_path, suffix):
    sources, _ = sources_of(tmp_path, suffix)
    before = threading.active_count()
    with ReadAhead(sources, MANY) as ahead:
        next(ahead.pieces(sources[0]))
    end = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() <= before
