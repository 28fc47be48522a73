"""Small tokenizers of every kind that the native engine reproduces, trained by the `tokenizers` library, and texts."""
# ruff: noqa: E501

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = LLAMA.replace(r"\p{N}{1,3}", r"\p{N}")
UPPER, LOWER, ENDING = (
    r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]",
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
)
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{ENDING}|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{ENDING}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = [
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^"""
    "\r\n"
    r"\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+["
    "\r\n"
    r"]*|\s*["
    "\r\n"
    r"]+|\s+(?!\S)|\s+",
]
SPECIALS = ["<|endoftext|>", "<|padding|>", "[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
SENTENCES = [
    "The quick brown fox doesn't jump; they'll say we've been 1234 times there, I'm sure you'd agree.\n\n",
    "def encode(self, text: str) -> list[int]:\n    return [self.vocab[token] for token in self.split(text)]\n\n",
    "Быстрая коричневая лиса перепрыгивает через ленивую собаку, не правда ли?  ",
    "素早い茶色の狐が、怠けた犬を飛び越えた。中国人民共和国、日本語、東京。",
    "한국어 텍스트도 있습니다. 안녕하세요 여러분, 반갑습니다!\t",
    "हिन्दी में कुछ पाठ और संख्याएँ १२३। ",
    "Ça déjà vu, naïve façade, Übergröße, São Paulo — “quoted” text’s… \u00a0\u202f",
    "שָׁלוֹם עוֹלָם السَّلَامُ عَلَيْكُمْ สวัสดีชาวโลก ",
    "👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301 o\u0308\u0323 \u1112\u1161\u11ab Å ﬁ ½ ² Ⅳ\r\n",
]


def training_text() -> Iterator[str]:
    """Text with words that repeat in different surroundings."""
    for at, sentence in enumerate(SENTENCES * 6):
        words = sentence.split(" ")
        yield " ".join(words[at % 3 :] + words[: at % 3])
    yield Path(__file__).read_text(encoding="utf-8")


def trained(pre_tokenizer: pre_tokenizers.PreTokenizer, nfc: bool, size: int = 1200) -> Tokenizer:
    """A byte-level BPE without added tokens."""
    tokenizer = Tokenizer(models.BPE())
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(training_text(), trainer)
    return tokenizer


def split_by(*patterns: str, behavior: str = "isolated", invert: bool = False) -> pre_tokenizers.PreTokenizer:
    """The pre-tokenizer of Llama-3 and its like."""
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    splits = [pre_tokenizers.Split(Regex(pattern), behavior, invert) for pattern in patterns]
    return pre_tokenizers.Sequence([*splits, bytes_only])


def gpt2(prefix_space: bool = False) -> Tokenizer:
    """GPT-2: no normalizer, one special token."""
    tokenizer = trained(pre_tokenizers.ByteLevel(add_prefix_space=prefix_space), nfc=False)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def ettin() -> Tokenizer:
    """The kind of Ettin: NFC, runs of spaces as normalized added tokens, [MASK] with lstrip, unused tokens."""
    tokenizer = trained(pre_tokenizers.ByteLevel(add_prefix_space=False), nfc=True)
    tokenizer.add_tokens([AddedToken(" " * size, normalized=True) for size in range(24, 1, -1)])
    tokenizer.add_tokens([AddedToken("|||EMAIL_ADDRESS|||", normalized=True)])
    specials = [AddedToken(name, lstrip=name == "[MASK]", normalized=False, special=True) for name in SPECIALS]
    tokenizer.add_special_tokens(specials)
    tokenizer.add_tokens([AddedToken(f"[unused{at}]", normalized=True) for at in range(12)])
    return tokenizer


def llama(pattern: str = LLAMA) -> Tokenizer:
    """Llama-3 as converted from ranks: every way to make a token is a merge, and whole words bypass merging."""
    source = json.loads(trained(split_by(pattern), nfc=False).to_str())
    vocabulary = source["model"]["vocab"]
    merges = [
        [token[:cut], token[cut:]]
        for token in sorted(vocabulary, key=vocabulary.get)
        for cut in range(1, len(token))
        if token[:cut] in vocabulary and token[cut:] in vocabulary
    ]
    for unreachable in ("ĠĠunreachableĠ", "qzxj"):
        vocabulary.setdefault(unreachable, len(vocabulary))
    source["model"] |= {"merges": merges, "ignore_merges": True}
    tokenizer = Tokenizer.from_str(json.dumps(source))
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|endoftext|>"])
    return tokenizer


def qwen() -> Tokenizer:
    """Qwen: NFC and single digits."""
    tokenizer = trained(split_by(QWEN), nfc=True)
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return tokenizer


def gpt4o() -> Tokenizer:
    """GPT-4o: what the expression matches is kept, all else would be removed."""
    tokenizer = trained(split_by(O200K, behavior="removed", invert=True), nfc=False)
    tokenizer.add_special_tokens(["<|endoftext|>", "<|endofprompt|>"])
    return tokenizer


def deepseek() -> Tokenizer:
    """DeepSeek-V3: digits and CJK are cut out before the last expression."""
    tokenizer = trained(split_by(*DEEPSEEK), nfc=False)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.add_tokens([AddedToken("<|im_start|>", normalized=True)])
    return tokenizer


def odd() -> Tokenizer:
    """Added tokens with every flag, some inside others, some that NFC changes, some of spaces."""
    tokenizer = trained(pre_tokenizers.ByteLevel(add_prefix_space=False), nfc=True)
    tokenizer.add_tokens(
        [
            AddedToken("fox", single_word=True),
            AddedToken("foxy", rstrip=True),
            AddedToken("e\u0301t", lstrip=True),
            AddedToken("  "),
            AddedToken("\n\n\n"),
            AddedToken("<left>", lstrip=True, normalized=False),
            AddedToken("<right>", rstrip=True, normalized=False),
            AddedToken("<both>", lstrip=True, rstrip=True, normalized=False),
            AddedToken("<word>", single_word=True, normalized=False),
            AddedToken("\u212b", normalized=False),
        ]
    )
    tokenizer.add_special_tokens([AddedToken("<s>", special=True, normalized=True), AddedToken("<|endoftext|>")])
    return tokenizer


KINDS = {
    "ettin": ettin,
    "gpt2": gpt2,
    "gpt2-prefix-space": lambda: gpt2(prefix_space=True),
    "llama": llama,
    "qwen": qwen,
    "gpt-oss": lambda: llama(O200K),
    "gpt4o": gpt4o,
    "deepseek": deepseek,
    "odd": odd,
}

ATOMS = [
    *SPECIALS, "|||EMAIL_ADDRESS|||", "[unused3]", "[unused11]", "<|im_start|>", "<|begin_of_text|>", "<|end",
    "fox", "foxy", "e\u0301t", "\u00e9t", "<left>", "<right>", "<both>", "<word>", "<s>", "\u212b", "qzxj",
    " ", "  ", "   ", " " * 15, " " * 16, " " * 24, " " * 25, " " * 26, " " * 48, " " * 49, " " * 73, "\t", "\n", "\n\n",
    "\r\n", "\r", "\x0b", "\x85", "\u00a0", "\u2028", "\u3000", "\u1680", "\x00", "\x1f", "\ufeff", "\u200d", "\ufe0f",
    "'", "'s", "'S", "'re", "'LL", "'\u017f", "'d", "\u2019s", "a", "Z", "the", "doesn't", "0", "12", "1234567", "\u0661", "½",
    "!", "...", "_", "-", "\"", "é", "e\u0301", "\u0301", "\u0323\u0301", "\u0301\u0323", "\u0345", "\u0344", "ñ", "ß", "\u0130",
    "\u1100", "\u1161", "\u11a8", "\uac00", "\uac01", "\u0915\u093c", "\u0958", "\u0e33", "\u0e48", "안녕하세요", "中国", "日本語、",
    "Привет", "שָׁ", "👩‍👩‍👧", "🇩🇪", "\U0001d400", "\U00010900", "\U000e0001", "\U0010ffff", "\ue000", "\ufdd0", "\u2126", "\ufb1d",
    "DON'T", "iPhone", "HTTPServer", "ǅ", "ʰ", "ª", "ᾈ", "//", "\n/", "/\r\n", "(a", "((a", "「", "・", "\u3099", "\u30a0", "龥", "龦",
    "ab" * 40, "é" * 70, "語" * 50, "x" * 300, "supercalifragilisticexpialidocious",
]  # fmt: skip

TEXTS = st.lists(st.one_of(st.sampled_from(ATOMS), st.text(max_size=4)), max_size=40).map("".join)
"""Texts that put odd things beside each other; lone surrogates cannot occur."""
