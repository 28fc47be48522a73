"""What ``ettin check`` looks at in the data of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from megatron_ettin.check.findings import Finding, guarded
from megatron_ettin.config.run import RunConfig
from megatron_ettin.corpus.reader import Corpus, open_corpus
from megatron_ettin.corpus.verify import verify_corpus
from megatron_ettin.errors import DataError
from megatron_ettin.rows.mixture import Mixture, read_mixture
from megatron_ettin.rows.packing import open_pack, pack_spec
from megatron_ettin.rows.pool import build_pool
from megatron_ettin.rows.run_data import common_vocabulary, refuse_empty


def examine_data(config: RunConfig, deep: bool) -> tuple[int, list[Finding]]:
    """The vocabulary of the data (the model's where the data is wrong) and one finding for each thing looked at."""
    corpora: list[Corpus] = []
    found = list(guarded("data", data_findings(config, deep, corpora)))
    return corpora[0].manifest.tokenizer.vocabulary if corpora else config.model.vocabulary, found


def data_findings(config: RunConfig, deep: bool, corpora: list[Corpus]) -> Iterator[Finding]:
    """Each corpus of the mixture: files, sizes, fingerprint, tokenizer; fills ``corpora``."""
    mixture = read_mixture(config.data.data)
    for source in mixture.sources:
        corpus = open_corpus(source.prefix)
        refuse_empty(source, corpus)
        if deep:
            refuse_damage(source.prefix)
        corpora.append(corpus)
        yield Finding("ok", "data", corpus_line(source.name, corpus, deep))
    vocabulary = common_vocabulary(mixture, corpora, config)
    yield Finding("ok", "tokenizer", f"{vocabulary.size:,} ids, sha256 {vocabulary.fingerprint[:12]}")
    yield from pool_findings(config, mixture, corpora)


def refuse_damage(prefix: Path) -> None:
    """Read a whole corpus and raise DataError where a byte is not what the manifest says."""
    found = verify_corpus(prefix)
    if not found.whole:
        raise DataError(f"{prefix} is damaged: {'; '.join(found.problems)}; rebuild it or restore its files")


def corpus_line(name: str, corpus: Corpus, deep: bool) -> str:
    """One corpus in words."""
    size = f"{corpus.documents:,} documents, {corpus.tokens:,} tokens"
    return f"{name}: {size}, fingerprint {corpus.fingerprint[:12]}, {'every byte read' if deep else 'sizes fit'}"


def pool_findings(config: RunConfig, mixture: Mixture, corpora: list[Corpus]) -> Iterator[Finding]:
    """Rows and passes, exactly where the pack indexes are built, else roughly."""
    spec = pack_spec(config.data)
    if all(spec.path(corpus).is_file() for corpus in corpora):
        packs = [open_pack(corpus, spec) for corpus in corpora]
        rows = build_pool(mixture, packs).rows
        fill = sum(pack.tokens for pack in packs) / sum(pack.rows * spec.row_length for pack in packs)
        about, tokens = "", rows * spec.row_length * fill
        detail = f"; {fill:.1%} of the positions filled"
    else:
        tokens = wanted_tokens(mixture, corpora)
        rows, about, detail = round(tokens / spec.row_length), "about ", "; the pack index is built at the first start"
    passes = config.schedule.tokens / max(1.0, tokens)
    epochs = f"the stage reads {passes:.2f} times that"
    yield Finding("ok", "rows", f"{about}{rows:,} rows of {spec.row_length} in the pool; {epochs}{detail}")


def wanted_tokens(mixture: Mixture, corpora: list[Corpus]) -> float:
    """Tokens of the pool, about: held-out documents and special tokens not considered."""
    total = 0.0
    for source, corpus in zip(mixture.sources, corpora, strict=True):
        wanted = mixture.tokens_wanted(source)
        total += corpus.tokens * source.amount if wanted is None else wanted
    return total
