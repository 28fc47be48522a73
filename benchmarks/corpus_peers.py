"""The peers of the corpus builder, each run as a program of its own.

python benchmarks/corpus_peers.py NAME INPUT.jsonl PREFIX TOKENIZER.json WORKERS
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from pathlib import Path
from typing import Any

EOD = "<|endoftext|>"
CHUNK = 32
"""Lines a worker of Megatron-LM's pool takes at once."""


class PoolEncoder:
    """The Encoder of Megatron-LM's tools/preprocess_data.py, without template specials."""

    tokenizer: Any = None
    eod: int = 0

    def __init__(self, path: str) -> None:
        self.path = path

    def initializer(self) -> None:
        from tokenizers import Tokenizer

        PoolEncoder.tokenizer = Tokenizer.from_file(self.path)
        PoolEncoder.eod = PoolEncoder.tokenizer.token_to_id(EOD)

    def encode(self, line: str) -> tuple[list[int], list[int]]:
        ids = PoolEncoder.tokenizer.encode(json.loads(line)["text"], add_special_tokens=False).ids
        if not ids:
            return [], []
        ids.append(PoolEncoder.eod)
        return ids, [len(ids)]


def megatron(source: str, prefix: str, tokenizer: str, workers: int) -> None:
    """Megatron-LM's script: json, `tokenizers` and IndexedDatasetBuilder with a pool of processes."""
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder
    from tokenizers import Tokenizer

    vocabulary = Tokenizer.from_file(tokenizer).get_vocab_size(with_added_tokens=True)
    builder = IndexedDatasetBuilder(prefix + ".bin", dtype=DType.optimal_dtype(vocabulary))
    encoder = PoolEncoder(tokenizer)
    with (
        multiprocessing.Pool(workers, initializer=encoder.initializer) as pool,
        open(source, encoding="utf-8") as lines,
    ):
        for ids, lengths in pool.imap(encoder.encode, lines, CHUNK):
            builder.add_document(ids, lengths)
        pool.close()
        pool.join()
    builder.finalize(prefix + ".idx")


def gigatoken(source: str, prefix: str, tokenizer: str, workers: int) -> None:
    """Megatron-LM's tools/preprocess_data_fast.py: gigatoken's encode_files and IndexedDatasetBuilder.

    Its add_documents, which joins all ids at once, is written out, since Megatron-Core 0.16 does not have it.
    """
    import awkward
    import numpy as np
    from gigatoken import JsonlFileSource, Tokenizer
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    loaded = Tokenizer(tokenizer)
    eod = json.loads(Path(tokenizer).read_text())
    eod_id = next(token["id"] for token in eod["added_tokens"] if token["content"] == EOD)
    documents = loaded.encode_files(JsonlFileSource([source], "text"), parallel=workers > 1)
    column = awkward.singletons(awkward.Array(np.full(len(documents), eod_id, np.uint32)))
    documents = awkward.concatenate([documents, column], axis=1)
    builder = IndexedDatasetBuilder(prefix + ".bin", dtype=DType.optimal_dtype(loaded.vocab_size))
    lengths = awkward.to_numpy(awkward.num(documents)).tolist()
    builder.data_file.write(awkward.to_numpy(awkward.flatten(documents)).astype(builder.dtype).tobytes())
    builder.sequence_lengths.extend(lengths)
    builder.document_indices.extend(range(1, len(lengths) + 1))
    builder.finalize(prefix + ".idx")


def datatrove(source: str, prefix: str, tokenizer: str, workers: int) -> None:
    """datatrove's MegatronDocumentTokenizer; run by the Python that has datatrove."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import MegatronDocumentTokenizer

    folder = Path(prefix).parent
    LocalPipelineExecutor(
        pipeline=[
            JsonlReader(str(Path(source).parent), glob_pattern=Path(source).name),
            MegatronDocumentTokenizer(
                output_folder=str(folder),
                save_filename=Path(prefix).name,
                tokenizer_name_or_path=tokenizer,
                eos_token=EOD,
            ),
        ],
        tasks=1,
        workers=1,
        logging_dir=str(folder / f"{Path(prefix).name}.logs"),
    ).run()


PEERS = {"megatron": megatron, "gigatoken": gigatoken, "datatrove": datatrove}

if __name__ == "__main__":
    PEERS[sys.argv[1]](*sys.argv[2:5], int(sys.argv[5]))
