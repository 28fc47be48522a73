"""The tokenizer files of a folder, readable by transformers 4 and 5, with the template of its objective."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_ettin.errors import DataError
from megatron_ettin.export.mapping import Kind
from megatron_ettin.tokenizer.special_tokens import ROLES, ROW_TOKENS, UNKNOWN

SPECIALS = (*ROW_TOKENS, UNKNOWN)
"""Tokens that an exported folder must have."""


def read_tokenizer(path: Path) -> dict[str, Any]:
    """The content of a tokenizer.json; raises DataError when it is none."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a tokenizer.json: {error}") from error
    if not isinstance(content, dict) or "vocab" not in content.get("model", {}):
        raise DataError(f"{path} is no tokenizer.json: it has no model with a vocabulary")
    return content


def special_ids(content: Mapping[str, Any], where: Path) -> dict[str, int]:
    """Ids of [CLS], [SEP], [PAD], [MASK] and [UNK]; raises DataError when one is absent."""
    ids = {token["content"]: token["id"] for token in content.get("added_tokens", [])}
    missing = [token for token in SPECIALS if token not in ids]
    if missing:
        raise DataError(f"{where} has no token {', '.join(missing)}; train one with `ettin tokenizer train`")
    return {token: ids[token] for token in SPECIALS}


def template(kind: Kind, ids: Mapping[str, int]) -> dict[str, Any]:
    """The post-processor: [CLS] A [SEP] for encoders; [CLS] A for decoders, which write their own end."""
    used = ["[CLS]"]
    single: list[dict[str, Any]] = [
        {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ]
    second: list[dict[str, Any]] = [{"Sequence": {"id": "B", "type_id": 1}}]
    if kind == "encoder":
        used.append("[SEP]")
        single.append({"SpecialToken": {"id": "[SEP]", "type_id": 0}})
        second.append({"SpecialToken": {"id": "[SEP]", "type_id": 1}})
    tokens = {token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in used}
    return {"type": "TemplateProcessing", "single": single, "pair": single + second, "special_tokens": tokens}


def write_tokenizer(folder: Path, source: Path, kind: Kind, maximum_length: int) -> dict[str, int]:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json; the special ids are returned.

    PreTrainedTokenizerFast is named as the class because every version loads it; what transformers 5 would name,
    transformers 4 does not know.
    """
    content = read_tokenizer(source)
    ids = special_ids(content, source)
    content |= {"post_processor": template(kind, ids), "truncation": None, "padding": None}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": maximum_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **ROLES,
    }
    write_json(folder / "tokenizer.json", content)
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "special_tokens_map.json", ROLES)
    return ids


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """One JSON file in UTF-8 with a final newline."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
