"""A tokenizer.json is reproduced exactly or refused with the reason; hostile files do not crash."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_ettin.errors import DataError
from megatron_ettin.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.samples import KINDS, LLAMA

CONTENT = KINDS["ettin"]().to_str()
Change = Callable[[dict[str, Any]], object]


def split(pattern: str, behavior: str = "Isolated") -> dict[str, Any]:
    """Splitting by an expression, then bytes."""
    parts = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ]
    return {"type": "Sequence", "pretokenizers": parts}


REFUSED: dict[str, tuple[Change, str]] = {
    "another normalizer": (lambda j: j.update(normalizer={"type": "Lowercase"}), "Lowercase"),
    "several normalizers": (
        lambda j: j.update(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "StripAccents"}]}),
        "StripAccents",
    ),
    "no pre-tokenizer": (lambda j: j.update(pre_tokenizer=None), "no pre-tokenizer"),
    "another pre-tokenizer": (lambda j: j.update(pre_tokenizer={"type": "Whitespace"}), "Whitespace"),
    "a pattern outside of the subset": (lambda j: j.update(pre_tokenizer=split(r"a|\w+")), r"a|\w+ is not reproduced"),
    "too many splits": (
        lambda j: j.update(pre_tokenizer={"type": "Sequence", "pretokenizers": [split("a")["pretokenizers"][0]] * 9}),
        "that many",
    ),
    "splits without ByteLevel": (
        lambda j: j.update(pre_tokenizer={"type": "Sequence", "pretokenizers": split("a")["pretokenizers"][:1]}),
        "in the place of ByteLevel",
    ),
    "a removed split": (lambda j: j.update(pre_tokenizer=split(LLAMA, "Removed")), "Isolated"),
    "another model": (lambda j: j["model"].update(type="WordPiece"), "WordPiece"),
    "dropout": (lambda j: j["model"].update(dropout=0.1), "dropout"),
    "a subword prefix": (lambda j: j["model"].update(continuing_subword_prefix="##"), "continuing_subword_prefix"),
    "a word suffix": (lambda j: j["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix"),
    "an unknown member": (lambda j: j["model"].update(surprise=1), "surprise"),
    "a missing byte": (lambda j: j["model"]["vocab"].pop("!"), "byte 33"),
    "a merge of unknown tokens": (lambda j: j["model"]["merges"].append(["qqq", "zzz"]), "qqq"),
    "a merge that makes nothing known": (lambda j: j["model"]["merges"].append(["!", "~"]), "!~"),
    "an id used twice": (lambda j: j["model"]["vocab"].update({"qqqq": 5}), "twice"),
    "a negative id": (lambda j: j["model"]["vocab"].update({"qqqq": -5}), "qqqq"),
    "an added id that the library would not give": (lambda j: j["added_tokens"][-1].update(id=9999), "9999"),
    "an added token twice": (lambda j: j["added_tokens"].append(j["added_tokens"][0]), "twice"),
    "an empty added token": (lambda j: j["added_tokens"][0].update(content=""), "no content"),
    "spaces that strip spaces": (lambda j: j["added_tokens"][0].update(lstrip=True), "strips"),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_reproduced_is_refused_with_the_reason(name: str) -> None:
    change, reason = REFUSED[name]
    parsed = json.loads(CONTENT)
    change(parsed)
    with pytest.raises(DataError, match="cannot be reproduced exactly") as error:
        Tokenizer(json.dumps(parsed))
    assert reason in str(error.value)


def test_the_other_engine_takes_what_is_refused() -> None:
    parsed = json.loads(CONTENT)
    parsed["normalizer"] = {"type": "Lowercase"}
    tokenizer = Tokenizer(json.dumps(parsed), engine="huggingface")
    lower = Tokenizer(json.dumps(parsed | {"normalizer": None}), engine="huggingface")
    assert tokenizer.encode("The FOX").tolist() == lower.encode("the fox").tolist()
    assert tokenizer.encode_batch([])[1].tolist() == [0]


def test_a_folder_a_file_and_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(CONTENT, encoding="utf-8")
    from_folder, from_file = Tokenizer.from_file(tmp_path), Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert from_folder.fingerprint == from_file.fingerprint
    assert from_folder.vocabulary_size == from_folder.special_ids["[MASK]"] + 13
    with pytest.raises(DataError, match="nothing.json"):
        Tokenizer.from_file(tmp_path / "nothing.json")


def test_the_fingerprint_ignores_layout_and_sees_content() -> None:
    parsed = json.loads(CONTENT)
    assert Tokenizer(json.dumps(parsed, indent=7, ensure_ascii=False)).fingerprint == Tokenizer(CONTENT).fingerprint
    parsed["model"]["merges"].pop()
    assert Tokenizer(json.dumps(parsed, ensure_ascii=False)).fingerprint != Tokenizer(CONTENT).fingerprint


def test_damaged_files_raise_and_never_crash() -> None:
    source = random.Random(3)
    content = CONTENT[: CONTENT.index('"model"') + 3000] + CONTENT[-2000:]
    for _ in range(400):
        characters = list(content)
        for _ in range(source.randrange(1, 4)):
            characters[source.randrange(len(characters))] = source.choice('{}[],:"\\0e-\x00\u00e9')
        with pytest.raises(DataError):
            Tokenizer("".join(characters)[: source.randrange(1, len(characters))])
    for text in ("", "{}", "[]", "null", "[" * 100_000, '{"model":' * 5000, '"\\ud800"', "1e999"):
        with pytest.raises(DataError):
            Tokenizer(text)


def test_merges_as_strings_and_as_pairs_are_the_same() -> None:
    parsed = json.loads(CONTENT)
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in parsed["model"]["merges"]]
    as_strings, as_pairs = json.loads(CONTENT), json.loads(CONTENT)
    as_strings["model"]["merges"] = [" ".join(pair) for pair in pairs]
    as_pairs["model"]["merges"] = pairs
    text = "The quick brown fox isn't quick."
    assert (
        Tokenizer(json.dumps(as_strings)).encode(text).tolist() == Tokenizer(json.dumps(as_pairs)).encode(text).tolist()
    )
