"""The identity of a tokenizer: one for every spelling of one, another for whatever changes ids."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as HuggingFaceTokenizer

from megatron_ettin.cli import main
from megatron_ettin.corpus.reader import open_corpus
from megatron_ettin.errors import ConfigError, DataError
from megatron_ettin.tokenizer.identity import (
    TokenizerIdentity,
    compare_tokenizers,
    difference,
    fingerprint_of,
    read_identity,
)
from megatron_ettin.tokenizer.special_tokens import parse_special
from megatron_ettin.tokenizer.tokenizer import Tokenizer
from tests.support.tokenizers import write_kind, write_texts

KINDS = ("usual", "no_unknown", "roberta", "unigram", "wordpiece")
BERT = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
        "lowercase": True}  # fmt: skip
METASPACE = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}


def content_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "tokenizer.json").read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_every_spelling_of_a_tokenizer_has_one_fingerprint(kind: str, tmp_path: Path) -> None:
    content = content_of(write_kind(tmp_path, kind))
    expected = fingerprint_of(content)
    saved_again = HuggingFaceTokenizer.from_str(json.dumps(content)).to_str(pretty=True)
    assert fingerprint_of(json.loads(saved_again)) == expected
    spelt = copy.deepcopy(content)
    spelt |= {"post_processor": None, "decoder": None, "padding": None, "truncation": {"max_length": 7}}
    spelt["added_tokens"].reverse()
    spelt["normalizer"] = {"type": "Sequence", "normalizers": [part for part in [spelt["normalizer"]] if part]}
    spelt["pre_tokenizer"].pop("trim_offsets", None)
    if kind in ("usual", "no_unknown", "roberta"):
        spelt["model"]["merges"] = [" ".join(pair) for pair in spelt["model"]["merges"]]
        spelt["model"]["continuing_subword_prefix"] = ""
        for member in ("dropout", "fuse_unk", "byte_fallback", "ignore_merges"):
            spelt["model"].pop(member)
        spelt["model"]["vocab"] = dict(reversed(spelt["model"]["vocab"].items()))
    assert fingerprint_of(spelt) == expected


def test_defaults_are_those_of_the_library(tmp_path: Path) -> None:
    """What a file leaves out means what the library writes for it."""
    content = content_of(write_kind(tmp_path, "wordpiece"))
    parts = [
        ("pre_tokenizer", {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}),
        ("pre_tokenizer", {"type": "Metaspace", "replacement": "\u2581", "add_prefix_space": True}),
        ("pre_tokenizer", {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first"}),
        ("pre_tokenizer", {"type": "Digits", "individual_digits": True}),
        ("pre_tokenizer", {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, METASPACE]}),
        ("normalizer", BERT),
    ]
    for name, part in parts:
        given = content | {name: part}
        assert fingerprint_of(given) == fingerprint_of(json.loads(
            HuggingFaceTokenizer.from_str(json.dumps(given)).to_str())), part  # fmt: skip


def changed_merge(content: dict[str, Any]) -> None:
    content["model"]["merges"][0], content["model"]["merges"][1] = content["model"]["merges"][1::-1]


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "vocab": lambda content: content["model"]["vocab"].update(a=content["model"]["vocab"]["b"]),
    "merges": changed_merge,
    "normalizer": lambda content: content.update(normalizer=None),
    "pre_tokenizer": lambda content: content["pre_tokenizer"].update(add_prefix_space=True),
    "lstrip": lambda content: content["added_tokens"][4].update(lstrip=True),
    "special": lambda content: content["added_tokens"][4].update(special=False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_decides_ids_changes_the_fingerprint(change: str, tmp_path: Path) -> None:
    content = content_of(write_kind(tmp_path, "usual"))
    before = fingerprint_of(content)
    CHANGES[change](content)
    assert fingerprint_of(content) != before


def test_the_fingerprint_of_a_loaded_tokenizer_is_that_of_its_file(tmp_path: Path) -> None:
    for kind in KINDS[:3]:
        folder = write_kind(tmp_path / kind, kind)
        loaded = Tokenizer.from_file(folder).identity
        assert replace(loaded, sha256="") == read_identity(folder / "tokenizer.json")


def test_roles_come_from_the_configuration_or_a_flag(tmp_path: Path) -> None:
    folder = write_kind(tmp_path, "roberta")
    ids = content_of(folder)["model"]["vocab"]
    expected = {"[UNK]": ids["<unk>"], "[CLS]": ids["<s>"], "[SEP]": ids["</s>"], "[PAD]": ids["<pad>"]}
    assert Tokenizer.from_file(folder).special_ids == expected | {"[MASK]": ids["<mask>"]}
    assert Tokenizer.from_file(folder, special={"mask": "<pad>"}).special_ids["[MASK]"] == ids["<pad>"]
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": {"content": "</s>"}}))
    assert Tokenizer.from_file(folder).special_ids == {"[CLS]": ids["<s>"], "[SEP]": ids["</s>"]}
    with pytest.raises(ConfigError, match="mask=<gap>: .* has no such token"):
        Tokenizer.from_file(folder, special={"mask": "<gap>"})
    with pytest.raises(ConfigError, match="write ROLE=TOKEN"):
        parse_special(["gap=<mask>"])


def test_what_is_compared_and_what_is_said() -> None:
    ours = TokenizerIdentity(sha256="a", vocabulary=9, special_ids={"[MASK]": 4, "[CLS]": 1}, fingerprint="one")
    assert difference(ours, replace(ours, sha256="b", special_ids={"[PAD]": 3})) == ""
    assert difference(ours, replace(ours, fingerprint="two")) == "fingerprint two there, one here"
    assert difference(ours, replace(ours, special_ids={"[MASK]": 5})) == "[MASK] has id 5 there, 4 here"
    assert difference(ours, replace(ours, fingerprint="", sha256="b")) is None
    assert difference(ours, replace(ours, fingerprint="")) == ""
    with pytest.raises(DataError, match="there has another tokenizer .*; take the other"):
        compare_tokenizers(ours, replace(ours, vocabulary=8), "there", "take the other")
    assert "only the size of the vocabulary was compared" in compare_tokenizers(ours, None, "there", "")


def test_prepare_names_missing_roles_and_the_same_command_with_a_flag_adds_them(tmp_path: Path, capsys) -> None:  # noqa: ANN001
    folder = write_kind(tmp_path / "tokenizer", "roberta")
    (folder / "tokenizer_config.json").unlink()
    command = ["prepare", "--input", str(write_texts(tmp_path / "text.jsonl")), "--tokenizer-model", str(folder),
               "--output-prefix", str(tmp_path / "corpus")]  # fmt: skip
    assert main(command) == 0
    assert "no token for cls, sep, pad, mask" in capsys.readouterr().out
    check = ["check", "tiny", "mlm", "pretrain", "--data", str(tmp_path / "corpus"), "--run", str(tmp_path / "run")]
    before = (tmp_path / "corpus.bin").stat()
    assert main(check) == 2
    assert "--special cls=TOKEN" in capsys.readouterr().out
    roles = ["cls=<s>", "sep=</s>", "pad=<pad>", "mask=<mask>"]
    assert main([*command, "--special", *roles]) == 0
    assert "no token for" not in capsys.readouterr().out
    after = (tmp_path / "corpus.bin").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns), "the ids are built once"
    assert open_corpus(tmp_path / "corpus").tokenizer.special_ids["[MASK]"] == 4
    assert main(check) == 0
