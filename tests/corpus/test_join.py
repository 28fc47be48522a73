"""A joined corpus is the merged one without a copy; a part that is not what was joined is named."""

import json
import os
import shutil

import numpy as np
import pytest

from megatron_ettin.commands import corpus as command
from megatron_ettin.corpus.build import BuildOptions, build_corpus
from megatron_ettin.corpus.build.join import join_corpora
from megatron_ettin.corpus.build.merge import merge_corpora
from megatron_ettin.corpus.inspect import corpus_summary
from megatron_ettin.corpus.reader import open_corpus
from megatron_ettin.corpus.together import described
from megatron_ettin.corpus.verify import verify_corpus
from megatron_ettin.errors import DataError
from megatron_ettin.machine import allow_open_files
from tests.twins.corpus_writer import random_documents, write_corpus

SHARDS = 3


def file(prefix, suffix):
    return prefix.with_name(prefix.name + suffix)


@pytest.fixture(scope="module")
def built(tmp_path_factory, jsonl, tokenizer):
    """Prefixes of the shards of a build; do not change them."""
    folder = tmp_path_factory.mktemp("built")
    options = [BuildOptions(append_eod=True, shard=(i, SHARDS)) for i in range(SHARDS)]
    return [build_corpus([jsonl, jsonl], folder / "text", tokenizer, option).corpus.prefix for option in options]


@pytest.fixture
def shards(tmp_path, built):
    """A copy to damage."""
    shutil.copytree(built[0].parent, tmp_path / "shards")
    return [tmp_path / "shards" / prefix.name for prefix in built]


@pytest.fixture
def joined(shards):
    """The shards, joined beside them."""
    return join_corpora(shards, shards[0].with_name("text"))


def test_a_joined_corpus_is_the_merged_one_without_its_files(tmp_path, shards, joined):
    merged = merge_corpora(shards, tmp_path / "merged")
    assert joined.fingerprint == merged.fingerprint
    assert not file(joined.prefix, ".bin").exists() and not file(joined.prefix, ".idx").exists()
    assert described(joined).sources == merged.manifest.sources
    counts = ("documents", "sequences", "tokens", "empty_documents", "specials_in_text", "eod", "tokenizer")
    for name in counts[:3] + counts[5:]:
        assert getattr(joined, name) == getattr(merged, name)
    for name in counts[3:5]:
        assert getattr(joined.manifest, name) == getattr(merged.manifest, name)
    for number in range(merged.documents):
        assert joined.document(number).tolist() == merged.document(number).tolist()
    source = np.random.default_rng(0)
    for start, stop in np.sort(source.integers(0, merged.documents + 1, (50, 2))):
        assert joined.lengths(start, stop).tolist() == merged.lengths(start, stop).tolist()
    assert verify_corpus(joined.prefix).whole


def test_parts_without_documents_and_of_sentences_are_joined(tmp_path):
    source = np.random.default_rng(1)
    sentences = [[document, document[:3]] if document else [] for document in random_documents(source, 20)]
    kinds = {"some": random_documents(source, 30), "none": [], "empty": [[]], "sentences": sentences}
    prefixes = [write_corpus(tmp_path / name, documents) for name, documents in kinds.items()]
    joined = join_corpora([*prefixes, prefixes[0]], tmp_path / "joined")
    merged = merge_corpora([*prefixes, prefixes[0]], tmp_path / "merged")
    assert joined.fingerprint == merged.fingerprint and joined.documents == 30 + 1 + 20 + 30
    assert all(joined.document(n).tolist() == merged.document(n).tolist() for n in range(merged.documents))
    with pytest.raises(IndexError):
        joined.document(joined.documents)


def test_a_joined_corpus_moves_with_parts_below_it(tmp_path, shards, joined):
    below = join_corpora(shards, tmp_path / "all")
    shutil.move(tmp_path / "shards", tmp_path / "elsewhere")
    assert open_corpus(tmp_path / "elsewhere" / "text").fingerprint == joined.fingerprint
    with pytest.raises(DataError, match="shards/text-00000-of-00003.json: no such file, but a part of .*all.json"):
        open_corpus(below.prefix)
    (tmp_path / "aside").mkdir()
    aside = join_corpora([tmp_path / "elsewhere" / "text"], tmp_path / "aside" / "text")
    shutil.move(tmp_path / "aside", tmp_path / "other")
    assert open_corpus(tmp_path / "other" / "text").fingerprint == aside.fingerprint == joined.fingerprint


