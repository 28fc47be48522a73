"""Where zstd frames end, without decompressing."""

import random

import pytest
import zstandard

from megatron_ettin.sources.members import FrameFollower


def make_frames():
    """Frames of every shape: with and without checksum and size, empty, of many blocks, of zeros, skippable."""
    source = random.Random(5)
    noise = bytes(source.randrange(256) for _ in range(300_000))
    frames = [b"\x50\x2a\x4d\x18" + (7).to_bytes(4, "little") + b"skipped", b"\x5f\x2a\x4d\x18" + bytes(4)]
    for checksum in (False, True):
        for size in (False, True):
            packer = zstandard.ZstdCompressor(write_checksum=checksum, write_content_size=size)
            frames += [packer.compress(content) for content in (b"", b"word " * 50, bytes(400_000), noise)]
            stream = packer.compressobj()
            frames.append(stream.compress(b"a line\n" * 90) + stream.flush())
    source.shuffle(frames)
    return frames


def followed(pieces):
    follower = FrameFollower()
    for piece in pieces:
        follower.follow(piece)
    return follower.whole


def test_a_stream_is_whole_at_the_ends_of_its_frames_alone():
    frames = make_frames()
    content = b"".join(frames)
    ends = {sum(map(len, frames[:count])) for count in range(len(frames) + 1)}
    near = {end + offset for end in ends for offset in range(-12, 13)}
    source = random.Random(6)
    for cut in sorted(near | {source.randrange(len(content)) for _ in range(200)}):
        if 0 <= cut <= len(content):
            assert followed([content[:cut]]) == (cut in ends), cut


@pytest.mark.parametrize("step", [1, 2, 3, 5, 100, 65_537])
def test_the_size_of_the_pieces_makes_no_difference(step):
    frames = [frame for frame in make_frames() if len(frame) < 5000]
    content = b"".join(frames)
    for stop in (len(content), len(content) - 1, len(frames[0]), len(frames[0]) + 1):
        pieces = [content[at : min(at + step, stop)] for at in range(0, stop, step)]
        assert followed(pieces) == followed([content[:stop]])
