"""``ettin merge-weights A B C --output OUT``: the weights of several models joined into one."""

from __future__ import annotations

import tyro

from megatron_ettin.derive.settings import MergeSettings
from megatron_ettin.heavy_imports import heavy_imports


def main(arguments: list[str]) -> int:
    """Merge and say what the proof found; status 0 when the folder is there."""
    settings = tyro.cli(MergeSettings, args=arguments, prog="ettin merge-weights")
    settings.refuse_contradictions()
    with heavy_imports():
        from megatron_ettin.commands.convert import summary
        from megatron_ettin.derive.merge import merge_weights
        from megatron_ettin.export.parity import import_models

        import_models()
    merge_weights(settings, print)
    print(f"{settings.output}: {summary(settings.output)}")
    return 0
