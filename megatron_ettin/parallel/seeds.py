"""Random numbers as functions of what they are for, never of call order."""

from __future__ import annotations

import megatron_ettin.parallel.megatron  # noqa: F401

import hashlib

import torch


def derive(*parts: int | str) -> int:
    """A 63-bit seed from the parts: the same on every machine, and unrelated for any two different lists of parts."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(device: torch.device | str, *parts: int | str) -> torch.Generator:
    """A generator on the device, seeded by the parts."""
    return torch.Generator(device).manual_seed(derive(*parts))


def seed_trackers(seed: int = 1) -> None:
    """Give Megatron-Core's generator tracker the states that it insists on; nothing of ours draws from them."""
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    model_parallel_cuda_manual_seed(seed, force_reset_rng=True)
