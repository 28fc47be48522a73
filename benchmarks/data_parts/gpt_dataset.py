"""Run as a process of its own: Megatron-Core's GPTDataset on the same files, its index built and one sample served.

Prints {"seconds", "anonymous_mib"}; seconds are those of the build and the sample alone, without the imports.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from typing import Any

warnings.simplefilter("ignore")

import numpy as np  # noqa: E402
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig  # noqa: E402
from megatron.core.datasets.indexed_dataset import IndexedDataset  # noqa: E402
from megatron.core.datasets.utils import Split  # noqa: E402

from benchmarks.data_parts.probe import AnonymousPeak  # noqa: E402


class Tokenizer:
    """What GPTDataset asks a tokenizer for."""

    eod = 50279
    pad = 50283
    vocab_size = 50368
    unique_identifiers: dict[str, Any] = {"name": "none"}


def main() -> None:
    """Measure."""
    prefix, cache, tokens = sys.argv[1], sys.argv[2], int(sys.argv[3])
    memory, start = AnonymousPeak(), time.perf_counter()
    config = GPTDatasetConfig(
        random_seed=21, sequence_length=1024, path_to_cache=cache, tokenizer=Tokenizer(), split="1",
        reset_position_ids=False, reset_attention_mask=False, eod_mask_loss=False, create_attention_mask=False,
    )  # fmt: skip
    corpus = IndexedDataset(prefix, multimodal=False, mmap=True)
    documents = np.arange(len(corpus.sequence_lengths), dtype=np.int32)
    dataset = GPTDataset(corpus, prefix, documents, tokens // 1024, Split.train, config)
    dataset[0]
    print(json.dumps({"seconds": time.perf_counter() - start, "anonymous_mib": memory.close()}))


if __name__ == "__main__":
    main()
