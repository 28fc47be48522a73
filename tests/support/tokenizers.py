"""Small tokenizers of every kind that people bring, as folders."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

TEXTS = [f"text {i} of many words, which goes on for a while: numbers {i * 7919} and letters" for i in range(200)]
USUAL = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
ROBERTA = {
    "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "mask_token": "<mask>", "unk_token": "<unk>",
    "bos_token": "<s>", "eos_token": "</s>",
}  # fmt: skip


def byte_level(specials: list[str] = USUAL, vocabulary: int = 300) -> Tokenizer:
    """A byte-level BPE."""
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        special_tokens=[AddedToken(name, special=True, normalized=False) for name in specials],
    )  # fmt: skip
    made.train_from_iterator(TEXTS, trainer)
    return made


def unigram(specials: list[str] = USUAL) -> Tokenizer:
    """A Unigram, whose vocabulary is a list of pieces with scores."""
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=160, special_tokens=specials, unk_token=specials[0], show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    return made


def wordpiece(specials: list[str] = USUAL) -> Tokenizer:
    """A WordPiece."""
    made = Tokenizer(models.WordPiece(unk_token=specials[0]))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=160, special_tokens=specials,
                                                               show_progress=False))  # fmt: skip
    return made


def write_kind(folder: Path, kind: str) -> Path:
    """The folder of a tokenizer of one kind: usual, no_unknown, roberta, unigram or wordpiece."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {
        "usual": byte_level,
        "no_unknown": lambda: byte_level(USUAL[1:]),
        "roberta": lambda: byte_level(["<unk>", "<s>", "</s>", "<pad>", "<mask>"]),
        "unigram": unigram,
        "wordpiece": wordpiece,
    }[kind]()
    made.save(str(folder / "tokenizer.json"))
    if kind == "roberta":
        (folder / "tokenizer_config.json").write_text(json.dumps(ROBERTA))
    return folder


def write_texts(path: Path) -> Path:
    """The texts as JSON lines."""
    path.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    return path
