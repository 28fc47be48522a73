"""Rows as batches: the rule that corrupts tokens, and the native code that builds the batches of one objective."""

from __future__ import annotations

from megatron_ettin import _native
from megatron_ettin.config.objective import OBJECTIVES, ObjectiveName
from megatron_ettin.config.run import DataConfig, RunConfig
from megatron_ettin.rows.order import FIXED_SEED, Stream, stage_number, stream_key
from megatron_ettin.rows.packing import PackIndex, Side
from megatron_ettin.tokenizer.special_tokens import CLS, MASK, PAD, SEP

LARGEST_DRAW = 2**32 - 1


def mask_rule(data: DataConfig, vocabulary: int, special_ids: dict[str, int], eod: int | None) -> _native.MaskRule:
    """The rule of a run as bounds on 32-bit draws; special tokens and eod are never chosen."""

    def draws_below(share: float) -> int:
        """Draws below this make up ``share`` of all, to one part in 2^32."""
        return min(round(share * 2**32), LARGEST_DRAW)

    protected = set(special_ids.values()) | ({eod} if eod is not None else set())
    return _native.MaskRule(
        mask_below=draws_below(data.mask_share * data.mask_token_share),
        random_below=draws_below(data.mask_share * (data.mask_token_share + data.random_token_share)),
        chosen_below=draws_below(data.mask_share),
        mask_id=special_ids[MASK],
        vocabulary=vocabulary,
        protected_ids=sorted(protected),
    )


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
    )
    return _native.Assembler(sources=sources, format=row_format)
