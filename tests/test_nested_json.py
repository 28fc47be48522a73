"""JSON from elsewhere that is nested deeper than Python follows is an error with a name, wherever it is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_ettin.checkpoint.manifest import read_manifest
from megatron_ettin.corpus.reader import open_corpus
from megatron_ettin.errors import EttinError
from megatron_ettin.evaluate.suites.subjects import fingerprint_of
from megatron_ettin.export.huggingface import read_folder_config
from megatron_ettin.rows.mixture import read_mixture
from megatron_ettin.run_folder import read_config
from megatron_ettin.typed_json import parse_json

DEEP = "[" * 200_000
READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "the settings of a run": ("config.json", lambda folder: read_config(folder)),
    "a Hugging Face folder": ("config.json", lambda folder: read_folder_config(folder)),
    "the manifest of a checkpoint": ("manifest.json", lambda folder: read_manifest(folder)),
    "a mixture": ("mixture.json", lambda folder: read_mixture(folder / "mixture.json")),
    "the manifest of a corpus": ("corpus.json", lambda folder: open_corpus(folder / "corpus")),
}


@pytest.mark.parametrize("what", READERS)
def test_json_nested_too_deeply_is_an_error_with_a_name(tmp_path: Path, what: str) -> None:
    name, read = READERS[what]
    (tmp_path / name).write_text(DEEP)
    with pytest.raises(EttinError, match=name):
        read(tmp_path)


def test_the_one_parser_says_why() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(DEEP)


def test_a_model_folder_with_pickles_alone_is_refused_by_evaluations(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(EttinError, match="never opened"):
        fingerprint_of(tmp_path)
