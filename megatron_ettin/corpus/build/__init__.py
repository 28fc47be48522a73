"""Text to a corpus: one build, its journal, its publication."""

from megatron_ettin.corpus.build.build import BuildReport, build_corpus, build_from_texts
from megatron_ettin.corpus.build.job import BuildOptions

__all__ = ["BuildOptions", "BuildReport", "build_corpus", "build_from_texts"]
