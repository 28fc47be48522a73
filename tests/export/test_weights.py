"""A file of weights is that of safetensors, written while the next tensor is made; what fails is told."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from megatron_ettin.export.weights import save_weights

SHAPES = {"b": (300, 70), "a": (7,), "c": (1,), "d": (2, 3, 4)}


def some_tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("flush", [True, False])
def test_a_file_is_byte_for_byte_that_of_safetensors(dtype: torch.dtype, flush: bool, tmp_path: Path) -> None:
    tensors = some_tensors()
    save_weights(tmp_path / "ours", tensors, SHAPES, dtype, flush=flush)
    save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, tmp_path / "theirs", {"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_a_disk_that_takes_no_more_is_told_before_the_next_tensor_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors, made = some_tensors(), []

    class Counted(Mapping[str, Tensor]):
        def __getitem__(self, name: str) -> Tensor:
            made.append(name)
            return tensors[name]

        def __iter__(self) -> Iterator[str]:
            return iter(tensors)

        def __len__(self) -> int:
            return len(tensors)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("megatron_ettin.export.weights.FLUSH_EVERY", 1)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_weights(tmp_path / "ours", Counted(), SHAPES, torch.float32)
    assert made == ["a"]
