"""Tensors of a folder: safetensors only, checked by name and shape before their data is read."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from megatron_ettin.checkpoint.weights import LazyTensors, all_finite
from megatron_ettin.errors import CheckpointError
from megatron_ettin.typed_json import parse_json

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""Stored types that float32 holds exactly."""
FLUSH_EVERY = 32 << 20
"""Bytes of a file that are sent to the disk together: enough for full speed, few enough to begin early."""


def save_weights(
    path: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype,
    *, flush: bool = True,
) -> None:  # fmt: skip
    """Write one safetensors file of the named shapes, byte for byte as safetensors does; two tensors are in memory.

    Its own writer wants all of them. A thread writes one while the next is made, and with ``flush`` sends what it has
    written to the disk at once, so that a file that is to stay costs the longer of the two and not their sum.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    kind, begin = next(name for name, stored in DTYPES.items() if stored == dtype), 0
    for name in sorted(shapes):
        end = begin + math.prod(shapes[name]) * dtype.itemsize
        header[name] = {"dtype": kind, "shape": shapes[name], "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb", buffering=0) as file, ThreadPoolExecutor(1) as writer:

        def write(content: memoryview) -> None:
            before = file.tell()
            while content:
                content = content[file.write(content) :]
            if flush and before // FLUSH_EVERY < file.tell() // FLUSH_EVERY:
                os.fsync(file.fileno())

        written = writer.submit(write, memoryview(len(text).to_bytes(8, "little") + text))
        for name in sorted(shapes):
            made = tensors[name].detach().to(dtype).contiguous().view(torch.uint8).numpy()
            written.result()
            written = writer.submit(write, made.data.cast("B"))
        written.result()


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, one or those of its index; raises CheckpointError when there are none."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
        if pickles:
            raise CheckpointError(
                f"{folder} has its weights in {pickles[0]}, a pickle, which can run code when it is opened; "
                f"it is never read: convert it to {WEIGHTS} where you trust it"
            )
        raise CheckpointError(f"{folder} has neither {WEIGHTS} nor {INDEX}")
    try:
        names = sorted(set(parse_json((folder / INDEX).read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / INDEX} is no index of safetensors files: {error}") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{folder / INDEX} names {name!r}; only .safetensors files beside it are read")
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / INDEX} names {name}, which is missing: the folder is incomplete")
    return [folder / name for name in names]


class StoredTensors(LazyTensors):
    """The tensors of safetensors files in float32 (exact for the accepted types), each read when it is asked for.

    Raises CheckpointError for a name stored twice, NaN, infinity, other types.
    """

    shapes: dict[str, tuple[tuple[int, ...], str]]
    """Name -> (shape, stored type), from the headers alone."""

    def __init__(self, files: list[Path]) -> None:
        self.shapes = {}
        self._file_of: dict[str, Path] = {}
        for path in files:
            with _opened(path) as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    if name in self.shapes:
                        raise CheckpointError(f"tensor {name} is stored twice, the second time in {path}")
                    view = file.get_slice(name)
                    self.shapes[name] = (tuple(view.get_shape()), view.get_dtype())
                    self._file_of[name] = path
        super().__init__(self._file_of)

    def __getitem__(self, name: str) -> Tensor:
        path = self._file_of[name]
        with _opened(path) as file:
            tensor: Tensor = file.get_tensor(name)
        if tensor.dtype not in DTYPES.values():
            raise CheckpointError(f"tensor {name} of {path} is {tensor.dtype}; float32, bfloat16 and float16 are read")
        if not all_finite(tensor):
            raise CheckpointError(f"tensor {name} of {path} holds NaN or infinity")
        return tensor.float()


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file: {error}") from error
