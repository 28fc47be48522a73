"""The tokenizer of a model under evaluation."""

from __future__ import annotations

from typing import Any

from megatron_ettin.errors import CheckpointError
from megatron_ettin.evaluate.suites.subjects import Subject


def tokenizer_of(subject: Subject) -> Any:  # noqa: ANN401 - transformers has no types
    """The subject's tokenizer. Raises CheckpointError when an encoder's lacks [CLS], [SEP] or [MASK]."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(subject.folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"the tokenizer of {subject.folder} cannot be read: {error}") from error
    needed = () if subject.causal else ("cls_token", "sep_token", "mask_token")
    missing = [name for name in needed if getattr(tokenizer, name) is None]
    if missing:
        raise CheckpointError(
            f"{subject.folder}: the tokenizer names no {', '.join(missing)}; add it to tokenizer_config.json"
        )
    return tokenizer
