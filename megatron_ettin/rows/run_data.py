"""The data of a run: which rows a step reads, and those rows as batches. A pure function of the settings."""

# B rows, T tokens of a row, L labels, S segments

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from megatron_ettin import _native
from megatron_ettin.batch import Batch
from megatron_ettin.config.derived import stage_number
from megatron_ettin.config.objective import OBJECTIVES, ObjectiveName
from megatron_ettin.config.run import RunConfig
from megatron_ettin.corpus.reader import Corpus, open_corpus
from megatron_ettin.errors import ConfigError, DataError
from megatron_ettin.machine import cores
from megatron_ettin.rows.assembly import draw_next_token, make_assembler, mask_bounds, mask_rule, mask_shares
from megatron_ettin.rows.mixture import Mixture, MixtureSource, mixture_of, read_mixture
from megatron_ettin.rows.order import (
    FIXED_SEED,
    Permutation,
    RowNumbers,
    StageOrder,
    Stream,
    permutation_keys,
)
from megatron_ettin.rows.packing import PackIndex, Side, open_pack, pack_spec
from megatron_ettin.rows.pool import Pool, PoolRows, build_pool
from megatron_ettin.schedule import BatchSchedule, batch_schedule
from megatron_ettin.tokenizer.identity import TokenizerIdentity, compare_tokenizers
from megatron_ettin.tokenizer.special_tokens import CLS, ROLE_NAMES, ROW_TOKENS, SEP, missing_roles


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What rows need to know of the tokenizer."""

    size: int
    """Number of ids, added tokens included."""
    special_ids: dict[str, int]
    fingerprint: str
    tokenizer: TokenizerIdentity
    """What runs and checkpoints keep of it."""


class RunData:
    """Rows, order, masks and batches of a run, for training, evaluation and replay. Open with ``open_data``.

    Safe to use from several threads.
    """

    def __init__(
        self, config: RunConfig, mixture: Mixture, corpora: list[Corpus], packs: list[PackIndex], threads: int
    ) -> None:
        self.config, self.mixture, self.corpora, self.packs = config, mixture, corpora, packs
        self.threads = threads
        self.vocabulary = common_vocabulary(mixture, corpora, config)
        self.special_ids = self.vocabulary.special_ids
        """Content of each special token and its id."""
        self.tokenizer_json = corpora[0].tokenizer_json
        """The tokenizer that made the ids."""
        self.sources = [source.name for source in mixture.sources]
        """Names of the sources, as ``Batch.sources_B`` counts them."""
        self.pool: Pool = build_pool(mixture, packs)
        self.pool_rows = self.pool.rows
        """Rows of one epoch."""
        self.batch_schedule: BatchSchedule = batch_schedule(config.batch, config.data.row_length)
        self.order = StageOrder(self.pool_rows, config.data.seed, stage_number(config), config.data.first_row)
        self._assemblers: dict[tuple[ObjectiveName, Side], _native.Assembler] = {}

    @cached_property
    def fingerprint(self) -> str:
        """A sha256 of everything that determines which rows a step reads: corpora, mixture, packing, seed, batches."""
        data = self.config.data
        order = [data.seed, stage_number(self.config), self.batch_schedule.table]
        content = {
            "corpora": {name: corpus.fingerprint for name, corpus in zip(self.sources, self.corpora, strict=True)},
            "pool": [[source.name, source.rows, source.pool_rows] for source in self.pool.sources],
            "rows": [data.row_length, data.piece_length, data.packing, data.held_out_share],
            "order": [*order, data.first_row] if data.first_row else order,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def step_rows(self, step: int) -> RowNumbers:
        """The pool rows of a step, from 0, in order, shape [rows of the step]; numbers count on over epochs."""
        return self.order.at(*self.batch_schedule.rows_at(step))

    def batch(self, pool_rows: ArrayLike, objective: ObjectiveName) -> Batch:
        """Some rows of the pool as a batch. Raises DataError, naming file and offset, when text cannot be read."""
        numbers = np.asarray(pool_rows, np.int64).reshape(-1)
        return self.assemble(numbers, self.pool.resolve(numbers), objective)

    def assemble(
        self,
        numbers: RowNumbers,
        resolved: PoolRows,
        objective: ObjectiveName,
        side: Side = "train",
        first_row: int = 0,
    ) -> Batch:
        """``batch`` for rows that are resolved already, called ``numbers``; first is row ``first_row`` of a step."""
        if (objective, side) not in self._assemblers:
            rule = mask_rule(self.config.data, self.vocabulary.size, self.special_ids, self.corpora[0].eod)
            packs = dict(zip(self.sources, self.packs if side == "train" else self.held_out_packs, strict=True))
            made = make_assembler(self.config, rule, self.special_ids, packs, objective, side)
            self._assemblers[objective, side] = made
        bounds = None
        if side == "train" and self.config.data.mask_share_end and OBJECTIVES[objective].masked:
            bounds = mask_bounds(self.config.data, mask_shares(self.config, self.order.position_of(numbers)))
        parts = self._assemblers[objective, side].assemble(resolved.rows, resolved.sources, resolved.passes, bounds)
        causal_B = None
        if OBJECTIVES[self.config.objective].mixes:  # rows of both kinds are told apart
            alike = np.full(len(numbers), OBJECTIVES[objective].causal)
            causal_B = parts["next_token"].astype(np.bool_) if OBJECTIVES[objective].mixes else alike
        return Batch(
            input_ids_BT=parts["input_ids"].reshape(-1, self.config.data.row_length),
            positions_BT=parts["positions"].reshape(-1, self.config.data.row_length),
            cu_seqlens_S=parts["segments"],
            label_positions_L=parts["label_positions"],
            label_ids_L=parts["label_ids"],
            rows_B=numbers,
            sources_B=resolved.sources,
            tokens=int(parts["tokens"]),
            first_row=first_row,
            causal_B=causal_B,
        )

    def row_objectives(self, pool_rows: ArrayLike) -> list[ObjectiveName]:
        """By which objective each row is trained on: the run's own, or the one that is drawn for it. Reads no text."""
        resolved, kinds = self.pool.resolve(pool_rows), OBJECTIVES[self.config.objective].row_kinds
        if not kinds:
            return [self.config.objective] * len(resolved.rows)
        drawn = draw_next_token(self.config, resolved)
        return [kinds[int(next_token)] for next_token in drawn]

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
        resolved = PoolRows(
            sources=np.concatenate((sources, np.zeros(missing))).astype(np.int32),
            passes=np.zeros(len(numbers), np.uint32),
            rows=numbers,
        )
        return [
            self.assemble(numbers[i : i + size], resolved.part(i, i + size), objective, "held_out")
            for i in range(0, len(numbers), size)
        ]


