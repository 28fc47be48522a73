"""The order that Megatron-LM's partitions give: documents 0, n, 2n, ..., then 1, n + 1, ..., and so on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.corpus.build.journal import BuildState
from megatron_ettin.corpus.build.staging import OutputFiles
from megatron_ettin.corpus.checksum import ChecksummedWriter
from megatron_ettin.corpus.manifest import FileChecksum
from megatron_ettin.corpus.pair import map_numbers

BATCH = 4096
"""Documents whose bounds are read at once."""


def partition_order(documents: int, partitions: int) -> Iterator[NDArray[np.int64]]:
    """Document numbers in their new order, in batches."""
    for partition in range(partitions):
        numbers = np.arange(partition, documents, partitions, dtype=np.int64)
        yield from np.array_split(numbers, max(1, -(-len(numbers) // BATCH)))


def reorder(
    files: OutputFiles, state: BuildState, output: int, itemsize: int, partitions: int
) -> tuple[OutputFiles, FileChecksum]:
    """Write staged files in the new order beside the old; returns them and the checksum of the ids."""
    written = state.outputs[output]
    lengths = map_numbers(files.lengths, "<i4", written.sequences)
    ends = map_numbers(files.documents, "<i8", state.documents)
    tokens = map_numbers(files.tokens, "u1", written.bytes)
    hashes = map_numbers(files.hashes, "<u4", state.documents)
    starts = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64) * itemsize))
    moved = OutputFiles(*(path.with_name(f"ordered.{path.name}") for path in files))
    total = 0
    with contextlib.ExitStack() as stack:
        ids, sizes, bounds, keys = (stack.enter_context(open(path, "wb")) for path in moved)
        writer = ChecksummedWriter(ids)
        for numbers in partition_order(state.documents, partitions):
            lasts = np.asarray(ends[numbers], np.int64)
            firsts = np.where(numbers > 0, ends[np.maximum(numbers - 1, 0)], 0)
            for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
                sizes.write(lengths[first:last].tobytes())
                writer.write(tokens[starts[first] : starts[last]].tobytes())
            keys.write(hashes[numbers].tobytes())
            counts = np.cumsum(lasts - firsts) + total
            bounds.write(counts.astype("<i8").tobytes())
            total = int(counts[-1]) if len(counts) else total
    return moved, writer.written
