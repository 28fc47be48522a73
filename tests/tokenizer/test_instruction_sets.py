"""Every instruction set gives the same ids, and threads do not disturb each other."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import megatron_ettin._native as native
import pytest

from tests.tokenizer.conftest import Pair
from tests.tokenizer.differential import random_texts
from tests.tokenizer.samples import KINDS, SENTENCES

SETS = dict(native.InstructionSet.__members__)
del SETS["sse42"], SETS["avx512"]  # without an encoder of their own
HASH_IDS = """
import hashlib, sys
from itertools import islice
from megatron_ettin.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.differential import random_texts
texts = list(islice(random_texts(11), 300))
ids, offsets = Tokenizer(open(sys.argv[1], encoding="utf-8").read()).encode_batch(texts)
print(hashlib.sha256(ids.tobytes() + offsets.tobytes()).hexdigest())
"""


@pytest.mark.parametrize("instructions", SETS)
def test_encoders_of_all_instruction_sets_agree_with_the_library(pair: Pair, instructions: str) -> None:
    texts = [*SENTENCES, *islice(random_texts(seed=7), 300)]
    tokenizer = native.Tokenizer(pair.ours.content)
    encoder = native.Encoder(tokenizer, native.SpecialPolicy.special, SETS[instructions])
    ids, offsets, _, _ = encoder.encode_batch(texts)
    for at, expected in enumerate(pair.reference.encode_batch_fast(texts, add_special_tokens=False)):
        assert ids[offsets[at] : offsets[at + 1]].tolist() == expected.ids


LETTERS = {"ascii": "abcdefthequickbrownfox", "cyrillic": "Приветмирслово", "han": "中国日本語文字", "mixed": "aé語b👩"}


@pytest.mark.parametrize("instructions", SETS)
def test_words_of_every_length_agree_with_the_library(pair: Pair, instructions: str) -> None:
    """Short, long, longer than the caches take; alone, among others, and twice in a batch."""
    source = random.Random(3)
    texts = []
    for letters in LETTERS.values():
        sizes = [*range(1, 110), *range(110, 270, 7), *range(505, 520), 600]
        words = ["".join(source.choices(letters, k=size)) for size in sizes]
        texts += [*words, " ".join(words + words), " ".join(" " * size + words[size] for size in range(80))]
    texts.append(" " * 49 + " ".join("".join(source.choices(LETTERS["han"], k=3000)) for _ in range(3)))
    encoder = native.Encoder(
        native.Tokenizer(pair.ours.content), native.SpecialPolicy.special, SETS[instructions]
    )
    for _ in range(2):
        ids, offsets, _, _ = encoder.encode_batch(texts)
        for at, expected in enumerate(pair.reference.encode_batch_fast(texts, add_special_tokens=False)):
            assert ids[offsets[at] : offsets[at + 1]].tolist() == expected.ids, repr(texts[at])


@pytest.mark.parametrize("instructions", SETS)
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_vocabularies_above_16_bits_agree_with_the_library(kind: str, instructions: str) -> None:
    source = json.loads(KINDS[kind]().to_str())
    source["added_tokens"] = []  # their ids would have to follow the vocabulary
    vocabulary = source["model"]["vocab"]
    vocabulary |= {f"qq{number}": number for number in range(len(vocabulary), 70_000)}
    pair = Pair.of(json.dumps(source))
    assert pair.ours.vocabulary_size == 70_000
    encoder = native.Encoder(pair.ours.native, native.SpecialPolicy.special, SETS[instructions])
    texts = [*SENTENCES, *islice(random_texts(seed=5), 200), *LETTERS.values()]
    ids, offsets, _, _ = encoder.encode_batch(texts)
    for at, expected in enumerate(pair.reference.encode_batch_fast(texts, add_special_tokens=False)):
        assert ids[offsets[at] : offsets[at + 1]].tolist() == expected.ids, repr(texts[at])


@pytest.mark.parametrize("instructions", SETS)
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_tokens_that_end_in_the_padding_of_keys_are_not_mistaken(kind: str, instructions: str) -> None:
    """The caches fill words up with 0xFF, which no text holds, but tokens may; text may hold NUL."""
    source = json.loads(KINDS[kind]().to_str())
    source["added_tokens"] = []
    vocabulary, merges = source["model"]["vocab"], source["model"]["merges"]
    for left in ("a", "b", "aÿ"):
        vocabulary[f"{left}ÿ"] = len(vocabulary)
        merges.append([left, "ÿ"])
    pair = Pair.of(json.dumps(source))
    encoder = native.Encoder(pair.ours.native, native.SpecialPolicy.special, SETS[instructions])
    texts = ["a b aa ab ÿ", "a", "b", *("\0" * size for size in range(1, 18)), "a\0 a\0\0 \0a"]
    ids, offsets, _, _ = encoder.encode_batch(texts)
    for at, expected in enumerate(pair.reference.encode_batch_fast(texts, add_special_tokens=False)):
        assert ids[offsets[at] : offsets[at + 1]].tolist() == expected.ids, repr(texts[at])


def test_the_environment_chooses_the_instruction_set(tmp_path: Path, root: Path) -> None:
    file = tmp_path / "tokenizer.json"
    KINDS["ettin"]().save(str(file))
    hashes = set()
    for name in ("portable", "avx2", "avx512"):
        environment = os.environ | {"ETTIN_CPU_PATH": name, "PYTHONPATH": str(root)}
        command = [sys.executable, "-c", HASH_IDS, str(file)]
        hashes.add(subprocess.run(command, env=environment, cwd=root, check=True, capture_output=True).stdout)
    assert len(hashes) == 1


def test_threads_share_a_tokenizer(pair: Pair) -> None:
    tokenizer = native.Tokenizer(pair.ours.content)
    texts = list(islice(random_texts(seed=13), 400))

    def digest(_: int) -> str:
        encoder = native.Encoder(tokenizer, native.SpecialPolicy.special)
        return hashlib.sha256(b"".join(encoder.encode_batch(texts)[0].tobytes() for _ in range(3))).hexdigest()

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(digest, range(8)))) == 1


def test_evicted_words_come_back_right() -> None:
    """More different words than the caches hold, twice."""
    pair = Pair.of(KINDS["gpt2"]().to_str())
    words = [f"{number:x}zq{number * 7919:x}" for number in range(60_000)]
    texts = [" ".join(words[at : at + 2000]) for at in range(0, len(words), 2000)]
    long_words = ["".join(chr(97 + (number >> shift & 15)) for shift in range(0, 20, 1)) for number in range(40_000)]
    texts += [" ".join(long_words[at : at + 2000]) for at in range(0, len(long_words), 2000)]
    first = pair.ours.encode_batch(texts)[0]
    assert first.tolist() == pair.ours.encode_batch(texts)[0].tolist()
    pair.assert_equal(texts[::10])