def stored_vocabulary(config: RunConfig) -> int:
    """Length of the tokenizer of the run's data, as its first source has it; compares it with no other source."""
    first = read_mixture(config.data.data).sources[0]
    return open_corpus(first.prefix).manifest.tokenizer.vocabulary


def common_vocabulary(mixture: Mixture, corpora: list[Corpus], config: RunConfig) -> Vocabulary:
    """The tokenizer that all sources share. Raises DataError naming two sources that differ, or roles without token."""
    first = corpora[0].tokenizer
    roles: dict[str, int] = {}
    for source, corpus in zip(mixture.sources, corpora, strict=True):
        other = corpora[0].tokenizer_difference(corpus)
        if other != "" or corpus.eod != corpora[0].eod:
            what = f"eod {corpora[0].eod}, {corpus.eod}" if other == "" else other or "one has no fingerprint"
            raise DataError(
                f"sources {mixture.sources[0].name!r} and {source.name!r} were made by different tokenizers or differ "
                f"in --append-eod ({what}); prepare both in the same way"
            )
        roles = corpus.manifest.tokenizer.special_ids | roles
    if missing := missing_roles(roles):
        flags = " ".join(f"{role}=TOKEN" for role in missing)
        raise DataError(
            f"the tokenizer of {corpora[0].prefix} has no {' '.join(ROLE_NAMES[role] for role in missing)}; rows need "
            f"{' '.join(ROW_TOKENS)}: name the tokens that take these roles by the command that prepared the text with "
            f"--special {flags}, which builds nothing anew, or take a tokenizer that has them, such as one from "
            "`ettin tokenizer train`"
        )
    if len({roles[name] for name in ROW_TOKENS}) < len(ROW_TOKENS) - (roles[CLS] == roles[SEP]):
        found = ", ".join(f"{name} {roles[name]}" for name in ROW_TOKENS)
        raise DataError(
            f"the tokenizer of {corpora[0].prefix} has one token for several roles ({found}); [PAD] and [MASK] need "
            "tokens of their own: name others by the command that prepared the text with --special pad=TOKEN mask=TOKEN"
        )
    if 0 < config.model.vocabulary < first.vocabulary:
        raise ConfigError(
            f"model.vocabulary={config.model.vocabulary} is smaller than the tokenizer of {corpora[0].prefix} with "
            f"{first.vocabulary} ids; set model.vocabulary to {first.vocabulary}"
        )
    tokenizer = replace(first, special_ids=roles)
    return Vocabulary(size=first.vocabulary, special_ids=roles, fingerprint=first.sha256, tokenizer=tokenizer)


