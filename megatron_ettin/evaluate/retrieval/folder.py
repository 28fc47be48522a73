"""The folder of an embedding model: weights, a tokenizer whose texts have an end token, and how states are pooled.

It has the form of sentence-transformers 5, which 5.x and 6.x read alike.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_ettin.errors import CheckpointError
from megatron_ettin.evaluate.retrieval.settings import Pooling
from megatron_ettin.evaluate.suites.subjects import TOKENIZERS, Subject
from megatron_ettin.evaluate.suites.tokenizers import tokenizer_of
from megatron_ettin.export.tokenizer_files import write_json
from megatron_ettin.export.weights import INDEX, WEIGHTS, weight_files
from megatron_ettin.typed_json import parse_json

MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]
POOLINGS = {
    "cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens", "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens", "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}  # fmt: skip
"""Pooling -> its switch in the folder."""
TOKENIZER_FILES = (*TOKENIZERS, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")


def write_untrained(folder: Path, subject: Subject, pooling: Pooling, longest: int) -> None:
    """Fill the existing, empty ``folder`` with links to the subject's weights, for training to start from.

    Raises CheckpointError for a tokenizer without a token for the end of a text, and for a model without a width.
    """
    fields = parse_json((subject.folder / "config.json").read_text(encoding="utf-8"))
    weights = weight_files(subject.folder)
    for path in [*weights, *([subject.folder / INDEX] if weights[0].name != WEIGHTS else [])]:
        (folder / path.name).symlink_to(path.resolve())
    write_json(folder / "config.json", fields)
    if subject.causal:
        write_ended_tokenizer(folder, subject, longest)
    else:
        for name in TOKENIZER_FILES:
            if (subject.folder / name).is_file():
                shutil.copyfile(subject.folder / name, folder / name)
    width = fields.get("hidden_size", fields.get("n_embd"))
    if not isinstance(width, int):
        raise CheckpointError(f"{subject.folder}/config.json has no hidden_size; the suite takes plain language models")
    write_modules(folder, pooling, width, longest)


def write_trained(folder: Path, untrained: Path, model: Any) -> None:  # noqa: ANN401 - sentence-transformers has no types
    """Fill the existing, empty ``folder`` with the weights of a trained model, in float32, and the files beside them.

    config.json stays as it was, but for the class: transformers' own writing would leave out fields that its version 4
    needs.
    """
    from safetensors.torch import save_file

    transformer = model[0].auto_model
    tensors = {name: tensor.detach().cpu().float().contiguous() for name, tensor in transformer.state_dict().items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    fields = parse_json((untrained / "config.json").read_text(encoding="utf-8"))
    types = dict.fromkeys(("dtype", "torch_dtype"), "float32")
    write_json(folder / "config.json", {**fields, "architectures": [type(transformer).__name__], **types})
    for path in untrained.iterdir():
        if path.is_dir():
            shutil.copytree(path, folder / path.name)
        elif not path.is_symlink() and path.name != "config.json":
            shutil.copyfile(path, folder / path.name)


def write_modules(folder: Path, pooling: Pooling, width: int, longest: int) -> None:
    """What sentence-transformers reads beside the model: its parts, the pooling, the longest text in tokens."""
    switches = {switch: name == pooling for name, switch in POOLINGS.items()}
    (folder / "1_Pooling").mkdir()
    write_json(
        folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **switches, "include_prompt": True}
    )
    (folder / "modules.json").write_text(json.dumps(MODULES, indent=2) + "\n", encoding="utf-8")
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": longest, "do_lower_case": False})
    write_json(
        folder / "config_sentence_transformers.json",
        {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"},
    )


def write_ended_tokenizer(folder: Path, subject: Subject, longest: int) -> None:
    """A decoder's tokenizer, whose texts end in its end token: what last-token pooling reads.

    The subject's own folder keeps its template, which generation needs. Raises CheckpointError.
    """
    tokenizer = tokenizer_of(subject)
    end = tokenizer.sep_token or tokenizer.eos_token
    if end is None:
        raise CheckpointError(
            f"{subject.folder}: the tokenizer names no sep_token and no eos_token, and texts to embed end in one; "
            "name it in tokenizer_config.json"
        )
    content = parse_json(tokenizer.backend_tokenizer.to_str())
    first, end_id = tokenizer("a")["input_ids"], tokenizer.convert_tokens_to_ids(end)
    before = [i for i in first[:1] if i in tokenizer.all_special_ids]
    if first[-1] != end_id:
        begin = [(tokenizer.convert_ids_to_tokens(i), i) for i in before]
        content["post_processor"] = ended(content["post_processor"], begin, (end, end_id))
    roles = {role: str(token) for role, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": longest,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        "pad_token": end,
        **roles,
    }
    write_json(folder / "tokenizer.json", {**content, "truncation": None, "padding": None})
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "special_tokens_map.json", {"pad_token": end, **roles})


def ended(processor: Mapping[str, Any] | None, begin: list[tuple[str, int]], end: tuple[str, int]) -> dict[str, Any]:
    """A post-processor that makes ``begin`` A ``end``; what ``processor`` does beside templates stays."""
    parts = [] if processor is None else processor.get("processors", [processor])
    others = [part for part in parts if part["type"] != "TemplateProcessing"]

    def special(token: tuple[str, int], text: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": token[0], "type_id": text}}

    first = [{"Sequence": {"id": "A", "type_id": 0}}, special(end, 0)]
    second = [{"Sequence": {"id": "B", "type_id": 1}}, special(end, 1)]
    single = [*(special(token, 0) for token in begin), *first]
    template = {
        "type": "TemplateProcessing", "single": single, "pair": single + second,
        "special_tokens": {name: {"id": name, "ids": [i], "tokens": [name]} for name, i in (*begin, end)},
    }  # fmt: skip
    return {"type": "Sequence", "processors": [*others, template]} if others else template
