"""Tokenizers that the native engine does not reproduce are refused by a build, and built by `tokenizers` itself."""

import json

import pytest
from tokenizers import Tokenizer

from megatron_ettin.corpus.build import BuildOptions, build_corpus
from megatron_ettin.errors import DataError

TEXTS = ["In 2024 there were 1234567 of them, I'd say", "don't  DON'T stop\n\n now", "42", "ÜBER Straße 3.14159"]
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|"
    r"\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def splitting(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


FIRST = {
    "tiktoken's cl100k": splitting(CL100K),
    "Han": splitting(r"\p{Han}+|[^\p{Han}]+"),
    "digits": {"type": "Digits", "individual_digits": True},
}


@pytest.mark.parametrize("name", FIRST)
def test_what_is_refused_is_built_by_the_other_engine(tmp_path, tokenizer, name):
    content = json.loads(tokenizer.read_text())
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [FIRST[name], BYTES]}
    path, text = tmp_path / "tokenizer.json", tmp_path / "text.jsonl"
    path.write_text(json.dumps(content))
    text.write_text("".join(json.dumps({"text": line}) + "\n" for line in TEXTS))
    with pytest.raises(DataError, match="cannot be reproduced exactly: .*--tokenizer-engine huggingface"):
        build_corpus(text, tmp_path / "refused", path)
    corpus = build_corpus(text, tmp_path / "built", path, BuildOptions(engine="huggingface")).corpus
    library = Tokenizer.from_file(str(path))
    expected = [library.encode(line, add_special_tokens=False).ids for line in TEXTS]
    assert [corpus.document(i).tolist() for i in range(len(TEXTS))] == expected
