"""A small model with its tokenizer, as an export in memory and as folders on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.config.run import ModelConfig
from megatron_ettin.config.weights import shapes
from megatron_ettin.export import Export, write_folder
from tests.export.reference import random_tensors

VOCABULARY = 301
"""Odd, so that no padding of the vocabulary can hide."""

SPECIALS = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]


def tokenizer_content() -> dict:
    """A byte-level tokenizer without merges: 256 bytes, the end of a document, the five specials, and unused ids."""
    from tokenizers.pre_tokenizers import ByteLevel

    vocabulary = {letter: i for i, letter in enumerate(sorted(ByteLevel.alphabet()))}
    added = ["<|endoftext|>", *SPECIALS, *(f"[unused{i}]" for i in range(VOCABULARY - 256 - 6))]
    tokens = [
        {"id": 256 + i, "content": token, "single_word": False, "lstrip": token == "[MASK]", "rstrip": False,
         "normalized": token.startswith("[unused"), "special": not token.startswith("[unused")}
        for i, token in enumerate(added)
    ]  # fmt: skip
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens,
        "normalizer": {"type": "NFC"}, "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocabulary, "merges": []},
    }  # fmt: skip


@pytest.fixture(scope="session")
def tokenizer_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(json.dumps(tokenizer_content()))
    return path


def small_model(**changes: object) -> ModelConfig:
    """Five layers, two of them global, and a window that short pieces exceed."""
    facts = {
        "size": "small", "layers": 5, "hidden": 64, "intermediate": 80, "heads": 4, "vocabulary": VOCABULARY,
        "window": 8, "causal_window": 7, "rope_base_global": 160_000.0, "rope_base_local": 160_000.0,
        "maximum_length": 500,
    }  # fmt: skip
    return ModelConfig(**(facts | changes))


@pytest.fixture(scope="session")
def make_export(tokenizer_json: Path) -> Callable[..., Export]:
    def make(objective: str = "mlm", seed: int = 0, dtype: str = "float32", **changes: object) -> Export:
        model = small_model(**changes)
        tensors = random_tensors(model, shapes(model), seed)
        return Export(
            model=model, objective=OBJECTIVES[objective], tensors=tensors, tokenizer_json=tokenizer_json, dtype=dtype
        )

    return make


@pytest.fixture
def make_folder(tmp_path: Path, make_export: Callable[..., Export]) -> Callable[..., Path]:
    def make(objective: str = "mlm", name: str = "", **changes: object) -> Path:
        folder = tmp_path / (name or f"{objective}-{len(list(tmp_path.iterdir()))}")
        folder.mkdir()
        write_folder(folder, make_export(objective, **changes))
        return folder

    return make
