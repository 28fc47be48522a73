"""Split expressions are what the library's engine makes of them, or refused with the place."""

from __future__ import annotations

import json
import random
import time
from functools import cache
from itertools import islice
from typing import Any

import megatron_ettin._native as native
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from megatron_ettin.errors import DataError
from megatron_ettin.tokenizer.tokenizer import Tokenizer as Ours
from tests.tokenizer.differential import random_texts
from tests.tokenizer.samples import DEEPSEEK, LLAMA, O200K, QWEN, SENTENCES, TEXTS

SETS = dict(native.InstructionSet.__members__)
del SETS["sse42"], SETS["avx512"]  # without an encoder of their own
EXPRESSIONS = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))


@cache
def bytes_alone() -> dict[str, Any]:
    """A tokenizer without merges."""
    vocabulary = {token: at for at, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    parsed: dict[str, Any] = json.loads(Tokenizer(models.BPE(vocab=vocabulary, merges=[])).to_str())
    return parsed


def tokenizer_of(*patterns: str, behavior: str = "Isolated", invert: bool = False) -> Ours:
    """Ours, with splits by these expressions, which the library need not know."""
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert} for pattern in patterns
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    sequence = {"type": "Sequence", "pretokenizers": [*splits, byte_level]}
    return Ours(json.dumps(bytes_alone() | {"pre_tokenizer": sequence}))


def starts_of(encoder: Any, text: str) -> list[int]:  # noqa: ANN401 - the extension has no types
    """Where the words start, in bytes."""
    starts: list[int] = encoder.word_starts(text).tolist()
    return starts


def expected_starts(patterns: tuple[str, ...], text: str) -> list[int]:
    """The same by the library."""
    splits = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns])
    starts = [start for _, (start, _) in splits.pre_tokenize_str(text)]
    offsets = [0]
    for character in text:
        offsets.append(offsets[-1] + len(character.encode()))
    return [offsets[start] for start in starts]


def assert_splits(patterns: tuple[str, ...], texts: list[str]) -> None:
    """All instruction sets split as the library does."""
    ours = tokenizer_of(*patterns)
    for name, instructions in SETS.items():
        encoder = native.Encoder(ours.native, native.SpecialPolicy.special, instructions)
        for text in texts:
            assert starts_of(encoder, text) == expected_starts(patterns, text), f"{name}: {text!r}"


KNOWN = {"llama": (LLAMA,), "qwen": (QWEN,), "o200k": (O200K,), "deepseek": tuple(DEEPSEEK)}


@pytest.mark.parametrize("name", KNOWN)
def test_words_of_known_expressions_are_the_librarys(name: str) -> None:
    assert_splits(KNOWN[name], [*SENTENCES, *islice(random_texts(seed=2), 300)])


SETS_OF_CHARACTERS = st.sampled_from(
    [
        "a", "b", " ", "é", "語", r"\n", r"\p{L}", r"\p{N}", r"\p{Lu}", r"\p{Ll}", r"\p{M}", r"\p{P}", r"\S", r"\s",
        r"\d", r"\P{L}", r"\D", "[ab]", "[^a]", r"[^\s\p{L}\p{N}]", r"[\p{Lu}\p{Lt}\p{M}]", "[a-z]", "[0-9a]",
        r"[^\r\n\p{L}]", "[b'’]", r"[一-龥]", r"[-a]", r"[a\-]", r"\.", r"[\s\d]", r"[^\S\n]", r"\t", r"[\]\[]", "'",
    ]
)  # fmt: skip
QUANTIFIERS = st.sampled_from(["", "", "", "?", "*", "+", "{1,3}", "{2}", "{2,}"])
LOOKS = st.sampled_from([r"(?!\S)", r"(?=\s)", "(?!a)", r"(?=[^\p{L}])", r"(?!\p{N})"])
FOLDED = st.sampled_from(["(?i:'s|'t|'re|'ve|'m|'ll|'d)", "(?i:ka|s)", "'(?i:[sdmt]|ll|ve|re)", "(?i:[a-c]s)"])
ITEMS = st.builds("{}{}".format, SETS_OF_CHARACTERS, QUANTIFIERS)
PARTS = st.one_of(ITEMS, ITEMS, ITEMS, LOOKS, st.builds("{}{}".format, FOLDED, st.sampled_from(["", "?"])))
CHOICES = st.lists(st.lists(PARTS, min_size=1, max_size=4).map("".join), min_size=1, max_size=4).map("|".join)
GROUPS = st.builds("{}(?:{}){}".format, ITEMS, CHOICES, QUANTIFIERS)
PATTERNS = st.one_of(CHOICES, CHOICES, st.builds("{}|{}".format, GROUPS, CHOICES))
RUNS = st.sampled_from([r"\p{N}{1,3}", r"\d", r"[一-龥]+", r"\p{P}+", "a+", r"\s{1,2}", r"\p{Lu}+"])
SHORT_TEXTS = st.text(st.sampled_from("aab sS'kKt\n 1²٣Éé語・.\u0301\u3000\u017f\u212a-]ǅ"), max_size=24)


