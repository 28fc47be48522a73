"""Which tokenizer it is: the fingerprint of what decides ids, and the roles of its special tokens.

Two files that give every text the same ids by the same model have one fingerprint, however they spell it. Template,
padding, truncation and decoder have no say: a pair's two exports differ in them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

from megatron_ettin.errors import DataError
from megatron_ettin.regular_files import read_regular
from megatron_ettin.tokenizer.special_tokens import find_roles, read_roles
from megatron_ettin.typed_json import Count, FieldError, decode, parse_json

DEFAULTS: dict[str, dict[str, Any]] = {
    "BPE": {
        "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
        "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
    },
    "Unigram": {"unk_id": None, "byte_fallback": False},
    "WordPiece": {"unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100},
    "WordLevel": {"unk_token": "<unk>"},
    "ByteLevel": {"add_prefix_space": True, "use_regex": True},
    "Metaspace": {"replacement": "\u2581", "prepend_scheme": "always", "split": True},
    "Split": {"invert": False},
    "Digits": {"individual_digits": False},
    "BertNormalizer": {
        "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True,
    },
}  # fmt: skip
"""Type of a part -> its members and what `tokenizers` takes where a file leaves one out."""
WITH_ITS_TOKENIZER = "prepare the text with the tokenizer.json that these weights were trained with"
"""The remedy where weights and data meet."""
WITHOUT_EFFECT = {"ByteLevel": ("trim_offsets",), "Metaspace": ("add_prefix_space", "str_rep")}
"""Members that do not change ids, or that another member has replaced."""


@dataclass(frozen=True, kw_only=True)
class TokenizerIdentity:
    """The tokenizer that made the ids: part of corpora, runs, checkpoints and exports."""

    sha256: str
    """Of the tokenizer.json without white space between its parts, as ``Tokenizer.fingerprint``; "" if not known."""
    vocabulary: Count
    """Number of ids, added tokens included."""
    special_ids: dict[str, Count] = field(default_factory=dict)
    """Role of each special token, called by Ettin's token for it ([CLS] also where that is <s>), and its id."""
    fingerprint: str = ""
    """Of what decides the ids of a text; "" in what earlier versions wrote."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @staticmethod
    def from_record(value: object) -> TokenizerIdentity | None:
        """What ``to_dict`` wrote; None where there is nothing of that kind."""
        try:
            return decode(TokenizerIdentity, value)
        except FieldError:
            return None


def fingerprint_of(content: Mapping[str, Any]) -> str:
    """sha256 over the model, normalizer, pre-tokenizer and added tokens of a tokenizer.json, in one spelling."""
    added = sorted(content.get("added_tokens") or [], key=lambda token: int(token["id"]))
    parts = {
        "model": _model(content["model"]),
        "normalizer": _part(content.get("normalizer"), "normalizers"),
        "pre_tokenizer": _part(content.get("pre_tokenizer"), "pretokenizers"),
        "added_tokens": added,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _model(model: Mapping[str, Any]) -> dict[str, Any]:
    kind = model.get("type") or ("BPE" if "merges" in model else "Unigram" if "unk_id" in model else "WordPiece")
    made = {**DEFAULTS.get(kind, {}), **model, "type": kind}
    if kind == "BPE":
        for name in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
            made[name] = made[name] or None  # an empty one does nothing
        merges = made.get("merges") or []
        if merges and isinstance(merges[0], list):  # pairs of tokens that hold no space are written as strings too
            merges = [pair if " " in pair[0] or " " in pair[1] else f"{pair[0]} {pair[1]}" for pair in merges]
        elif merges and merges[0].startswith("#version:"):
            merges = merges[1:]
        made["merges"] = merges
    if kind == "Unigram":
        made["vocab"] = [[token, f"{score:.12g}"] for token, score in made["vocab"]]  # the library loses the last bit
    else:
        vocabulary = sorted(made["vocab"].items(), key=itemgetter(1))  # lists sort faster than members
        made["vocab"] = [[token for token, _ in vocabulary], [number for _, number in vocabulary]]
    return made


def _part(part: Mapping[str, Any] | None, members: str) -> Any:  # noqa: ANN401 - JSON
    """A normalizer or pre-tokenizer, defaults filled in; a sequence of one is that one, a sequence of none is None."""
    if part is None:
        return None
    kind = str(part.get("type"))
    if kind == "Sequence":
        flat: list[Any] = []
        for one in (_part(member, members) for member in part.get(members) or []):
            flat += one["parts"] if one and one["type"] == "Sequence" else [one] if one else []
        return None if not flat else flat[0] if len(flat) == 1 else {"type": "Sequence", "parts": flat}
    made = {**DEFAULTS.get(kind, {}), **part}
    return {name: value for name, value in made.items() if name not in WITHOUT_EFFECT.get(kind, ())}


def vocabulary_of(content: Mapping[str, Any]) -> dict[str, int]:
    """Every token of a tokenizer.json with its id, added tokens included; a Unigram vocabulary is a list of pieces."""
    vocabulary = content["model"]["vocab"]
    ids = dict(vocabulary) if isinstance(vocabulary, dict) else {piece: i for i, (piece, _) in enumerate(vocabulary)}
    return ids | {token["content"]: token["id"] for token in content.get("added_tokens") or []}


def read_tokenizer(path: Path) -> dict[str, Any]:
    """The content of a tokenizer.json; raises DataError when it is none."""
    try:
        content = parse_json(read_regular(Path(path)))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a tokenizer.json: {error}") from error
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), (dict, list)):
        raise DataError(f"{path} is no tokenizer.json: it has no model with a vocabulary")
    return dict(content)


def identity_of(content: Mapping[str, Any], config: Mapping[str, Any], where: str) -> TokenizerIdentity:
    """The identity of the content of a tokenizer.json and of the tokenizer_config.json beside it. Raises DataError."""
    try:
        ids = vocabulary_of(content)
        special_ids = find_roles(lambda token: ids.get(token, -1), config, {}, where)
        size = max(ids.values(), default=-1) + 1
        return TokenizerIdentity(
            sha256="", vocabulary=size, special_ids=special_ids, fingerprint=fingerprint_of(content)
        )
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"{where} is no tokenizer.json: {error!r}; give that of a tokenizer") from error


def read_identity(file: Path) -> TokenizerIdentity:
    """The identity of a tokenizer.json and of the tokenizer_config.json beside it. Raises DataError."""
    return identity_of(read_tokenizer(file), read_roles(file), str(file))


def difference(ours: TokenizerIdentity, theirs: TokenizerIdentity) -> str | None:
    """What makes two tokenizers two, in words; "" where they are one, None where only their sizes could be compared.

    A role that only one of them has is not compared.
    """
    if ours.vocabulary != theirs.vocabulary:
        return f"{theirs.vocabulary:,} ids there, {ours.vocabulary:,} here"
    for name in ours.special_ids.keys() & theirs.special_ids.keys():
        if ours.special_ids[name] != theirs.special_ids[name]:
            return f"{name} has id {theirs.special_ids[name]} there, {ours.special_ids[name]} here"
    if ours.fingerprint and theirs.fingerprint:
        if ours.fingerprint == theirs.fingerprint:
            return ""
        return f"fingerprint {theirs.fingerprint[:12]} there, {ours.fingerprint[:12]} here"
    return "" if ours.sha256 and ours.sha256 == theirs.sha256 else None


def compare_tokenizers(
    ours: TokenizerIdentity, theirs: TokenizerIdentity | None, where: str, remedy: str
) -> str:
    """Refuse another tokenizer than ours, that of the data; a line to say where only sizes were compared, else "".

    ``theirs`` is None where none is on record at ``where``. Raises DataError.
    """
    found = None if theirs is None else difference(ours, theirs)
    if found is None:
        whose = "the data" if theirs is not None and theirs.fingerprint else where
        return f"{whose} has no fingerprint of its tokenizer: only the size of the vocabulary was compared"
    if found:
        raise DataError(f"{where} has another tokenizer ({found}); {remedy}")
    return ""
