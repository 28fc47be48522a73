"""Text to rows: tokenizer, corpus, packing, order and masks. No torch, no Megatron."""

from megatron_ettin.data.build import BuildReport, build_corpus
from megatron_ettin.data.corpus import Corpus, open_corpus
from megatron_ettin.data.options import BuildOptions
from megatron_ettin.data.tokenizer import Tokenizer

__all__ = ["BuildOptions", "BuildReport", "Corpus", "Tokenizer", "build_corpus", "open_corpus"]
