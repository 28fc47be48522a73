"""MDS shards: read from any sample on, and never beyond their bytes."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_ettin.errors import DataError
from megatron_ettin.sources.mds import mds_documents, parse_shard, shard_documents
from tests.sources.mds_writer import encode_shard

SHARD = encode_shard(
    [{"id": str(i), "text": "word " * i, "ids": list(range(i + 1))} for i in range(6)],
    {"id": "str", "text": "str", "ids": "ndarray:uint32"},
)


@given(st.lists(st.tuples(st.integers(0, len(SHARD) - 1), st.integers(0, 255)), max_size=4), st.integers(0, len(SHARD)))
@settings(max_examples=300, deadline=None)
def test_a_hostile_mds_shard_is_refused_or_read_inside_its_bounds(changes, size):
    data = bytearray(SHARD)
    for place, value in changes:
        data[place] = value
    data = data[:size] if not changes else data
    try:
        shard = parse_shard(np.frombuffer(data, np.uint8), "shard")
        for column in ("text", "ids", "id"):
            try:
                for batch in shard_documents(shard, [column], 0):
                    assert batch.documents <= shard.samples
            except DataError:
                continue
    except DataError:
        pass


def test_mds_documents_can_start_anywhere(tmp_path, monkeypatch):
    from megatron_ettin.sources.files import make_sources

    monkeypatch.setattr("megatron_ettin.sources.mds.BATCH_BYTES", 10)
    path = tmp_path / "s.mds"
    path.write_bytes(SHARD)
    (source,) = make_sources([(path, "mds", None)])
    for start in range(7):
        rows = list(mds_documents(source, ["text"], start))
        assert b"".join(bytes(batch.content) for batch in rows) == b"".join(b"word " * i for i in range(start, 6))
