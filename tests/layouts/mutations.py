"""Faults that the layout suite must notice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from unittest import mock

from torch import Tensor


@contextmanager
def seeded(name: str) -> Iterator[None]:
    """With a name, one of the reductions that make layouts agree is skipped inside the block."""
    with _FAULTS[name]() if name else mock.MagicMock():
        yield


def _halo_gradient() -> mock._patch:  # type: ignore[type-arg]
    from megatron_ettin.model.attention.exchange import Exchange

    return mock.patch.object(Exchange, "return_halo", lambda *_: None)


def _head_gradient() -> mock._patch:  # type: ignore[type-arg]
    from megatron_ettin.model.logits import VocabularyShard

    reduce = VocabularyShard.reduce_
    return mock.patch.object(
        VocabularyShard, "reduce_", lambda self, x, operation: x if x.dim() == 2 else reduce(self, x, operation)
    )


def _norm_gradient() -> mock._patch:  # type: ignore[type-arg]
    module = import_module("megatron.core.distributed.finalize_model_grads")
    return mock.patch.object(module, "_allreduce_non_tensor_model_parallel_grads", lambda *_, **__: None)


def _scatter(self: object, gradient_GN2D: Tensor) -> Tensor:
    axis = self.axis  # type: ignore[attr-defined]
    return gradient_GN2D.chunk(axis.size)[axis.rank]


def _gathered_gradient() -> mock._patch:  # type: ignore[type-arg]
    from megatron_ettin.model.attention.exchange import Exchange

    return mock.patch.object(Exchange, "scatter_sum", _scatter)


_FAULTS = {
    "halo": _halo_gradient,
    "head": _head_gradient,
    "norm": _norm_gradient,
    "gathered": _gathered_gradient,
}
