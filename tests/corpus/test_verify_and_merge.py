"""verify finds any damage; merge gives the bytes of one build; the reader never crashes."""

import json
import shutil
import struct

import numpy as np
import pytest

from megatron_ettin.commands import corpus as command
from megatron_ettin.corpus.build import BuildOptions, build_corpus
from megatron_ettin.corpus.build.adopt import adopt_corpus
from megatron_ettin.corpus.build.merge import merge_corpora
from megatron_ettin.corpus.inspect import corpus_summary, document_text, length_sample
from megatron_ettin.corpus.reader import open_corpus
from megatron_ettin.corpus.verify import verify_corpus
from megatron_ettin.errors import DataError
from tests.corpus.oracle import read_lines, write_megatron


@pytest.fixture(scope="module")
def built(tmp_path_factory, jsonl, tokenizer):
    """A corpus with an eod; do not change it."""
    folder = tmp_path_factory.mktemp("built")
    return build_corpus(jsonl, folder / "c", tokenizer, BuildOptions(append_eod=True)).corpus


@pytest.fixture
def copy(tmp_path, built):
    """A copy to damage."""
    shutil.copytree(built.prefix.parent, tmp_path / "copy")
    return tmp_path / "copy" / "c"


def file(prefix, suffix):
    return prefix.with_name(prefix.name + suffix)


@pytest.mark.parametrize("threads", [1, 4])
def test_a_whole_corpus_verifies(built, threads):
    outcome = verify_corpus(built.prefix, threads=threads)
    assert outcome.whole, outcome.problems


def test_verify_finds_every_flipped_bit(copy):
    source = np.random.default_rng(0)
    for suffix in (".bin", ".idx"):
        path = file(copy, suffix)
        good = path.read_bytes()
        for place in source.integers(0, len(good), 60):
            bad = bytearray(good)
            bad[place] ^= 1 << int(source.integers(8))
            path.write_bytes(bad)
            assert not verify_corpus(copy).whole, (suffix, place)
        path.write_bytes(good)
    assert verify_corpus(copy).whole


def test_verify_finds_a_changed_manifest_and_tokenizer(copy):
    manifest = file(copy, ".json")
    good = manifest.read_text()
    changed = json.loads(good)
    changed["documents"] += 1
    manifest.write_text(json.dumps(changed))
    assert not verify_corpus(copy).whole
    manifest.write_text(good)
    file(copy, ".tokenizer.json").write_text("{}")
    assert not verify_corpus(copy).whole


@pytest.mark.parametrize("suffix", [".bin", ".idx", ".json"])
def test_a_missing_or_cut_file_is_refused_at_opening(copy, suffix):
    path = file(copy, suffix)
    content = path.read_bytes()
    path.write_bytes(content[:-1] if suffix != ".json" else content[:-10])
    with pytest.raises(DataError):
        open_corpus(copy)
    path.unlink()
    with pytest.raises(DataError, match="no such file"):
        open_corpus(copy)


HEADER = struct.Struct("<9sQBQQ")


@pytest.mark.parametrize(
    ("field", "value"),
    [(0, b"XMIDIDX\0\0"), (1, 2), (2, 99), (2, 7), (3, 2**63), (3, 2**61), (3, 0), (4, 0), (4, 2**60), (4, 2**64 - 1)],
)
def test_a_hostile_header_is_refused_at_opening(copy, field, value):
    path = file(copy, ".idx")
    content = path.read_bytes()
    fields = list(HEADER.unpack(content[: HEADER.size]))
    fields[field] = value
    path.write_bytes(HEADER.pack(*fields) + content[HEADER.size :])
    with pytest.raises(DataError):
        open_corpus(copy)
    assert not verify_corpus(copy).whole


def test_hostile_lengths_and_offsets_never_leave_the_files(copy, built):
    source = np.random.default_rng(1)
    path = file(copy, ".idx")
    good = path.read_bytes()
    values = [-1, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 1, built.pairs[0].token_bytes + 2]
    for _ in range(150):
        bad = bytearray(good)
        size = int(source.choice([4, 8]))
        place = int(source.integers(HEADER.size, len(good) - size))
        bad[place : place + size] = int(source.choice(values)).to_bytes(16, "little", signed=True)[:size]
        if bad == good:
            continue
        path.write_bytes(bad)
        assert not verify_corpus(copy).whole
        try:
            corpus = open_corpus(copy)
        except DataError:
            continue
        for number in range(corpus.documents):
            try:
                ids = corpus.document(number)
                assert len(ids) == corpus.lengths(number, number + 1)[0]
            except DataError:
                continue


