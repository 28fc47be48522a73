"""Text to rows: tokenizer, corpus, packing, order and masks. No torch, no Megatron."""

from megatron_ettin.data.corpus import Corpus, open_corpus
from megatron_ettin.data.tokenizer import Tokenizer

__all__ = ["Corpus", "Tokenizer", "open_corpus"]
