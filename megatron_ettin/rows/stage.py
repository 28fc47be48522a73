"""The data of one stage: which rows a step reads, and those rows as batches. A pure function of the settings."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megatron_ettin import _native
from megatron_ettin.batch import Batch
from megatron_ettin.config.objective import OBJECTIVES, Objective, ObjectiveName
from megatron_ettin.config.run import RunConfig
from megatron_ettin.corpus.reader import Corpus, open_corpus
from megatron_ettin.errors import ConfigError, DataError
from megatron_ettin.machine import cores
from megatron_ettin.rows.assembly import mask_rule
from megatron_ettin.rows.mixture import Mixture, MixtureSource, read_mixture
from megatron_ettin.rows.order import Permutation, Rows, StageOrder
from megatron_ettin.rows.packing import PackIndex, Side, open_pack, pack_spec
from megatron_ettin.rows.pool import Pool, PoolRows, build_pool
from megatron_ettin.rows.streams import (
    FIXED_SEED,
    STAGE_NUMBERS,
    Stream,
    permutation_keys,
    stream_key,
)
from megatron_ettin.schedule import BatchSchedule, batch_schedule

FRAME = ("[CLS]", "[SEP]", "[PAD]", "[MASK]")
"""Special tokens that rows and masks need."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What rows need to know of the tokenizer."""

    size: int
    """Number of ids, added tokens included."""
    special_ids: dict[str, int]
    fingerprint: str


