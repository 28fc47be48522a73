"""The first call of a GPU's attention kernel: on a few pieces, against torch's public function, before any training."""

# T tokens, N heads, D head size; the axis of three holds query, key, value

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate

import torch
from torch import Tensor

from megatron_ettin.errors import ConfigError
from megatron_ettin.model.attention import sdpa
from megatron_ettin.model.attention.core import Attend
from megatron_ettin.model.packed import PackedRows
from megatron_ettin.model.pattern import Reach

PIECES = (200, 1, 61)
"""Longer than the windows of the recipe, of one token, and shorter."""
ROUNDING = 0.03
"""Norm of the difference over the norm: bf16 rounds up to 1 % of outputs and gradients away, a wrong window a third."""


@contextmanager
def usable(backend: str) -> Iterator[None]:
    """Raise ConfigError where the package of a back end cannot be loaded, or its kernel not be run."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # whatever a foreign binary meets: missing symbols, libraries, kernels for this GPU
        raise ConfigError(
            f"attention {backend} cannot compute here: {type(error).__name__}: {error}; its package must be built for "
            f"torch {torch.__version__}, CUDA {torch.version.cuda} and this GPU: install such a build or remove it, or "
            "give another one by --compute.attention (varlen and sdpa are torch's)"
        ) from error


def require_exact(backend: str, attend: Attend, reach: Reach, heads: int, size: int, device: torch.device) -> None:
    """Compute a few pieces in bf16 by a back end. Raises ConfigError where it fails, or is not exact up to rounding."""
    packed = PackedRows(
        cu_seqlens=(0, *accumulate(PIECES)),
        positions_T=torch.cat([torch.arange(piece) for piece in PIECES]).to(device),
        first_token=0,
    )
    generator = torch.Generator().manual_seed(0)
    qkv_TN3D, weight_TND = (
        torch.randn(sum(PIECES), heads, *parts, size, generator=generator).bfloat16().to(device) for parts in ((3,), ())
    )
    for seen in {reach.of(causal=False), reach.of(causal=True)}:
        with usable(backend):
            found = _both_passes(attend, qkv_TN3D, weight_TND, seen, packed)
        exact = _both_passes(sdpa.attend, qkv_TN3D.float(), weight_TND.float(), seen, packed)
        for name, ours, theirs in zip(("outputs", "gradients"), found, exact, strict=True):
            error = float((ours.float() - theirs).norm() / theirs.norm())
            if not error < ROUNDING:
                raise ConfigError(
                    f"attention {backend} is not exact here: its {name} for a window of {seen.window} differ from the "
                    f"definition by {error:.1%}; install another version of its package, or give another one by "
                    "--compute.attention (sdpa is always exact)"
                )


def _both_passes(
    attend: Attend, qkv_TN3D: Tensor, weight_TND: Tensor, reach: Reach, packed: PackedRows
) -> tuple[Tensor, Tensor]:
    """Output, and gradient of its weighted sum."""
    input_TN3D = qkv_TN3D.detach().requires_grad_()
    output_TND = attend(input_TN3D, reach, packed, None, None)
    (gradient_TN3D,) = torch.autograd.grad((output_TND * weight_TND).sum(), input_TN3D)
    return output_TND.detach(), gradient_TN3D