@EXPRESSIONS
@given(pattern=PATTERNS, runs=st.lists(RUNS, max_size=2), texts=st.lists(SHORT_TEXTS | TEXTS, min_size=3, max_size=6))
def test_any_expression_of_the_subset_splits_as_the_library_does(
    pattern: str, runs: list[str], texts: list[str]
) -> None:
    try:
        ours = tokenizer_of(*runs, pattern)
    except DataError:
        assume(False)
    encoder = native.Encoder(ours.native, native.SpecialPolicy.special)
    for text in texts:
        assert starts_of(encoder, text) == expected_starts((*runs, pattern), text), text


def test_most_expressions_of_the_subset_are_accepted() -> None:
    accepted = 0
    for pattern in (LLAMA, r"a|b+", r"(?:ab)+c|.", r"\p{L}+(?!\S)|\d{2}", r"[^\s]+|\s+", r"(a|b)c?", r"x(?=y)|y"):
        try:
            tokenizer_of(pattern)
            accepted += 1
        except DataError:
            pass
    assert accepted == 6  # all but the one with a dot


REFUSED = {
    r"\w+": "an escape that is not reproduced at character 1",
    r"a|b.c": "a character with a meaning that is not reproduced in this place at character 4",
    r"\p{L}++": "a second quantifier: lazy and possessive ones are not reproduced at character 7",
    r"\s+?a": "a second quantifier: lazy and possessive ones are not reproduced at character 4",
    r"\s+$": "a character with a meaning that is not reproduced in this place at character 4",
    r"(?<=a)b": "a group of an unknown kind at character 2",
    r"(?i)abc": "a group of an unknown kind at character 2",
    r"\p{Han}+": "a property that is no general category of one or two letters at character 1",
    r"[\p{L}&&[^a]]": "an intersection of classes at character 7",
    r"[a[bc]]": "a character with a meaning that is not reproduced in this place at character 3",
    r"(a": "'(' without ')' at character 3",
    r"a)": "')' without '(' at character 2",
    r"[a": "the end of the expression in an unclear place at character 3",
    r"a*": "it may match nothing at character 3",
    r"(?:a?)+b": "a quantifier behind what may match nothing at character 8",
    r"a{1,99}": "a quantifier above 64 at character 6",
    r"(?i:maße)": "more than ASCII characters inside (?i:) at character 8",
    r"(?i:miss)": "letters inside (?i:) for which Unicode has a ligature at character 9",
    r"(?!ab)c": "a look ahead at more than one character at character 5",
    "(" * 40 + "a" + ")" * 40: "groups nested too deeply at character 18",
    "(?:" * 6 + "a" + "{1,64})" * 6: "it takes more than 2,000 steps",
    "a" * 5000: "it has more than 4,096 characters",
    "(?:a|b)*a" + "[ab]" * 12: "it takes more than 600 states",
    "|".join(rf"[{chr(97 + at)}-z]" for at in range(26)) + "|" + "|".join(chr(0x4E00 + 2 * at) for at in range(60)): (
        "too many different classes"
    ),
}


@pytest.mark.parametrize("pattern", REFUSED)
def test_what_is_outside_the_subset_is_refused_with_the_place(pattern: str) -> None:
    with pytest.raises(DataError, match="cannot be reproduced exactly") as error:
        tokenizer_of(pattern)
    assert REFUSED[pattern] in str(error.value)
    assert pattern[:50] in str(error.value)


def test_splits_that_depend_on_each_other_otherwise_are_refused() -> None:
    with pytest.raises(DataError, match="only runs of one class"):
        tokenizer_of("ab|c", LLAMA)
    with pytest.raises(DataError, match="share characters"):
        tokenizer_of(r"\p{L}+", "[ab]{1,2}", LLAMA)
    with pytest.raises(DataError, match="groups whose groups the next Split cuts again"):
        tokenizer_of(r"\p{N}{1,3}", LLAMA)


def test_removed_text_is_refused_where_an_expression_leaves_some() -> None:
    assert starts_of(
        native.Encoder(tokenizer_of(O200K, behavior="Removed", invert=True).native), "a b"
    ) == expected_starts((O200K,), "a b")
    with pytest.raises(DataError, match="it would lose what it does not match"):
        tokenizer_of(r"\p{L}+|\s+", behavior="Removed", invert=True)
    with pytest.raises(DataError, match="Removed and invert"):
        tokenizer_of(O200K, behavior="Removed")


def test_hostile_expressions_take_linear_time() -> None:
    """Searches that come to nothing behind every character do not read the rest of the text again each time."""
    for pattern in ("a|a*b", "a*b|c", r"\s*[\r\n]+|\s+(?!\S)|\s+|a(?:aa)*b"):
        encoder = native.Encoder(tokenizer_of(pattern).native)
        for text in ("a" * 400_000, " " * 400_000, "\n" + " " * 400_000 + "x"):
            began = time.process_time()
            starts = starts_of(encoder, text)
            assert starts[0] == 0 and time.process_time() - began < 5.0  # quadratic time would be minutes


def test_damaged_expressions_never_crash() -> None:
    source = random.Random(4)
    known = [LLAMA, O200K, *DEEPSEEK]
    for _ in range(300):
        characters = list(source.choice(known))
        for _ in range(source.randrange(1, 5)):
            at = source.randrange(len(characters))
            characters[at : at + source.randrange(3)] = source.choice(["", *"()[]{+|\\?é"])
        try:
            encoder = native.Encoder(tokenizer_of("".join(characters)).native)
        except DataError:
            continue
        assert starts_of(encoder, SENTENCES[0])[0] == 0
