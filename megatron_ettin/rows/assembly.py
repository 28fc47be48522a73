"""The rule that chooses and replaces tokens, as bounds on 32-bit draws."""

from __future__ import annotations

from megatron_ettin import _native
from megatron_ettin.config.run import DataConfig

LARGEST_DRAW = 2**32 - 1


def bound(share: float) -> int:
    """Draws below this make up ``share`` of all 32-bit draws, to one part in 2^32."""
    return min(round(share * 2**32), LARGEST_DRAW)


def mask_rule(data: DataConfig, vocabulary: int, special_ids: dict[str, int], eod: int | None) -> _native.MaskRule:
    """The rule of a run: shares from the settings; special tokens and eod are never chosen."""
    protected = set(special_ids.values()) | ({eod} if eod is not None else set())
    return _native.MaskRule(
        mask_below=bound(data.mask_share * data.mask_token_share),
        random_below=bound(data.mask_share * (data.mask_token_share + data.random_token_share)),
        chosen_below=bound(data.mask_share),
        mask_id=special_ids["[MASK]"],
        vocabulary=vocabulary,
        protected_ids=sorted(protected),
    )
