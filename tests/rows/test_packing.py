"""Packing: every token exactly once, nothing cut that fits, the same rows as the plain definition."""

import errno
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from megatron_ettin import _native
from megatron_ettin.corpus.reader import open_corpus
from megatron_ettin.errors import ConfigError, DataError
from megatron_ettin.rows.held_out import split_key, text_hashes
from megatron_ettin.rows.packing import PackSpec, native_corpus, open_pack
from tests.twins.corpus_writer import index_bytes, random_documents, write_arrays, write_corpus
from tests.twins.packing import best_fit_rows, concatenated_rows
from tests.twins.randomness import mix64, text_hash

WEB_MEAN, WEB_SIGMA = 997, 1.0
"""Log-normal document lengths as of web text, in tokens."""
WEB_FILL = 0.9995


def spec(row_length=64, piece_length=None, packing="best_fit", held_out_share=0.0, side="train"):
    return PackSpec(
        row_length=row_length,
        piece_length=piece_length or row_length,
        packing=packing,
        held_out_share=held_out_share,
        side=side,
    )


def rows_of(pack):
    return [pack.native.row(n) for n in range(pack.rows)]


def lengths_only(tmp_path, lengths, name="lengths"):
    """A corpus whose index is real and whose .bin is a hole."""
    lengths = np.asarray(lengths, np.int32)
    prefix = write_arrays(tmp_path / name, np.zeros(0, np.uint16), np.zeros(0, np.int32), [0])
    bounds = np.arange(len(lengths) + 1)
    (tmp_path / f"{name}.idx").write_bytes(index_bytes(lengths, bounds, 2))
    with (tmp_path / f"{name}.bin").open("wb") as out:
        out.truncate(2 * int(lengths.sum(dtype=np.int64)))
    return _native.IndexedCorpus([str(prefix)], False)


