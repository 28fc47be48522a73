"""Paired encoder and decoder pretraining on Megatron-Core: what a program may call. `docs/python.md` shows each in use.

Importing this costs nothing: a name is looked up where it stands when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import megatron_ettin._native  # noqa: F401 - the extension, which has no types
    from megatron_ettin.api import build_model, export_run, load_weights, logits
    from megatron_ettin.corpus.reader import open_corpus
    from megatron_ettin.replay.replay import open_run_data
    from megatron_ettin.replay.replay import seen_step as rows_of_step

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "build_model",
    "export_run",
    "load_weights",
    "logits",
    "open_corpus",
    "open_run_data",
    "rows_of_step",
]

_PLACES = {
    "build_model": ("megatron_ettin.api", "build_model"),
    "export_run": ("megatron_ettin.api", "export_run"),
    "load_weights": ("megatron_ettin.api", "load_weights"),
    "logits": ("megatron_ettin.api", "logits"),
    "open_corpus": ("megatron_ettin.corpus.reader", "open_corpus"),
    "open_run_data": ("megatron_ettin.replay.replay", "open_run_data"),
    "rows_of_step": ("megatron_ettin.replay.replay", "seen_step"),
}
"""Public name -> the module where it stands and its name there."""


if not TYPE_CHECKING:  # a type checker would take any name for one of the package's

    def __getattr__(name: str) -> Any:
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, own_name = _PLACES[name]
        value = getattr(import_module(module), own_name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
