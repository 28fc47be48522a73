"""Counters past 2^31 and 2^32, on sparse and generated files."""

import struct
from dataclasses import replace

import numpy as np
import pytest

from megatron_ettin import _native
from megatron_ettin.corpus.manifest import FileChecksum, read_manifest
from megatron_ettin.rows.order import Permutation
from megatron_ettin.rows.packing import HEADER_BYTES
from megatron_ettin.rows.pool import Pool, PoolSource
from megatron_ettin.rows.run_data import open_data
from tests.rows.conftest import run_config
from tests.twins.corpus_writer import write_arrays

BLOCK = 1 << 17


def write_sparse_corpus(folder, lengths, texts):
    """A corpus of long documents that is a hole but for some texts: {document: (start, ids)}."""
    prefix = write_arrays(folder / "sparse", np.zeros(0, np.uint16), lengths, np.arange(len(lengths) + 1))
    begin = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
    with (folder / "sparse.bin").open("r+b") as out:
        out.truncate(2 * int(begin[-1]))
        for document, (start, ids) in texts.items():
            out.seek(2 * int(begin[document] + start))
            out.write(np.asarray(ids, np.uint16).tobytes())
    return rewrite_manifest(prefix, lengths)


def rewrite_manifest(prefix, lengths):
    """Correct the sizes that the manifest states."""
    path = prefix.with_name(prefix.name + ".json")
    manifest = read_manifest(path)
    files = dict(manifest.files)
    files[".bin"] = FileChecksum(bytes=2 * int(lengths.sum(dtype=np.int64)), checksum="none")
    path.write_text(replace(manifest, files=files, tokens=int(lengths.sum(dtype=np.int64))).to_json())
    return prefix


def test_text_past_four_gibibytes_and_2_to_the_31_tokens_is_read(tmp_path):
    lengths = np.array([2**31 - 9, 50, 2**31 - 20, 2**30, 60], np.int32)
    last = {1: (0, range(50)), 2: (2**31 - 40, range(20)), 4: (0, range(60))}
    prefix = write_sparse_corpus(tmp_path, lengths, last)
    stage = open_data(run_config(prefix, row_length=32_768, piece_length=32_768, held_out_share=0.0))
    pack = stage.packs[0]
    assert pack.text_tokens == lengths.sum(dtype=np.int64) > 2**32
    for document, (start, ids) in last.items():
        row, first, _ = next(p for p in pack.native.document(document) if p[1] <= start < p[1] + p[2])
        batch = stage.batch([row], "clm")
        at = 0
        for piece_document, piece_start, length in pack.native.row(row):
            if (piece_document, piece_start) == (document, first):
                offset = at + 1 + start - first
                assert batch.input_ids_BT[0, offset : offset + len(ids)].tolist() == list(ids)
            at += length + 2


def test_documents_past_2_to_the_32_are_found(tmp_path):
    """A pack index of 2^32 + 2^18 documents whose last two blocks alone hold entries."""
    documents = 2**32 + 2 * BLOCK
    blocks = documents // BLOCK
    path = tmp_path / "huge.pack"
    entry = np.array([1 << 63 | 5 << 46 | 0 << 15 | 10, 1 << 63 | 7 << 46 | 3 << 15 | 8], np.uint64)
    table = np.zeros((blocks + 1, 4), np.uint64)
    table[:, 0] = HEADER_BYTES
    sizes = np.array([entry.nbytes + 8, 2, 2, 18], np.uint64)
    table[blocks - 1] = table[blocks - 2] + sizes
    table[blocks] = table[blocks - 1] + sizes
    with path.open("wb") as out:
        out.write(bytes(HEADER_BYTES))
        for _ in range(2):
            out.write(entry.tobytes() + struct.pack("<II", 0, 0))
        out.write(table.tobytes())
    pack = _native.PackFile(str(path), int(table[-1, 0]), blocks, documents, 64)
    first = (blocks - 1) * BLOCK
    assert first + 5 > 2**32
    assert pack.row(2) == [(first + 5, 0, 10)] and pack.row(3) == [(first + 7, 3, 8)]
    assert pack.document(first + 7) == [(3, 3, 8)] and pack.document(first - BLOCK + 5) == [(0, 0, 10)]
    assert pack.row_tokens(np.array([3])).tolist() == [10]


@pytest.mark.parametrize("rows", [2**31 + 5, 2**32 + 5, 2**40 + 7])
def test_pools_past_2_to_the_32_rows_resolve_and_invert(rows):
    def source(name, pool_rows):
        return PoolSource(name=name, rows=rows, pool_rows=pool_rows, partial=Permutation(rows, list(range(8))))

    pool = Pool([source("a", 3 * rows + rows // 2), source("b", rows // 3)])
    rng = np.random.default_rng(0)
    numbers = np.concatenate((rng.integers(0, pool.rows, 200), [0, pool.rows - 1]))
    numbers = np.concatenate((numbers, numbers + 5 * pool.rows))
    resolved = pool.resolve(numbers)
    for number, source_index, row, pass_number in zip(
        numbers.tolist(), resolved.sources, resolved.rows, resolved.passes, strict=True
    ):
        inside = number % pool.rows
        assert inside in pool.numbers_of(int(source_index), int(row))
        assert pass_number // pool.sources[source_index].passes_an_epoch == number // pool.rows
        assert 0 <= row < rows


def test_rows_and_steps_past_2_to_the_32_answer_each_other(corpus):
    stage = open_data(run_config(corpus))
    for step in (2**29, 2**32 + 1):
        first, count = stage.batch_schedule.rows_at(step)
        assert first == 8 * step > 2**31 and stage.batch_schedule.step_of_row(first + count - 1) == step
        rows = stage.step_rows(step)
        assert (stage.order.position_of(rows) == np.arange(first, first + count)).all()
    assert stage.batch(stage.step_rows(2**24), "mlm").rows == 8
