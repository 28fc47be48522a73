"""Rows as batches: the rule that corrupts tokens, and the native code that builds the batches of one objective."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megatron_ettin import _native
from megatron_ettin.config.derived import stage_number
from megatron_ettin.config.objective import OBJECTIVES, ObjectiveName
from megatron_ettin.config.run import DataConfig, RunConfig
from megatron_ettin.rows.order import FIXED_SEED, RowNumbers, Stream, stream_key
from megatron_ettin.rows.packing import PackIndex, Side
from megatron_ettin.rows.pool import PoolRows
from megatron_ettin.tokenizer.special_tokens import CLS, MASK, PAD, SEP

LARGEST_DRAW = 2**32 - 1


def mask_shares(config: RunConfig, consumed: RowNumbers) -> NDArray[np.float64]:
    """The share of tokens chosen in the rows that the stage consumes as number ``consumed``, from 0. Shape [rows].

    From mask_share to mask_share_end by equal steps, over as many rows as hold the stage's tokens when each is full.
    """
    data = config.data
    passed = np.clip(consumed * data.row_length / config.schedule.tokens, 0.0, 1.0)
    return data.mask_share + (data.mask_share_end - data.mask_share) * passed


def draws_below(shares: NDArray[np.float64]) -> NDArray[np.uint32]:
    """Bounds on 32-bit draws: those below make up the share of all, to one part in 2^32."""
    bounds: NDArray[np.float64] = np.rint(shares * 2**32)
    return bounds.clip(max=LARGEST_DRAW).astype(np.uint32)


def mask_bounds(data: DataConfig, shares: ArrayLike) -> NDArray[np.uint32]:
    """Shares of chosen tokens as bounds on 32-bit draws: below them a token becomes [MASK], a random id, is predicted.

    Shape [shares, 3].
    """
    parts = np.array([data.mask_token_share, data.mask_token_share + data.random_token_share, 1.0])
    return draws_below(np.asarray(shares, np.float64).reshape(-1, 1) * parts)


def mask_rule(data: DataConfig, vocabulary: int, special_ids: dict[str, int], eod: int | None) -> _native.MaskRule:
    """The rule of a run with its share at the start; special tokens and eod are never chosen."""
    protected = set(special_ids.values()) | ({eod} if eod is not None else set())
    mask_below, random_below, chosen_below = mask_bounds(data, data.mask_share)[0].tolist()
    return _native.MaskRule(
        mask_below=mask_below,
        random_below=random_below,
        chosen_below=chosen_below,
        mask_id=special_ids[MASK],
        vocabulary=vocabulary,
        protected_ids=sorted(protected),
    )


def next_token_below(data: DataConfig) -> int:
    """Rows whose draw is below this are rows of next tokens, where a run mixes them with masked ones."""
    return int(draws_below(np.array([data.causal_share]))[0])


def draw_next_token(config: RunConfig, resolved: PoolRows) -> NDArray[np.bool_]:
    """Which training rows of a mixed run are rows of next tokens: what the assembler draws for them. Shape [rows]."""
    keys = {
        source: stream_key(config.data.seed, Stream.KIND, stage_number(config), source)
        for source in set(resolved.sources.tolist())
    }
    rows = zip(resolved.sources.tolist(), resolved.rows.tolist(), resolved.passes.tolist(), strict=True)
    draws = [_native.row_draws(keys[source], row, pass_number, 1)[0] for source, row, pass_number in rows]
    return np.array(draws, np.uint32) < next_token_below(config.data)


def make_assembler(
    config: RunConfig,
    rule: _native.MaskRule,
    special_ids: dict[str, int],
    packs: dict[str, PackIndex],
    objective: ObjectiveName,
    side: Side,
) -> _native.Assembler:
    """The native code that builds batches of one objective from the pack indexes of each source, by name."""
    seed, stage = config.data.seed, stage_number(config)
    choice, replacement = Stream.CHOICE, Stream.REPLACEMENT
    if side == "held_out":  # the same masks in every stage and run, so that losses compare
        seed, stage = FIXED_SEED, 0
        choice, replacement = Stream.HELD_OUT_CHOICE, Stream.HELD_OUT_REPLACEMENT
    sources = [
        _native.SourceRows(
            corpus=pack.corpus,
            pack=pack.native,
            name=name,
            choice_key=stream_key(seed, choice, stage, index),
            replacement_key=stream_key(seed, replacement, stage, index),
            kind_key=stream_key(seed, Stream.KIND, stage, index),
        )
        for index, (name, pack) in enumerate(packs.items())
    ]
    row_format = _native.RowFormat(
        row_length=config.data.row_length,
        cls_id=special_ids[CLS],
        sep_id=special_ids[SEP],
        pad_id=special_ids[PAD],
        always_ends=OBJECTIVES[objective].always_ends,
        masked=OBJECTIVES[objective].masked,
        label_offset=OBJECTIVES[objective].label_offset,
        mask=rule,
        next_token_below=next_token_below(config.data) if OBJECTIVES[objective].mixes else 0,
    )
    return _native.Assembler(sources=sources, format=row_format)
