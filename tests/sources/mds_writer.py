"""A plain twin of MosaicML Streaming's MDSWriter: writes shards and their index."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import zstandard

FIXED = {"int": 8, "uint32": 4}


def encode_value(value, encoding: str) -> bytes:
    """One column of one sample."""
    if encoding == "str":
        return value.encode()
    if encoding == "int":
        return np.int64(value).tobytes()
    parts = encoding.split(":")[1:]
    array = np.asarray(value, parts[0] if parts else None)
    out = b"" if parts else bytes([{"uint16": 16, "uint32": 32, "int32": 33, "int64": 65}[array.dtype.name]])
    if len(parts) < 2:
        kind = next(i for i, bits in enumerate((8, 16, 32, 64)) if max(array.shape) < 1 << bits)
        out += bytes([(array.ndim << 2) | kind]) + np.array(array.shape, f"u{1 << kind}").tobytes()
    return out + array.tobytes()


def encode_sample(sample: dict, columns: dict[str, str]) -> bytes:
    """Sizes of the columns of variable size, then all columns."""
    values = [encode_value(sample[name], encoding) for name, encoding in columns.items()]
    sizes = [len(value) for value, encoding in zip(values, columns.values(), strict=True) if encoding not in FIXED]
    return np.array(sizes, np.uint32).tobytes() + b"".join(values)


def encode_shard(samples: list[dict], columns: dict[str, str]) -> bytes:
    """A whole shard, not compressed."""
    names = sorted(columns)
    columns = {name: columns[name] for name in names}
    config = {
        "version": 2,
        "format": "mds",
        "compression": "zstd",
        "hashes": [],
        "size_limit": 1 << 26,
        "column_names": names,
        "column_encodings": [columns[name] for name in names],
        "column_sizes": [FIXED.get(columns[name]) for name in names],
    }
    header = json.dumps(config, sort_keys=True).encode()
    encoded = [encode_sample(sample, columns) for sample in samples]
    offsets = np.cumsum([0, *map(len, encoded)]) + 4 + 4 * (len(samples) + 1) + len(header)
    return np.uint32(len(samples)).tobytes() + offsets.astype(np.uint32).tobytes() + header + b"".join(encoded)


def write_mds(folder: Path, samples: list[dict], columns: dict[str, str], shard_samples: int, compress=True) -> None:
    """A folder of shards with its index.json."""
    folder.mkdir(parents=True)
    shards = []
    for number, start in enumerate(range(0, len(samples), shard_samples)):
        raw = encode_shard(samples[start : start + shard_samples], columns)
        name = f"shard.{number:05d}.mds"
        entry = {"raw_data": {"basename": name, "bytes": len(raw), "hashes": {}}, "zip_data": None}
        if compress:
            packed = zstandard.compress(raw)
            entry["zip_data"] = {"basename": name + ".zstd", "bytes": len(packed), "hashes": {}}
        (folder / (name + ".zstd" if compress else name)).write_bytes(packed if compress else raw)
        shards.append({**entry, "samples": min(shard_samples, len(samples) - start), "format": "mds", "version": 2})
    (folder / "index.json").write_text(json.dumps({"version": 2, "shards": shards}))