def test_joined_corpora_are_joined_and_merged_by_their_parts(tmp_path, shards, joined, built):
    again = join_corpora([joined.prefix, joined.prefix], tmp_path / "twice")
    assert [part.documents for part in again.manifest.parts] == 2 * [open_corpus(prefix).documents for prefix in shards]
    merged, expected = merge_corpora([joined.prefix], tmp_path / "m"), merge_corpora(built, tmp_path / "e")
    for suffix in (".bin", ".idx"):
        assert file(merged.prefix, suffix).read_bytes() == file(expected.prefix, suffix).read_bytes()
    assert merged.fingerprint == joined.fingerprint


@pytest.mark.parametrize("suffix", [".bin", ".idx", ".json"])
def test_a_missing_or_cut_part_is_named(shards, joined, suffix):
    path = file(shards[1], suffix)
    content = path.read_bytes()
    path.write_bytes(content[:-2] if suffix != ".json" else b"{}")
    with pytest.raises(DataError, match=shards[1].name):
        open_corpus(joined.prefix)
    assert shards[1].name in str(verify_corpus(joined.prefix).problems)
    path.unlink()
    with pytest.raises(DataError, match=f"{path.name}: no such file.*text.json"):
        open_corpus(joined.prefix)


def test_a_part_that_was_built_anew_is_named_though_its_sizes_are_the_same(tmp_path):
    parts = [write_corpus(tmp_path / name, [[1, 2, 3], [4, 5]]) for name in "ab"]
    joined = join_corpora(parts, tmp_path / "joined")
    write_corpus(parts[1], [[1, 2, 3], [4, 6]])
    with pytest.raises(DataError, match="b: a part of .*joined.json, but built anew"):
        open_corpus(joined.prefix)
    write_corpus(parts[1], [[1, 2, 3], [4, 5]])
    assert open_corpus(joined.prefix).documents == 4


def test_verify_finds_a_flipped_bit_in_any_part_and_names_it(joined, shards):
    for number, suffix in ((0, ".bin"), (1, ".idx"), (2, ".bin")):
        path = file(shards[number], suffix)
        good = path.read_bytes()
        bad = bytearray(good)
        bad[len(bad) // 2] ^= 4
        path.write_bytes(bad)
        assert shards[number].name in str(verify_corpus(joined.prefix).problems)
        path.write_bytes(good)
    manifest = file(joined.prefix, ".json")
    changed = json.loads(manifest.read_text())
    changed["parts"][0], changed["parts"][1] = changed["parts"][1], changed["parts"][0]
    manifest.write_text(json.dumps(changed))
    assert any("of all parts" in problem for problem in verify_corpus(joined.prefix).problems)


def test_what_does_not_fit_is_not_joined(tmp_path, built):
    plain = write_corpus(tmp_path / "plain", [[1, 2]])
    others = {
        "tokenizer": write_corpus(tmp_path / "tokenizer", [[1, 2]], tokenizer="another"),
        "dtype": write_corpus(tmp_path / "wide", [[1, 2]], dtype="int32"),
        "appended_eod": write_corpus(tmp_path / "ended", [[1, 2]], eod=250),
    }
    for reason, other in others.items():
        with pytest.raises(DataError, match=f"{other.name}: {reason}"):
            join_corpora([plain, other], tmp_path / "joined")
    with pytest.raises(DataError, match="in order"):
        join_corpora(built[:2], tmp_path / "joined")
    with pytest.raises(DataError, match="exists already"):
        join_corpora([plain], plain)
    assert not list(tmp_path.glob("joined*"))


def test_the_command_joins_shards_that_lie_beside(shards, capsys):
    prefix = shards[0].with_name("text")
    assert command.main(["join", str(prefix)]) == 0
    shown = capsys.readouterr().out
    assert shown.strip() == corpus_summary(open_corpus(prefix)) and f"{SHARDS} corpora, read in place" in shown
    assert command.main(["verify", str(prefix)]) == 0
    assert command.main(["show", str(prefix), "5", "--ids"]) == 0
    shutil.copy(file(shards[0], ".json"), prefix.with_name("text-00000-of-00002.json"))
    with pytest.raises(DataError, match="builds in 2 and in 3 parts"):
        command.main(["join", str(prefix)])
    with pytest.raises(DataError, match="name the corpora"):
        command.main(["join", str(prefix.with_name("other"))])


def test_a_process_may_open_what_a_joined_corpus_needs_or_says_why_not(monkeypatch):
    limits = {"now": (64, 4096)}
    monkeypatch.setattr("resource.getrlimit", lambda _: limits["now"])
    monkeypatch.setattr("resource.setrlimit", lambda _, wanted: limits.update(now=wanted))
    allow_open_files(2000, "joined: has 1000 parts")
    assert limits["now"] == (len(os.listdir("/dev/fd")) + 2000 + 256, 4096)
    with pytest.raises(DataError, match="joined: has 3000 parts, 6000 files, .*may open 4096.*ulimit -Hn"):
        allow_open_files(6000, "joined: has 3000 parts")
