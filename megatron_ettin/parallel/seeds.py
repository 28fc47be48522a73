"""Random numbers as functions of what they are for, never of call order."""

from __future__ import annotations

import hashlib

import torch


def derive(*parts: int | str) -> int:
    """A 63-bit seed from the parts: the same on every machine, and unrelated for any two different lists of parts."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(device: torch.device | str, *parts: int | str) -> torch.Generator:
    """A generator on the device, seeded by the parts."""
    return torch.Generator(device).manual_seed(derive(*parts))
