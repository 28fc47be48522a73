"""Where a model's prediction of a token is read: at the token itself, or one position before it."""

# T tokens of a text, V vocabulary

from __future__ import annotations

from typing import Any

from torch import Tensor

from megatron_ettin.export.config_json import OFFSET_FIELD


def prediction_positions(token_positions: Tensor, config: Any) -> Tensor:  # noqa: ANN401 - any transformers config
    """The positions whose logits predict the tokens at ``token_positions`` (which are never 0: [CLS] is there).

    The same for masked-language encoders, one before for MNTP encoders and decoders. ``config`` is a transformers
    config; folders of other makers do not state it, and their class decides.
    """
    offset = getattr(config, OFFSET_FIELD, None)
    if offset is None:
        offset = -1 if config.model_type == "modernbert-decoder" else 0
    return token_positions + int(offset)


def read_predictions(logits_TV: Tensor, token_positions: Tensor, config: Any) -> Tensor:  # noqa: ANN401
    """Logits for the tokens at ``token_positions``: shape [positions, V] of one text's [T, V]."""
    return logits_TV[prediction_positions(token_positions, config)]
