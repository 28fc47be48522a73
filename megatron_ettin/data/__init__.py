"""Text to rows: tokenizer, corpus, packing, order and masks. No torch, no Megatron."""

from typing import TYPE_CHECKING, Any

from megatron_ettin.data.build import BuildReport, build_corpus
from megatron_ettin.data.options import BuildOptions
from megatron_ettin.data.tokenizer import Tokenizer

if TYPE_CHECKING:
    from megatron_ettin.data.corpus import Corpus, open_corpus

__all__ = ["BuildOptions", "BuildReport", "Corpus", "Tokenizer", "build_corpus", "open_corpus"]


def __getattr__(name: str) -> Any:
    """Reading a corpus needs numpy, which takes longer to import than all of this: imported when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from megatron_ettin.data import corpus

    return getattr(corpus, name)
