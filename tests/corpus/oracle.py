"""What Megatron-LM's tools/preprocess_data.py does, step by step, with `tokenizers` and Megatron-Core's own writer."""

from __future__ import annotations

import json
from pathlib import Path


def encode_record(data: dict, keys: list[str], tokenizer, eod: int | None) -> dict[str, tuple[list[int], list[int]]]:
    """(ids, sentence lengths) of each key: Megatron's Encoder.encode, without template specials."""
    result = {}
    for key in keys:
        text = data[key]
        ids: list[int] = []
        lengths: list[int] = []
        for sentence in text if isinstance(text, list) else [text]:
            found = tokenizer.encode(sentence, add_special_tokens=False).ids
            if len(found) > 0:
                ids.extend(found)
                lengths.append(len(found))
        if len(ids) > 0 and eod is not None:
            ids.append(eod)
            lengths[-1] += 1
        result[key] = (ids, lengths)
    return result


def write_megatron(records, prefix: Path, tokenizer_json: Path, keys=("text",), eod=None, level="document") -> None:
    """Write ``{prefix}_{key}_{level}.bin`` and ``.idx`` with Megatron-Core's IndexedDatasetBuilder."""
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_json))
    dtype = DType.optimal_dtype(tokenizer.get_vocab_size(with_added_tokens=True))
    builders = {key: IndexedDatasetBuilder(f"{prefix}_{key}_{level}.bin", dtype=dtype) for key in keys}
    for record in records:
        for key, (ids, lengths) in encode_record(record, list(keys), tokenizer, eod).items():
            builders[key].add_document(ids, lengths)
    for key, builder in builders.items():
        builder.finalize(f"{prefix}_{key}_{level}.idx")


def read_lines(path: Path) -> list[dict]:
    """The records of a jsonl file."""
    with open(path, encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]
