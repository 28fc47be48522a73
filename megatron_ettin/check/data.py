"""What ``ettin check`` looks at in the data of a run."""

from __future__ import annotations

from collections.abc import Iterator

from megatron_ettin import _native
from megatron_ettin.check.findings import Finding
from megatron_ettin.config.run import RunConfig
from megatron_ettin.corpus.format import hash_path
from megatron_ettin.corpus.reader import Corpus, open_corpus
from megatron_ettin.corpus.verify import verify_corpus
from megatron_ettin.errors import DataError
from megatron_ettin.rows.held_out import split_key, text_hashes
from megatron_ettin.rows.mixture import Mixture, mixture_of, read_mixture
from megatron_ettin.rows.packing import native_corpus, open_pack, pack_spec
from megatron_ettin.rows.pool import build_pool
from megatron_ettin.rows.run_data import common_vocabulary, refuse_empty
from megatron_ettin.tokenizer.identity import TokenizerIdentity, compare_tokenizers

CERTAINLY_SOME = 50
"""Expected number of held-out documents at which the chance of none is below e^-50."""
FEW_DOCUMENTS = 1 << 20
"""A corpus of more is not looked through, whatever the share: a check takes two seconds at most."""


def corpus_findings(config: RunConfig, deep: bool, corpora: list[Corpus]) -> Iterator[Finding]:
    """Each corpus of the mixture: files, sizes, fingerprint, tokenizer; fills ``corpora``."""
    mixture = mixture_of(config.data)
    for source in mixture.sources:
        corpus = open_corpus(source.prefix)
        refuse_empty(source, corpus)
        if deep and not (verified := verify_corpus(source.prefix)).whole:
            problems = "; ".join(verified.problems)
            raise DataError(f"{source.prefix} is damaged: {problems}; rebuild it or restore its files")
        corpora.append(corpus)
        size = f"{corpus.documents:,} documents, {corpus.tokens:,} tokens"
        looked = "every byte read" if deep else "sizes fit"
        yield Finding("ok", "data", f"{source.name}: {size}, fingerprint {corpus.fingerprint[:12]}, {looked}")
    vocabulary = common_vocabulary(mixture, corpora, config)
    yield Finding("ok", "tokenizer", f"{vocabulary.size:,} ids, sha256 {vocabulary.fingerprint[:12]}")
    yield from pool_findings(config, mixture, corpora)
    if config.data.held_out_share and nothing_held_out(config, corpora):
        share = f"data.held_out_share={config.data.held_out_share:g}"
        text = f"no document is held out at {share}, and no evaluation is made; take --data.held-out-share 0.05 or so"
        yield Finding("open", "held out", text)


def remember_findings(config: RunConfig, tokenizer: TokenizerIdentity | None) -> Iterator[Finding]:
    """The text that is not to be forgotten: its corpora, and that they have the tokenizer of the data."""
    for source in read_mixture(config.observe.remember).sources:
        corpus = open_corpus(source.prefix)
        refuse_empty(source, corpus)
        said = ""
        if tokenizer is not None:
            remedy = "prepare that text with the same tokenizer"
            said = compare_tokenizers(tokenizer, corpus.tokenizer, str(source.prefix), remedy)
        yield Finding("ok", "remember", f"{source.name}: {corpus.documents:,} documents{said and f'; {said}'}")


def nothing_held_out(config: RunConfig, corpora: list[Corpus]) -> bool:
    """Whether no document falls on the held-out side. Looks only where that can be: many documents always have some."""
    spec = pack_spec(config.data, "held_out")
    documents = sum(corpus.documents for corpus in corpora)
    if documents * config.data.held_out_share > CERTAINLY_SOME or documents > FEW_DOCUMENTS:
        return False
    for corpus in corpora:
        native = native_corpus(corpus)
        if all(hash_path(pair.prefix, pair.fingerprint).is_file() for pair in corpus.pairs):
            hashes = text_hashes(corpus, native, threads=1)[:]
        else:  # made here and not kept: a check writes nothing
            hashes = _native.text_hashes(native, 0, corpus.documents, 1)
        packed = _native.pack_blocks(
            native, 0, -(-corpus.documents // _native.BLOCK_DOCUMENTS), row_length=spec.row_length,
            piece_length=spec.piece_length, concatenated=spec.packing == "concatenate", hashes=hashes, key=split_key(),
            below=spec.below, held_out=True, threads=1,
        )  # fmt: skip
        if any(rows for _, _, rows, _ in packed):
            return False
    return True


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
        tokens = 0.0  # held-out documents and special tokens are not considered
        for source, corpus in zip(mixture.sources, corpora, strict=True):
            wanted = mixture.tokens_wanted(source)
            tokens += corpus.tokens * source.amount if wanted is None else wanted
        rows, about, detail = round(tokens / spec.row_length), "about ", "; the pack index is built at the first start"
    passes = config.schedule.tokens / max(1.0, tokens)
    epochs = f"the stage reads {passes:.2f} times that"
    yield Finding("ok", "rows", f"{about}{rows:,} rows of {spec.row_length} in the pool; {epochs}{detail}")
