"""Pairs of one tokenizer in both implementations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Reference

from megatron_ettin.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.samples import KINDS


@dataclass
class Pair:
    """The library's tokenizer and ours, from the same tokenizer.json."""

    reference: Reference
    ours: Tokenizer

    @classmethod
    def of(cls, content: str) -> Pair:
        reference = Reference.from_str(content)
        reference.no_padding()
        reference.no_truncation()
        return cls(reference, Tokenizer(content))

    def assert_equal(self, texts: list[str]) -> None:
        """Both give the same ids for every text."""
        ids, offsets = self.ours.encode_batch(texts)
        for at, expected in enumerate(self.reference.encode_batch_fast(texts, add_special_tokens=False)):
            assert ids[offsets[at] : offsets[at + 1]].tolist() == expected.ids, repr(texts[at])


_pairs: dict[str, Pair] = {}


@pytest.fixture(params=sorted(KINDS))
def pair(request: pytest.FixtureRequest) -> Pair:
    """A small trained tokenizer of each kind."""
    name = request.param
    if name not in _pairs:
        _pairs[name] = Pair.of(KINDS[name]().to_str())
    return _pairs[name]


@pytest.fixture(params=["ettin_encoder_tokenizer.json", "ettin_decoder_tokenizer.json"], scope="session")
def real_pair(request: pytest.FixtureRequest, shared: Path) -> Pair:
    """The real tokenizers."""
    return Pair.of((shared / "tokenizers" / request.param).read_text(encoding="utf-8"))
