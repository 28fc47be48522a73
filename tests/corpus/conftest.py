"""A small tokenizer and odd texts for the tests of the corpus builder."""

import json
import random

import pytest

from megatron_ettin.tokenizer.train import train_tokenizer

WORDS = "the sea was dark and cold; she went, 12 ships in 1861. Fluß führt Wasser 日本語 текст עברית 🙂".split()  # noqa: SIM905
ODD_TEXTS = [
    "",
    " ",
    "\n\n",
    "\0",
    "a" * 5000,
    "é e\u0301 \ufb01",
    "\U0001f9d1\u200d\U0001f680",
    "<|endoftext|>",
    "\ufffd",
]


def make_texts(count, seed=0):
    """Texts of several scripts, with the odd ones between them."""
    source = random.Random(seed)
    texts = [" ".join(source.choices(WORDS, k=source.randrange(1, 120))) for _ in range(count)]
    for place, text in enumerate(ODD_TEXTS):
        texts.insert(place * count // len(ODD_TEXTS), text)
    return texts


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    """Path of a tokenizer.json with the special tokens of Ettin."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer(iter(make_texts(300, seed=1)), 700).save(str(path))
    return path


@pytest.fixture(scope="session")
def texts():
    """Some documents."""
    return make_texts(400)


@pytest.fixture(scope="session")
def jsonl(tmp_path_factory, texts):
    """A file with one record a text, escaped in every way."""
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    lines = [
        json.dumps({"id": number, "text": text, "meta": {"n": [1, None, -2.5e3, 'x"y']}}, ensure_ascii=number % 2 == 0)
        for number, text in enumerate(texts)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