class StageData:
    """Rows, order, masks and batches of one stage. Open with ``open_stage``. Safe to use from several threads."""

    def __init__(
        self, config: RunConfig, mixture: Mixture, corpora: list[Corpus], packs: list[PackIndex], threads: int
    ) -> None:
        self.config, self.mixture, self.corpora, self.packs = config, mixture, corpora, packs
        self.threads = threads
        self.vocabulary = common_vocabulary(mixture, corpora, config)
        self.pool: Pool = build_pool(mixture, packs)
        self.plan: BatchSchedule = batch_schedule(config.batch, config.data.row_length)
        self.order = StageOrder(self.pool.rows, config.data.seed, STAGE_NUMBERS[config.stage])
        self._assemblers: dict[tuple[ObjectiveName, Side], _native.Assembler] = {}

    @property
    def sources(self) -> list[str]:
        """Names of the sources, as ``Batch.sources_B`` counts them."""
        return [source.name for source in self.mixture.sources]

    @property
    def special_ids(self) -> dict[str, int]:
        """Content of each special token and its id."""
        return self.vocabulary.special_ids

    @property
    def tokenizer_json(self) -> Path:
        """The tokenizer that made the ids."""
        return self.corpora[0].tokenizer_json

    @property
    def pool_rows(self) -> int:
        """Rows of one epoch."""
        return self.pool.rows

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of each source's corpus, by name."""
        return dict(zip(self.sources, (corpus.fingerprint for corpus in self.corpora), strict=True))

    @cached_property
    def fingerprint(self) -> str:
        """A sha256 of everything that determines which rows a step reads: corpora, mixture, packing, seed, batches."""
        data = self.config.data
        content = {
            "corpora": self.fingerprints,
            "pool": [[source.name, source.rows, source.pool_rows] for source in self.pool.sources],
            "rows": [data.row_length, data.piece_length, data.packing, data.held_out_share],
            "order": [data.seed, STAGE_NUMBERS[self.config.stage], self.plan.table],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def rows_at(self, step: int) -> tuple[int, int]:
        """(Rows consumed before a step, rows of the step). Steps count from 0."""
        return self.plan.rows_at(step)

    def step_of_row(self, consumed: int) -> int:
        """The step that consumes the row with this number in the order; the inverse of ``rows_at``."""
        return self.plan.step_of_row(consumed)

    def step_rows(self, step: int) -> Rows:
        """The pool rows of a step, in order, shape [rows of the step]; numbers count on over epochs."""
        return self.order.at(*self.rows_at(step))

    def resolve(self, pool_rows: ArrayLike) -> PoolRows:
        """Source, pass and row of some pool rows."""
        return self.pool.resolve(pool_rows)

    def row_tokens(self, pool_rows: ArrayLike) -> NDArray[np.int64]:
        """Tokens seen in each row, without reading text. Shape [rows]."""
        resolved = self.resolve(pool_rows)
        tokens = np.zeros(len(resolved.rows), np.int64)
        for index in np.unique(resolved.sources):
            chosen = resolved.sources == index
            tokens[chosen] = self.packs[index].native.row_tokens(resolved.rows[chosen])
        return tokens

    def batch(self, pool_rows: ArrayLike, objective: ObjectiveName) -> Batch:
        """Some rows of the pool as a batch. Raises DataError, naming file and offset, when text cannot be read."""
        numbers = np.asarray(pool_rows, np.int64).reshape(-1)
        return self.assemble(numbers, self.resolve(numbers), objective)

    def assemble(self, numbers: Rows, resolved: PoolRows, objective: ObjectiveName) -> Batch:
        """``batch`` for rows that are resolved already."""
        native = self.assembler(objective, "train")
        parts = native.assemble(resolved.rows, resolved.sources, resolved.passes)
        return as_batch(parts, numbers, resolved.sources, self)

    def assembler(self, objective: ObjectiveName, side: Side) -> _native.Assembler:
        """The native code that builds batches of one objective."""
        if (objective, side) not in self._assemblers:
            packs = self.packs if side == "train" else self.held_out_packs
            self._assemblers[objective, side] = self._new_assembler(OBJECTIVES[objective], packs, side)
        return self._assemblers[objective, side]

    def _new_assembler(self, objective: Objective, packs: list[PackIndex], side: Side) -> _native.Assembler:
        specials = self.special_ids
        row_format = _native.RowFormat(
            row_length=self.config.data.row_length,
            cls_id=specials["[CLS]"],
            sep_id=specials["[SEP]"],
            pad_id=specials["[PAD]"],
            always_ends=objective.always_ends,
            masked=objective.masked,
            label_offset=objective.label_offset,
            mask=mask_rule(self.config.data, self.vocabulary.size, specials, self.corpora[0].eod),
        )
        sources = [self._native_source(index, pack, side) for index, pack in enumerate(packs)]
        return _native.Assembler(sources=sources, format=row_format)

    def _native_source(self, index: int, pack: PackIndex, side: Side) -> _native.SourceRows:
        seed, stage = self.config.data.seed, STAGE_NUMBERS[self.config.stage]
        choice, replacement = Stream.CHOICE, Stream.REPLACEMENT
        if side == "held_out":  # the same masks in every stage and run, so that losses compare
            seed, stage = FIXED_SEED, 0
            choice, replacement = Stream.HELD_OUT_CHOICE, Stream.HELD_OUT_REPLACEMENT
        return _native.SourceRows(
            corpus=pack.corpus,
            pack=pack.native,
            name=self.mixture.sources[index].name,
            choice_key=stream_key(seed, choice, stage, index),
            replacement_key=stream_key(seed, replacement, stage, index),
        )

    @cached_property
    def held_out_packs(self) -> list[PackIndex]:
        """Pack indexes of the held-out documents, one a source."""
        if not self.config.data.held_out_share:
            raise ConfigError("data.held_out_share=0 holds nothing out; set it above 0 to evaluate")
        spec = pack_spec(self.config.data, "held_out")
        return [open_pack(corpus, spec, self.threads) for corpus in self.corpora]

    @property
    def held_out_rows(self) -> int:
        """Rows of held-out documents in all sources."""
        return sum(pack.rows for pack in self.held_out_packs)

    def held_out(self, objective: ObjectiveName, rows: int, batch_rows: int | None = None) -> list[Batch]:
        """Up to ``rows`` held-out rows as batches of ``batch_rows`` (default: the micro-batch of the layout).

        The same rows and masks for every run on this mixture. Rows of padding complete the last batch; they have
        number -1 and no labels. Raises DataError when no document is held out.
        """
        size = batch_rows or self.config.layout.micro_batch_rows
        if self.held_out_rows == 0:
            documents = sum(corpus.documents for corpus in self.corpora)
            raise DataError(
                f"none of the {documents} documents is held out at data.held_out_share="
                f"{self.config.data.held_out_share}; set a larger share, or give more documents"
            )
        firsts = np.concatenate(([0], np.cumsum([pack.rows for pack in self.held_out_packs])))
        order = Permutation(self.held_out_rows, permutation_keys(FIXED_SEED, Stream.HELD_OUT_ORDER, 0, 0))
        chosen = order.at(np.arange(min(rows, self.held_out_rows)))
        sources = np.searchsorted(firsts, chosen, side="right").astype(np.int32) - 1
        missing = -len(chosen) % size
        numbers = np.concatenate((chosen - firsts[sources], np.full(missing, -1)))
        sources = np.concatenate((sources, np.zeros(missing))).astype(np.int32)
        native = self.assembler(objective, "held_out")
        return [
            as_batch(
                native.assemble(numbers[i : i + size], sources[i : i + size], np.zeros(size, np.uint32)),
                numbers[i : i + size], sources[i : i + size], self,
            )
            for i in range(0, len(numbers), size)
        ]  # fmt: skip


def as_batch(parts: dict[str, NDArray[np.int32]], rows: Rows, sources: NDArray[np.int32], stage: StageData) -> Batch:
    """What the native code made, as a Batch."""
    length = stage.config.data.row_length
    return Batch(
        input_ids_BT=parts["input_ids"].reshape(-1, length),
        positions_BT=parts["positions"].reshape(-1, length),
        cu_seqlens_S=parts["segments"],
        label_positions_L=parts["label_positions"],
        label_ids_L=parts["label_ids"],
        rows_B=rows,
        sources_B=sources,
        tokens=int(parts["tokens"]),
    )


def common_vocabulary(mixture: Mixture, corpora: list[Corpus], config: RunConfig) -> Vocabulary:
    """The tokenizer that all sources share. Raises DataError naming two sources that differ."""
    first = corpora[0].manifest.tokenizer
    for source, corpus in zip(mixture.sources, corpora, strict=True):
        other = corpus.manifest.tokenizer
        if (other.sha256, corpus.eod) != (first.sha256, corpora[0].eod):
            raise DataError(
                f"sources {mixture.sources[0].name!r} and {source.name!r} were made by different tokenizers or differ "
                f"in --append-eod ({first.sha256[:12]} {corpora[0].eod}, {other.sha256[:12]} {corpus.eod}); "
                "prepare both in the same way"
            )
    missing = [name for name in FRAME if name not in first.special_ids]
    if missing:
        raise DataError(
            f"the tokenizer of {corpora[0].prefix} has no {' '.join(missing)}; rows need {' '.join(FRAME)}: "
            "prepare the text with a tokenizer that has them, such as one from `ettin tokenizer train`"
        )
    if 0 < config.model.vocabulary < first.vocabulary:
        raise ConfigError(
            f"model.vocabulary={config.model.vocabulary} is smaller than the tokenizer of {corpora[0].prefix} with "
            f"{first.vocabulary} ids; set model.vocabulary to {first.vocabulary}"
        )
    return Vocabulary(size=first.vocabulary, special_ids=first.special_ids, fingerprint=first.sha256)


def refuse_empty(source: MixtureSource, corpus: Corpus) -> None:
    """Raise DataError where a source has no text."""
    if corpus.tokens == 0:
        what = "only empty documents" if corpus.documents else "no documents"
        raise DataError(
            f"source {source.name!r} ({source.prefix}) has {what}; prepare text for it, or take it out of the mixture"
        )


def open_stage(config: RunConfig, threads: int | None = None) -> StageData:
    """Open the data of a run; builds the pack indexes of its corpora where they are missing.

    With the pack indexes there, it costs milliseconds and a few MiB whatever the size. Raises DataError or ConfigError
    naming the source and the rule.
    """
    if not config.data.data:
        raise ConfigError("data.data is empty; give a mixture file or the prefix of a corpus with --data")
    count = threads or cores()
    mixture = read_mixture(config.data.data)
    corpora = [open_corpus(source.prefix) for source in mixture.sources]
    common_vocabulary(mixture, corpora, config)
    for source, corpus in zip(mixture.sources, corpora, strict=True):
        refuse_empty(source, corpus)
    spec = pack_spec(config.data)
    packs = [open_pack(corpus, spec, count) for corpus in corpora]
    return StageData(config, mixture, corpora, packs, count)


def with_data(config: RunConfig, data: str) -> RunConfig:
    """The same run on another mixture file or corpus."""
    return replace(config, data=replace(config.data, data=data))
