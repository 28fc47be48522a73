"""The text hashes that come with a corpus, so that nothing has to be read again to split off held-out documents."""

import json

import pytest

from megatron_ettin.corpus.build.build import build_corpus
from megatron_ettin.corpus.build.job import BuildOptions
from megatron_ettin.corpus.build.merge import merge_corpora
from megatron_ettin.corpus.reader import open_corpus
from megatron_ettin.rows.held_out import text_hashes
from megatron_ettin.rows.packing import native_corpus
from tests.twins.randomness import text_hash


@pytest.mark.parametrize("append_eod", [False, True])
def test_built_and_merged_corpora_come_with_their_text_hashes(tmp_path, texts, tokenizer, monkeypatch, append_eod):
    options = BuildOptions(append_eod=append_eod, specials_in_text="reject", on_error="skip", overwrite=True)
    for part in (0, 1):
        source = tmp_path / f"{part}.jsonl"
        source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[part::2]))
        build_corpus([source], tmp_path / str(part), tokenizer, BuildOptions(append_eod=not append_eod))
        build_corpus([source], tmp_path / str(part), tokenizer, options)
    merge_corpora([tmp_path / "0", tmp_path / "1"], tmp_path / "both")
    assert len(list(tmp_path.glob("*.hash"))) == 3  # those of what was replaced are gone
    monkeypatch.setattr("megatron_ettin.rows.held_out.publish_file", lambda *_: pytest.fail("hashes were missing"))
    for name in ("0", "1", "both"):
        corpus = open_corpus(tmp_path / name)
        stored = text_hashes(corpus, native_corpus(corpus), 1)[:]
        documents = [corpus.document(number).tolist() for number in range(corpus.documents)]
        ids = [document[:-1] if append_eod else document for document in documents]
        assert stored.tolist() == [text_hash(document) for document in ids]
