"""The tokenizer files of a folder, readable by transformers 4 and 5, with the template of its objective."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_ettin.errors import DataError
from megatron_ettin.export.mapping import Kind
from megatron_ettin.tokenizer.identity import identity_of, read_tokenizer, vocabulary_of
from megatron_ettin.tokenizer.special_tokens import (
    CLS,
    CONFIG_FILE,
    ROLE_NAMES,
    ROLES,
    ROW_TOKENS,
    SEP,
    UNKNOWN,
    missing_roles,
    read_roles,
)


def special_ids(content: Mapping[str, Any], where: Path, known: Mapping[str, int] | None = None) -> dict[str, int]:
    """Ids by role ([CLS], [SEP], [PAD], [MASK], and [UNK] where there is one): those ``known``, else the file's own.

    Raises DataError when a role is not taken.
    """
    ids = dict(known) if known else identity_of(content, read_roles(where), str(where)).special_ids
    if missing := missing_roles(ids):
        raise DataError(
            f"{where} has no token {', '.join(ROLE_NAMES[role] for role in missing)}, nor are others named for these "
            f"roles; name them in the {CONFIG_FILE} beside it "
            f'("{missing[0]}_token": "..."), or train one with `ettin tokenizer train`'
        )
    return {name: ids[name] for name in (*ROW_TOKENS, UNKNOWN) if name in ids}


def template(kind: Kind, ids: Mapping[str, int], names: Mapping[str, str]) -> dict[str, Any]:
    """The post-processor: [CLS] A [SEP] for encoders; [CLS] A for decoders, which write their own end.

    ``ids`` and ``names`` say which tokens take these roles.
    """
    used = [CLS]
    single: list[dict[str, Any]] = [
        {"SpecialToken": {"id": names[CLS], "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ]
    second: list[dict[str, Any]] = [{"Sequence": {"id": "B", "type_id": 1}}]
    if kind == "encoder":
        used.append(SEP)
        single.append({"SpecialToken": {"id": names[SEP], "type_id": 0}})
        second.append({"SpecialToken": {"id": names[SEP], "type_id": 1}})
    tokens = {names[role]: {"id": names[role], "ids": [ids[role]], "tokens": [names[role]]} for role in used}
    return {"type": "TemplateProcessing", "single": single, "pair": single + second, "special_tokens": tokens}


def write_tokenizer(
    folder: Path, source: Path, kind: Kind, maximum_length: int, known: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json; the special ids are returned.

    ``known`` are the ids by role that the model was trained with; without them the roles are those that ``source``
    and the tokenizer_config.json beside it name. PreTrainedTokenizerFast is named as the class because every version
    loads it; what transformers 5 would name, transformers 4 does not know.
    """
    content = read_tokenizer(source)
    ids = special_ids(content, source, known)
    tokens = {i: token for token, i in vocabulary_of(content).items()}
    names = {role: tokens[i] for role, i in ids.items()}
    roles = {role: names[name] for role, name in ROLES.items() if name in names}
    content |= {"post_processor": template(kind, ids, names), "truncation": None, "padding": None}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": maximum_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **roles,
    }
    write_json(folder / "tokenizer.json", content)
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "special_tokens_map.json", roles)
    return ids


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """One JSON file in UTF-8 with a final newline."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
