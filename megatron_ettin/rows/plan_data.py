"""The data of all stages of a plan, looked at before the first one starts."""

from __future__ import annotations

from collections.abc import Sequence

from megatron_ettin.errors import ConfigError, DataError
from megatron_ettin.plans.resolve import Stage
from megatron_ettin.rows.run_data import open_corpora


def refuse_bad_data(stages: Sequence[Stage]) -> None:
    """Raise DataError or ConfigError for data that cannot be read, or that was made by several tokenizers."""
    tokenizers: dict[str, str] = {}
    for stage in stages:
        if not stage.config.data.data:
            raise ConfigError(f"stage {stage.name!r}: data.data is empty; give --data, or --data {stage.name}=PREFIX")
        _, _, vocabulary = open_corpora(stage.config)
        tokenizers.setdefault(vocabulary.fingerprint, stage.name)
    if len(tokenizers) > 1:
        raise DataError(
            f"the data of the stages {', '.join(tokenizers.values())} was made by different tokenizers; a model keeps "
            "its own through all stages: prepare the text of all with one"
        )
