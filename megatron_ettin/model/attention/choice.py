"""Which back end computes the attention of which layer, and why. Never one that would be approximate."""

from __future__ import annotations

from megatron_ettin.parallel.megatron import genuine

import importlib.util
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

from megatron_ettin.config.derived import last_layer_can_narrow
from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.config.run import RunConfig
from megatron_ettin.errors import ConfigError
from megatron_ettin.model.attention.varlen import FLASH_3
from megatron_ettin.model.pattern import LayerKind, Reach, layer_kinds
from megatron_ettin.parallel.device import Device, compute_capability


@dataclass(frozen=True, kw_only=True)
class Installed:
    """What this machine offers to attention."""

    cuda: bool
    """A GPU computes."""
    hopper: bool = False
    """It is of the Hopper generation (compute capability 9)."""
    varlen: bool = False
    """torch's own variable-length kernel knows windows."""
    flash: bool = False
    """flash-attn 2 is installed."""
    flash_hopper: bool = False
    """flash-attn 3 is installed."""
    switch: bool = False
    """torch can have its variable-length attention computed by flash-attn 3."""
    flash_four: bool = False
    """flash-attn 4 is installed, and no other version in its place."""
    te: bool = False
    """NVIDIA's Transformer Engine is installed."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The back end of one layer."""

    layer: int
    backend: str
    """native, sdpa, varlen, flash or te."""
    reason: str
    """Why, in a few words, for the report at the start."""


def installed(device: Device) -> Installed:
    """Look at the device and the importable packages; imports none of them."""
    capability = compute_capability(device)
    if capability is None:
        return Installed(cuda=False)
    try:
        from torch.nn.attention.varlen import varlen_attn

        varlen = "window_size" in inspect.signature(varlen_attn).parameters
    except ImportError:
        varlen = False
    flash = is_package("flash_attn")
    return Installed(
        cuda=True,
        hopper=capability[0] == 9,
        varlen=varlen,
        flash=flash,
        flash_hopper=importlib.util.find_spec("flash_attn_interface") is not None,
        switch=varlen and has_switch(),
        flash_four=not flash and importlib.util.find_spec("flash_attn") is not None,
        te=genuine("transformer_engine"),
    )


def has_switch() -> bool:
    """Whether this torch can replace its FlashAttention 2 by version 3."""
    known = getattr(torch.nn.attention, "list_flash_attention_impls", list)
    return FLASH_3 in known()


def is_package(name: str) -> bool:
    """Whether a package has code of its own: flash-attn 4 alone leaves a folder with the name of the second."""
    found = importlib.util.find_spec(name)
    return found is not None and found.origin is not None


def choices(config: RunConfig, has: Installed) -> tuple[Choice, ...]:
    """The back end of every layer. Raises ConfigError when the one that was asked for cannot be exact here."""
    return tuple(choose(kind, config, has) for kind in layer_kinds(config))


def choose(kind: LayerKind, config: RunConfig, has: Installed) -> Choice:
    """The back end of one layer."""
    asked = config.compute.attention
    if asked != "auto":
        if obstacle := obstacles(asked, config, has):
            raise ConfigError(f"compute.attention={asked}: {obstacle}; use auto")
        return Choice(layer=kind.index, backend=asked, reason="asked for")
    for backend, reason in preferences(has):
        if not obstacles(backend, config, has):
            return Choice(layer=kind.index, backend=backend, reason=reason)
    found = "; ".join(f"{backend}: {obstacles(backend, config, has)}" for backend, _ in preferences(has))
    raise ConfigError(f"no attention back end is exact for this run ({found})")


def obstacles(backend: str, config: RunConfig, has: Installed) -> str:
    """Why a back end cannot compute this run exactly here; empty when it can."""
    compute, context = config.compute, config.layout.context
    if backend == "native":
        return "computes on a CPU only" if has.cuda else ""
    if backend == "sdpa":
        return "it cannot join the parts of a segment that lie on several context ranks" if context > 1 else ""
    if not has.cuda:
        return "needs a GPU"
    if compute.precision == "fp32":
        return "its kernels take 16-bit numbers only, and compute.precision is fp32"
    if backend == "flash":
        return "" if has.flash or (has.flash_hopper and has.hopper) else "flash-attn is not installed"
    if backend == "varlen":
        if not has.varlen:
            return "this torch has no variable-length attention with a window (2.11 has)"
        return ""  # its backward pass follows torch.use_deterministic_algorithms, which a deterministic run sets
    if not has.te:
        return "NVIDIA's Transformer Engine is not installed"
    if context > 1:
        return "its context parallelism cannot follow packed segments with a window"
    return "its choice of kernel is not deterministic" if compute.deterministic else ""


def preferences(has: Installed) -> Sequence[tuple[str, str]]:
    """Back ends of a machine with the reason for each, the fastest first; what would be faster is said."""
    if not has.cuda:
        return (("native", "the exact kernel of a CPU"),)
    sdpa = ("sdpa", "the only one that is exact for these settings, and slow")
    if by_flash_3(has):
        return (("varlen", "torch's own, computed by flash-attn 3"), ("flash", "flash-attn 3"), sdpa)
    if has.hopper and has.flash_hopper:
        return (("flash", "flash-attn 3, the fastest kernel here"), ("varlen", "torch's own FlashAttention 2"), sdpa)
    faster = "; flash-attn 3 (flash_attn_interface) would be faster" if has.hopper else ""
    unused = ", flash-attn 4 is not used" if has.flash_four else ""
    return (("varlen", f"torch's own FlashAttention 2{faster}{unused}"), ("flash", f"flash-attn 2{faster}"), sdpa)


def by_flash_3(has: Installed) -> bool:
    """Whether torch's variable-length attention is computed by flash-attn 3 here."""
    return has.hopper and has.flash_hopper and has.switch


NARROWING = ("native", "varlen", "flash")
"""Back ends that compute some queries of a piece against all its keys; with rows of both kinds the first alone."""


def last_layer_narrows(config: RunConfig, choice: Choice, layers: int) -> bool:
    """Whether the last layer restricts itself to the positions that are wanted behind it.

    `layers` of the last pipeline stage: without any, the last layer's output is sent on, in full.
    """
    able = ("native",) if OBJECTIVES[config.objective].mixes else NARROWING
    return last_layer_can_narrow(config) and choice.backend in able and layers > 0


def attention_report(made: Sequence[Choice], kinds: Sequence[LayerKind], narrows: bool) -> list[str]:
    """Lines for the log: consecutive numbers of like layers together, each with its reach, back end and reason."""
    pairs = zip(made, kinds, strict=True)
    rows = sorted((_seen(kind.reach), choice.backend, choice.reason, choice.layer) for choice, kind in pairs)
    lines = [
        f"attention of layers {', '.join(str(row[3]) for row in group)} ({sees}): {backend}, {reason}"
        for (sees, backend, reason), group in groupby(rows, key=lambda row: row[:3])
    ]
    return [*lines, f"layer {made[-1].layer} computes queries and MLP at labels only"] if narrows else lines


def _seen(reach: Reach) -> str:
    also = "" if reach.causal is None else f"; in rows of next tokens {_seen(reach.causal)}"
    if reach.left is None:
        return ("everything to the left" if reach.is_causal else "the whole piece") + also
    return f"{reach.left} to the left" + ("" if reach.is_causal else f", {reach.right} to the right") + also