def packed_blocks(corpus, row_length, piece_length, threads=1):
    blocks = -(-corpus.documents // _native.BLOCK_DOCUMENTS)
    return _native.pack_blocks(
        corpus, 0, blocks, row_length=row_length, piece_length=piece_length, concatenated=False, hashes=None,
        key=0, below=0, held_out=False, threads=threads,
    )  # fmt: skip


@pytest.mark.parametrize("row_length,piece_length", [(3, 3), (16, 16), (64, 64), (64, 50), (300, 100), (4500, 4400)])
@pytest.mark.parametrize("packing,twin", [("best_fit", best_fit_rows), ("concatenate", concatenated_rows)])
def test_rows_are_those_of_the_plain_definition(corpus, documents, row_length, piece_length, packing, twin):
    pack = open_pack(open_corpus(corpus), spec(row_length, piece_length, packing))
    expected = twin([len(document) for document in documents], row_length, piece_length)
    assert rows_of(pack) == [[(p.document, p.start, p.length) for p in row] for row in expected]


@pytest.mark.parametrize("packing", ["best_fit", "concatenate"])
def test_every_token_appears_exactly_once_in_a_pass(corpus, documents, packing):
    opened = open_corpus(corpus)
    seen = [np.zeros(len(document), int) for document in documents]
    for side in ("train", "held_out"):
        pack = open_pack(opened, spec(held_out_share=0.1, packing=packing, side=side))
        for row in rows_of(pack):
            assert sum(length + 2 for _, _, length in row) <= 64
            for document, start, length in row:
                seen[document][start : start + length] += 1
    assert all((counts == 1).all() for counts in seen)


def test_rows_of_a_document_are_found_by_the_document(corpus, documents):
    pack = open_pack(open_corpus(corpus), spec())
    found = {}
    for number, row in enumerate(rows_of(pack)):
        for document, start, length in row:
            found.setdefault(document, []).append((number, start, length))
    for document in range(len(documents)):
        assert pack.native.document(document) == sorted(found.get(document, []), key=lambda piece: piece[1])


def test_totals_and_tokens_of_rows_agree(corpus, documents):
    pack = open_pack(open_corpus(corpus), spec())
    tokens = pack.native.row_tokens(np.arange(pack.rows))
    assert pack.text_tokens == sum(map(len, documents))
    assert tokens.sum() == pack.tokens == pack.text_tokens + 2 * sum(map(len, rows_of(pack)))
    assert pack.fill == pack.tokens / (64 * pack.rows)


@pytest.mark.parametrize("row_length,piece_length", [(1024, 1024), (8192, 7999), (8192, 8192)])
def test_web_like_lengths_fill_the_rows(tmp_path, row_length, piece_length):
    rng = np.random.default_rng(0)
    mu = np.log(WEB_MEAN) - WEB_SIGMA**2 / 2
    lengths = np.maximum(rng.lognormal(mu, WEB_SIGMA, 200_000).astype(int), 1)
    blocks = packed_blocks(lengths_only(tmp_path, lengths), row_length, piece_length)
    rows, pieces = sum(block[2] for block in blocks), sum(len(block[0]) for block in blocks)
    assert sum(block[3] for block in blocks) == lengths.sum()
    assert (lengths.sum() + 2 * pieces) / (rows * row_length) >= WEB_FILL


def test_threads_do_not_change_the_rows(tmp_path):
    lengths = np.random.default_rng(1).integers(0, 90, 3 * _native.BLOCK_DOCUMENTS + 5)
    corpus = lengths_only(tmp_path, lengths)
    one, three = packed_blocks(corpus, 128, 128), packed_blocks(corpus, 128, 128, threads=3)
    assert len(one) == 4
    for a, b in zip(one, three, strict=True):
        assert (a[0] == b[0]).all() and (a[1] == b[1]).all() and a[2:] == b[2:]


def test_blocks_are_found_from_rows_and_documents(tmp_path):
    rng = np.random.default_rng(2)
    lengths = rng.integers(0, 4, 2 * _native.BLOCK_DOCUMENTS + 77)
    flat = rng.integers(0, 250, lengths.sum()).astype(np.uint16)
    prefix = write_arrays(tmp_path / "many", flat, lengths, np.arange(len(lengths) + 1))
    pack = open_pack(open_corpus(prefix), spec(32))
    seen = np.zeros(len(lengths), int)
    for row in rows_of(pack):
        for document, start, length in row:
            assert start == 0 and length == lengths[document]
            seen[document] += 1
    assert (seen == (lengths > 0)).all()
    for document in rng.integers(0, len(lengths), 20):
        placed = pack.native.document(int(document))
        assert [length for _, _, length in placed] == ([lengths[document]] if lengths[document] else [])
        for row, start, length in placed:
            assert (document, start, length) in pack.native.row(row)


def test_an_appended_eod_is_not_text(tmp_path, documents):
    plain = open_corpus(write_corpus(tmp_path / "plain", documents))
    ended = open_corpus(write_corpus(tmp_path / "ended", documents, eod=250))
    assert ended.tokens == plain.tokens + sum(1 for document in documents if document)
    assert rows_of(open_pack(ended, spec())) == rows_of(open_pack(plain, spec()))
    key = split_key()
    hashes = [text_hashes(corpus, native_corpus(corpus), 1)[:] for corpus in (ended, plain)]
    assert (hashes[0] == hashes[1]).all() and key


def test_sentences_are_joined_to_their_document(tmp_path, documents):
    rng = np.random.default_rng(3)
    split = []
    for document in documents:
        cuts = np.sort(rng.integers(1, max(len(document), 2), 2)) if len(document) > 3 else []
        split.append([part.tolist() for part in np.split(np.array(document, int), cuts) if len(part)])
    whole = open_corpus(write_corpus(tmp_path / "whole", documents))
    parts = open_corpus(write_corpus(tmp_path / "parts", split))
    assert parts.sequences > whole.sequences
    assert rows_of(open_pack(parts, spec())) == rows_of(open_pack(whole, spec()))
    hashes = [text_hashes(corpus, native_corpus(corpus), 1)[:] for corpus in (whole, parts)]
    assert (hashes[0] == hashes[1]).all()


def test_documents_that_stand_elsewhere_are_hashed_where_they_stand(tmp_path):
    documents = [[1, 2], [3, 4, 5], [6, 7], [8, 9, 10], [11]]
    corpus = open_corpus(write_corpus(tmp_path / "corpus", documents))
    pointers = np.memmap(tmp_path / "corpus.idx", "<i8", "r+", offset=34 + 4 * len(documents), shape=len(documents))
    pointers[1], pointers[3] = pointers[3], pointers[1]  # as many tokens as before between the first and the last
    pointers.flush()
    together = _native.text_hashes(native_corpus(corpus), 0, len(documents), 1)
    assert together.tolist() == [text_hash(documents[at]) for at in (0, 3, 2, 1, 4)]


def test_held_out_documents_are_chosen_by_their_text(tmp_path):
    documents = random_documents(np.random.default_rng(4), 3000, mean=8)
    small = open_corpus(write_corpus(tmp_path / "small", documents + documents[::-1]))
    wide = open_corpus(write_corpus(tmp_path / "wide", documents, dtype="int32"))
    hashes = text_hashes(small, native_corpus(small), 2)[:]
    assert (hashes[:3000] == hashes[3000:][::-1]).all()
    assert (text_hashes(wide, native_corpus(wide), 1)[:] == hashes[:3000]).all()
    assert [int(h) for h in hashes[:200]] == [text_hash(document) for document in documents[:200]]
    keyed = np.array([mix64(split_key() ^ int(h)) >> 32 for h in hashes])
    for share in (0.01, 0.2):
        held_out = spec(held_out_share=share, side="held_out")
        pack = open_pack(small, held_out)
        held = {document for row in rows_of(pack) for document, _, _ in row}
        texts = {n for n, document in enumerate(documents + documents[::-1]) if document}
        assert held == {n for n in texts if keyed[n] < held_out.below}
    share_held_out = np.mean(keyed[:3000] < spec(held_out_share=0.2).below)
    assert abs(share_held_out - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 3000)  # 4 standard deviations


def test_a_rebuilt_corpus_gets_a_new_pack_index(tmp_path):
    first = open_pack(open_corpus(write_corpus(tmp_path / "text", [[1, 2, 3]])), spec(held_out_share=0.5))
    again = open_pack(open_corpus(write_corpus(tmp_path / "text", [[1] * 40, [2] * 40])), spec(held_out_share=0.5))
    assert first.path == again.path and first.rows + first.text_tokens != again.rows + again.text_tokens


def test_an_interrupted_build_leaves_nothing(corpus, tmp_path, monkeypatch):
    for file in corpus.parent.glob("text.*"):
        if file.suffix in (".bin", ".idx", ".json"):
            shutil.copy(file, tmp_path)
    monkeypatch.setattr("megatron_ettin._native.pack_blocks", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        open_pack(open_corpus(tmp_path / "text"), spec())
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".bin", ".idx", ".json"]


def test_what_a_killed_build_left_is_removed_by_the_next(tmp_path):
    opened = open_corpus(write_corpus(tmp_path / "text", [[1, 2, 3]]))
    leftover = tmp_path / f".{spec().path(opened).name}.incomplete-12345678"
    leftover.write_bytes(b"half")
    assert open_pack(opened, spec()).rows == 1
    assert not leftover.exists()


def test_a_damaged_pack_index_is_an_error_or_harmless(tmp_path, documents):
    opened = open_corpus(write_corpus(tmp_path / "text", documents))
    pack = open_pack(opened, spec())
    expected, content = rows_of(pack), bytearray(pack.path.read_bytes())
    rng = np.random.default_rng(5)
    refused = 0
    for trial in range(300):
        damaged = bytearray(content)
        if trial % 3 == 0:
            del damaged[rng.integers(len(damaged)) :]
        else:
            at = int(rng.integers(len(damaged))) if trial % 3 == 1 else int(rng.integers(256))
            damaged[at] ^= 1 << int(rng.integers(8))
        pack.path.write_bytes(damaged)
        try:
            found = rows_of(open_pack(opened, spec()))
        except DataError as error:
            assert str(pack.path) in str(error) and "delete the file" in str(error)
            refused += 1
        else:
            assert len(found) == len(expected)
    assert refused > 150


@pytest.mark.parametrize("row_length,piece_length", [(2, 2), (64, 2), (64, 65), (40_000, 40_000)])
def test_impossible_lengths_are_refused(row_length, piece_length):
    with pytest.raises(ConfigError, match=r"data\.piece_length=\d+ must be at least 3"):
        spec(row_length, piece_length)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_an_unwritable_folder_is_named(corpus, monkeypatch, number):
    opened = open_corpus(corpus)

    def refuse(path, *_, **__):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr("megatron_ettin.ownership.Path.write_text", refuse)
    with pytest.raises(DataError, match="cannot be written.*ettin pack"):
        open_pack(opened, spec(77))


PACK = """
import sys, time
import megatron_ettin.rows.packing as packing
from megatron_ettin.corpus.reader import open_corpus
build = packing._build
def slow(*arguments):
    print("building", flush=True)
    time.sleep(float(sys.argv[2]))
    return build(*arguments)
packing._build = slow
spec = packing.PackSpec(row_length=64, piece_length=64, packing="best_fit", held_out_share=0.5, side="train")
print(packing.open_pack(open_corpus(sys.argv[1]), spec).rows)
"""


@pytest.mark.parametrize("killed", [False, True])
def test_a_second_builder_waits_for_the_first_and_goes_on_when_it_is_gone(tmp_path, killed):
    prefix = write_corpus(tmp_path / "text", [[1, 2, 3]] * 50)
    start = lambda seconds: subprocess.Popen(  # noqa: E731
        [sys.executable, "-c", PACK, prefix, str(seconds)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    first = start(600 if killed else 3)
    assert first.stdout.readline() == "building\n"
    second = start(0)
    assert "is owned by" in second.stderr.readline()
    if killed:
        first.kill()
    said, _ = second.communicate(timeout=60)
    first.communicate(timeout=60)
    assert said.startswith("building\n") == killed
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_indexes_of_a_corpus_that_may_only_be_read_lie_in_a_folder_of_their_own(tmp_path):
    prefix = write_corpus(tmp_path / "shared" / "text", [[n, 2, 3] for n in range(1, 60)])
    os.chmod(tmp_path / "shared", 0o555)
    command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []  # root writes all
    command += [sys.executable, "-m", "megatron_ettin", "pack", str(prefix), "--row-length", "64"]
    command += ["--held-out-share", "0.5"]
    before = sorted(path.name for path in (tmp_path / "shared").iterdir())
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "--data.index-folder" in refused.stderr, refused.stderr
    index_folder = tmp_path / "indexes"
    done = subprocess.run(
        [*command, "--index-folder", str(index_folder)], capture_output=True, text=True, check=False
    )
    os.chmod(tmp_path / "shared", 0o755)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "shared").iterdir()) == before
    assert {path.suffix for path in index_folder.iterdir()} == {".pack", ".hash"}
    again = open_pack(open_corpus(prefix), spec(64, 64, held_out_share=0.5))
    assert again.path.parent == tmp_path / "shared"
    kept = open_pack(open_corpus(prefix), replace(spec(64, 64, held_out_share=0.5), folder=str(index_folder)))
    assert rows_of(kept) == rows_of(again)
