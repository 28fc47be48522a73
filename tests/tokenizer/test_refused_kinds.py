"""Kinds of tokenizer that are not byte-level are refused with the flag that takes them, and `prepare` works with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from megatron_ettin.cli import main
from megatron_ettin.corpus.reader import open_corpus
from tests.tokenizer.samples import SENTENCES, training_text


def learned(tokenizer: Tokenizer, alphabet: list[str], size: int) -> Tokenizer:
    """The tokenizer with a vocabulary and an end of documents."""
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(training_text(), trainer)
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", normalized=False)])
    return tokenizer


def claude() -> Tokenizer:
    """Claude: byte-level, behind NFKC."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return learned(tokenizer, sorted(pre_tokenizers.ByteLevel.alphabet()), 600)


def sentence_piece(normalizer: normalizers.Normalizer, pre_tokenizer: pre_tokenizers.PreTokenizer | None) -> Tokenizer:
    """SentencePiece's BPE: characters with a mark for spaces, and bytes for the characters that it does not know."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    parsed = json.loads(learned(tokenizer, list("abcdefghijklmnopqrstuvwxyz"), 300).to_str())
    vocabulary = parsed["model"]["vocab"]
    parsed["added_tokens"] = []
    for name in ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]:
        vocabulary.setdefault(name, len(vocabulary))
    tokenizer = Tokenizer.from_str(json.dumps(parsed))
    tokenizer.normalizer = normalizer
    if pre_tokenizer is None:
        parsed = json.loads(tokenizer.to_str())
        parsed["pre_tokenizer"] = None
        tokenizer = Tokenizer.from_str(json.dumps(parsed))
    else:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteFallback()
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", normalized=False)])
    return tokenizer


KINDS: dict[str, tuple[Callable[[], Tokenizer], str]] = {
    "claude": (claude, 'normalizer "NFKC"'),
    "gemma": (
        lambda: sentence_piece(
            normalizers.Replace(" ", "\u2581"), pre_tokenizers.Split(Regex(" "), "merged_with_previous")
        ),
        'normalizer "Replace"',
    ),
    "llama-2": (
        lambda: sentence_piece(
            normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]), None
        ),
        'normalizer "Prepend"',
    ),
    "mistral": (
        lambda: sentence_piece(normalizers.Sequence([]), pre_tokenizers.Metaspace(prepend_scheme="first")),
        'pre-tokenizer "Metaspace"',
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_kinds_that_are_refused_name_the_flag_with_which_prepare_takes_them(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, reason = KINDS[name]
    library = make()
    library.save(str(tmp_path / "tokenizer.json"))
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": sentence}) + "\n" for sentence in SENTENCES), encoding="utf-8")
    command = ["prepare", "--input", str(text), "--tokenizer-model", str(tmp_path), "--append-eod"]
    command += ["--output-prefix", str(tmp_path / "corpus")]
    assert main(command) != 0
    error = capsys.readouterr().err
    assert reason in error and "--tokenizer-engine huggingface" in error
    assert not list(tmp_path.glob("corpus*"))
    assert main([*command, "--tokenizer-engine", "huggingface"]) == 0
    corpus, end = open_corpus(tmp_path / "corpus"), library.token_to_id("<|endoftext|>")
    for at, sentence in enumerate(SENTENCES):
        expected = [*library.encode(sentence, add_special_tokens=False).ids, end]
        assert corpus.document(at).tolist() == expected