def refuse_empty(source: MixtureSource, corpus: Corpus) -> None:
    """Raise DataError where a source has no text."""
    if corpus.tokens == 0:
        what = "only empty documents" if corpus.documents else "no documents"
        raise DataError(
            f"source {source.name!r} ({source.prefix}) has {what}; prepare text for it, or take it out of the mixture"
        )


def open_corpora(config: RunConfig) -> tuple[Mixture, list[Corpus], Vocabulary]:
    """The corpora of a run and what they have in common. Raises DataError or ConfigError naming the source."""
    mixture = mixture_of(config.data)
    corpora = [open_corpus(source.prefix) for source in mixture.sources]
    vocabulary = common_vocabulary(mixture, corpora, config)
    for source, corpus in zip(mixture.sources, corpora, strict=True):
        refuse_empty(source, corpus)
    return mixture, corpora, vocabulary


def open_remembered(config: RunConfig, tokenizer: TokenizerIdentity, threads: int | None = None) -> RunData | None:
    """The text that is not to be forgotten (``observe.remember``), held-out side ready; None: none is named.

    The split is that of the run, so that a mixture may replay some of this text. Raises DataError for text of which
    nothing is held out, or of another tokenizer.
    """
    if not config.observe.remember:
        return None
    chosen = replace(config.data, data=config.observe.remember, stage_number=-1, first_row=0)
    found = open_data(replace(config, data=chosen), threads)
    where = f"observe.remember={config.observe.remember}"
    compare_tokenizers(tokenizer, found.vocabulary.tokenizer, where, "prepare that text with the same tokenizer")
    if not config.data.held_out_share or not found.held_out_rows:
        raise DataError(
            f"{where}: none of its documents is held out at data.held_out_share={config.data.held_out_share:g}; set a "
            "larger share, or give more of that text"
        )
    return found


def open_data(config: RunConfig, threads: int | None = None) -> RunData:
    """Open the data of a run; builds the pack indexes of its corpora where they are missing.

    With the pack indexes there, it costs milliseconds and a few MiB whatever the size. Raises DataError or ConfigError
    naming the source and the rule.
    """
    if not config.data.data:
        raise ConfigError("data.data is empty; give a mixture file or the prefix of a corpus with --data")
    count = threads or cores()
    mixture, corpora, _ = open_corpora(config)
    spec = pack_spec(config.data)
    packs = [open_pack(corpus, spec, count) for corpus in corpora]
    return RunData(config, mixture, corpora, packs, count)
