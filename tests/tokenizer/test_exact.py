"""Ids are those of Hugging Face `tokenizers`, for every text."""

from __future__ import annotations

import gzip
import json
import sysconfig
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megatron_ettin.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.conftest import Pair
from tests.tokenizer.differential import random_texts
from tests.tokenizer.samples import ATOMS, SENTENCES, TEXTS

EXAMPLES = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
CODE_POINTS = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
SURROUNDINGS = ["{0}", "a{0}b", "1{0}1", " {0} ", "!{0}'{0}s", "e\u0301{0}\u0323\u0301", "\u1100{0}\u11a8", "\n {0}\t"]
DENSE_END = 0x32000  # assigned characters lie below, but for tags and selectors at 0xE0000 and private use


def code_point_texts(codes: list[int], together: int = 8) -> list[str]:
    """Each code point in every surrounding; several in one text, apart from each other."""
    texts = []
    for at in range(0, len(codes), together):
        characters = [chr(code) for code in codes[at : at + together]]
        texts += ["\n.".join(form.format(character) for character in characters) for form in SURROUNDINGS]
    return texts


@EXAMPLES
@given(texts=st.lists(TEXTS, min_size=1, max_size=8))
def test_any_text(pair: Pair, texts: list[str]) -> None:
    pair.assert_equal(texts)


def test_every_two_odd_things_beside_each_other(pair: Pair) -> None:
    short = [atom for atom in ATOMS if len(atom) <= 80]
    pair.assert_equal([first + second + first for first in short for second in short])


def test_code_points_in_surroundings(pair: Pair) -> None:
    codes = [code for code in CODE_POINTS if code < 0x3400 or (code < DENSE_END and code % 64 < 2) or code % 4096 == 7]
    pair.assert_equal(code_point_texts(codes))


@pytest.mark.slow
def test_every_code_point_in_surroundings(pair: Pair) -> None:
    for at in range(0, len(CODE_POINTS), 65536):
        pair.assert_equal(code_point_texts(CODE_POINTS[at : at + 65536]))


def test_every_code_point_alone(real_pair: Pair) -> None:
    real_pair.assert_equal(["\n".join(map(chr, CODE_POINTS[at : at + 512])) for at in range(0, len(CODE_POINTS), 512)])


def test_sentences_and_their_normal_forms(pair: Pair) -> None:
    import unicodedata

    texts = [unicodedata.normalize(form, text) for form in ("NFC", "NFD", "NFKC", "NFKD") for text in SENTENCES]
    pair.assert_equal([*texts, "".join(texts), *(text[at:] for text in texts for at in range(1, 20))])


def test_random_text(pair: Pair) -> None:
    pair.assert_equal(list(islice(random_texts(seed=5), 600)))


def test_megabytes_of_one_character(pair: Pair) -> None:
    for character in "a 1!\n\u0301é語\t":
        pair.assert_equal([character * 150_000])


def test_place_in_a_block_does_not_matter(pair: Pair) -> None:
    odd = "x  \u00a0'll\u3000 don't   \n  é\u0301 语'S 12345\r\n\n  end"
    pair.assert_equal(["y" * before + odd + " z" * (before % 7) for before in range(140)])


def test_real_text(real_pair: Pair, shared: Path) -> None:
    for name, count in (("english_novels", 150), ("multilingual", 400)):
        with gzip.open(shared / "text" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            real_pair.assert_equal([json.loads(line)["text"] for line in islice(lines, None, None, 12) if line][:count])


def test_source_code(pair: Pair) -> None:
    paths = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[::12]
    pair.assert_equal([path.read_text(encoding="utf-8", errors="ignore") for path in paths])


def test_empty_texts(pair: Pair) -> None:
    pair.assert_equal(["", "", "a", ""])
    assert pair.ours.encode_batch([])[1].tolist() == [0]


def test_a_second_pass_gives_the_same_ids(pair: Pair) -> None:
    texts = [*SENTENCES, *ATOMS] * 3
    first = pair.ours.encode_batch(texts)[0]
    again = pair.ours.encode_batch(texts)[0]
    fresh = Tokenizer(pair.ours.content).encode_batch(texts)[0]
    assert first.tolist() == again.tolist() == fresh.tolist()
