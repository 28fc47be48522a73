"""Text to rows: tokenizer, corpus, packing, order and masks. No torch, no Megatron."""

from megatron_ettin.data.corpus import Corpus, open_corpus

__all__ = ["Corpus", "open_corpus"]
