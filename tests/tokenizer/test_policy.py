"""Special tokens that occur in texts: special, split or reject; counted in every case."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer as Reference

from megatron_ettin.errors import DataError
from megatron_ettin.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.samples import ATOMS, KINDS

CONTENT = KINDS["ettin"]().to_str()
TEXT = "one<|endoftext|>two [MASK] three  |||EMAIL_ADDRESS|||"


@pytest.mark.parametrize("engine", ["native", "huggingface"])
def test_special_tokens_become_their_ids_and_are_counted(engine: str) -> None:
    tokenizer = Tokenizer(CONTENT, engine=engine)
    ids = tokenizer.encode(TEXT).tolist()
    assert tokenizer.special_ids["<|endoftext|>"] in ids and tokenizer.special_ids["[MASK]"] in ids
    assert tokenizer.specials_met == 2


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_split_is_what_the_library_calls_encode_special_tokens(kind: str) -> None:
    content = KINDS[kind]().to_str()
    reference, ours = Reference.from_str(content), Tokenizer(content, special_tokens_in_text="split")
    reference.encode_special_tokens = True
    texts = [TEXT, *(first + second for first in ATOMS[:20] for second in ATOMS[:40])]
    ids, offsets = ours.encode_batch(texts)
    for at, expected in enumerate(reference.encode_batch_fast(texts, add_special_tokens=False)):
        assert ids[offsets[at] : offsets[at + 1]].tolist() == expected.ids, texts[at]
    assert ours.specials_met == 0


@pytest.mark.parametrize("engine", ["native", "huggingface"])
def test_reject_names_the_text(engine: str) -> None:
    tokenizer = Tokenizer(CONTENT, special_tokens_in_text="reject", engine=engine)
    assert len(tokenizer.encode("fine |||EMAIL_ADDRESS|||"))
    with pytest.raises(DataError, match="text 1 "):
        tokenizer.encode_batch(["fine", TEXT, "fine"])


@pytest.mark.parametrize("engine", ["native", "huggingface"])
def test_lone_surrogates_are_refused(engine: str) -> None:
    with pytest.raises(DataError, match="surrogate"):
        Tokenizer(CONTENT, engine=engine).encode("a\ud800b")


def test_a_text_too_long_for_the_encoder_is_refused_before_anything_is_encoded() -> None:
    tokenizer = Tokenizer(CONTENT)
    with pytest.raises(DataError, match="text 1 has 1073741825 bytes.*cut it into documents"):
        tokenizer.encode_batch(["fine", "a" * (2**30 + 1)])
    assert tokenizer.encode("fine").size