def test_documents_out_of_bounds_are_refused(built):
    for number in (-1, built.documents, 2**40):
        with pytest.raises(IndexError):
            built.document(number)
    with pytest.raises(IndexError):
        built.lengths(3, built.documents + 1)


def test_merged_shards_equal_one_build(tmp_path, jsonl, tokenizer):
    whole = build_corpus([jsonl, jsonl], tmp_path / "w", tokenizer).corpus
    parts = [
        build_corpus([jsonl, jsonl], tmp_path / "p", tokenizer, BuildOptions(shard=(i, 3))).corpus for i in range(3)
    ]
    merged = merge_corpora([part.prefix for part in parts], tmp_path / "m")
    for suffix in (".bin", ".idx"):
        assert file(merged.prefix, suffix).read_bytes() == file(whole.prefix, suffix).read_bytes()
    assert merged.manifest.sources == whole.manifest.sources
    assert merged.fingerprint == whole.fingerprint
    assert verify_corpus(merged.prefix).whole


def test_merge_refuses_what_does_not_fit(tmp_path, jsonl, tokenizer, built):
    parts = [build_corpus(jsonl, tmp_path / "p", tokenizer, BuildOptions(shard=(i, 2))).corpus for i in range(2)]
    with pytest.raises(DataError, match="in order"):
        merge_corpora([parts[1].prefix, parts[0].prefix], tmp_path / "m")
    with pytest.raises(DataError, match="in order"):
        merge_corpora([parts[0].prefix], tmp_path / "m")
    with pytest.raises(DataError, match="appended_eod"):
        merge_corpora([built.prefix, parts[0].prefix], tmp_path / "m")
    assert not list(tmp_path.glob("m*"))


def test_merge_of_one_is_a_link(tmp_path, built):
    merged = merge_corpora([built.prefix], tmp_path / "m")
    assert file(merged.prefix, ".bin").samefile(file(built.prefix, ".bin"))
    assert verify_corpus(merged.prefix).whole


def test_a_corpus_of_megatron_is_adopted(tmp_path, jsonl, tokenizer, built):
    write_megatron(read_lines(jsonl), tmp_path / "m", tokenizer, eod=built.eod)
    prefix = tmp_path / "m_text_document"
    with pytest.raises(DataError, match="adopt"):
        open_corpus(prefix)
    corpus = adopt_corpus(prefix, tokenizer, eod_token="<|endoftext|>")
    assert corpus.pairs[0].map().tokens.tobytes() == built.pairs[0].map().tokens.tobytes()
    assert verify_corpus(prefix).whole


def test_adoption_refuses_template_specials(tmp_path, tokenizer, built):
    special = built.manifest.tokenizer.special_ids
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(str(tmp_path / "t.bin"), dtype=np.uint16)
    for length in (3, 5):
        builder.add_document([special["[CLS]"], *range(20, 20 + length), special["[SEP]"]], [length + 2])
    builder.finalize(str(tmp_path / "t.idx"))
    with pytest.raises(DataError, match="template specials"):
        adopt_corpus(tmp_path / "t", tokenizer)


def test_megatron_reads_ours(built):
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    theirs = IndexedDataset(str(built.prefix))
    assert len(theirs) == built.sequences
    assert theirs.document_indices.tolist() == built.pairs[0].map().document_indices.tolist()
    number = built.sequences // 2
    first = int(np.searchsorted(built.pairs[0].map().document_indices, number))
    assert theirs[number].tolist() == built.document(first).tolist()


def test_commands_show_and_describe(built, texts, capsys):
    assert command.main(["inspect", str(built.prefix)]) == 0
    shown = capsys.readouterr().out
    assert f"{len(texts):,} (1 empty)" in shown
    assert shown.strip() == corpus_summary(built)
    assert command.main(["show", str(built.prefix), "5"]) == 0
    assert capsys.readouterr().out == texts[5] + "<|endoftext|>\n"
    assert command.main(["verify", str(built.prefix)]) == 0
    with pytest.raises(DataError, match="no documents"):
        command.main(["show", str(built.prefix), "100000"])
    assert document_text(built, 3).startswith(texts[3])


def test_verify_exits_with_1_for_damage(copy, capsys):
    path = file(copy, ".bin")
    path.write_bytes(b"\xff\xff" + path.read_bytes()[2:])
    assert command.main(["verify", str(copy)]) == 1
    assert "checksum" in capsys.readouterr().out


def test_a_large_corpus_is_sampled_evenly(built):
    sample = length_sample(built, limit=2000)
    assert len(sample) == built.documents
