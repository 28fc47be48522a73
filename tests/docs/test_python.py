"""The page about calls from Python is true: its code runs, in its order, on a tiny corpus and run made here."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import megatron_ettin
from tests.readme.test_readme import write_text
from tests.support.launch import ettin, run
from tests.train.runs import config_of, go

STEPS = 4


def blocks(root: Path) -> list[str]:
    """The page's Python, block by block."""
    return re.findall(r"```python\n(.*?)```", (root / "docs" / "python.md").read_text(), flags=re.DOTALL)


@pytest.fixture(scope="module")
def workplace(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the corpus and the run that the page names."""
    folder = tmp_path_factory.mktemp("python")
    write_text(root, folder / "my_text.jsonl")
    texts = ["--input", folder / "my_text.jsonl"]
    ettin("tokenizer", "train", *texts, "--vocabulary", "600", "--output", folder / "my_tokenizer")
    ettin("prepare", *texts, "--tokenizer-model", folder / "my_tokenizer", "--output-prefix", folder / "my_corpus")
    go(config_of(folder / "my_corpus", steps=STEPS, model__vocabulary=0), folder / "my_encoder")
    return folder


def test_the_code_of_the_page_runs_in_its_order(root: Path, workplace: Path) -> None:
    output = run([sys.executable, "-c", "\n".join(blocks(root))], cwd=workplace).stdout
    assert re.search(r"^step\d+ \d+ tensors$", output, re.MULTILINE) and output.endswith("written\n")
    assert (workplace / "my_encoder_hf" / "model.safetensors").exists()


def test_every_public_name_is_on_the_page_and_is_found(root: Path) -> None:
    code = "\n".join(blocks(root))
    public = [name for name in megatron_ettin.__all__ if not name.startswith("_")]
    assert [name for name in public if f"megatron_ettin.{name}(" not in code] == []
    assert [name for name in public if not callable(getattr(megatron_ettin, name))] == []
    with pytest.raises(AttributeError, match="no attribute 'open_corpora'"):
        megatron_ettin.open_corpora  # noqa: B018


def test_importing_the_package_loads_neither_numpy_nor_torch() -> None:
    program = "import sys, megatron_ettin; print(sorted({'numpy', 'torch', 'megatron'} & set(sys.modules)))"
    assert run([sys.executable, "-c", program]).stdout == "[]\n"
