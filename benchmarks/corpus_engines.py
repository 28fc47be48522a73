"""One tokenizer engine in a fresh process, for corpus.py: prints CPU seconds and a hash of the ids as one JSON object.

    python benchmarks/corpus_engines.py ENGINE TOKENIZER JSONL

`process_time` of the work alone: imports and loading the tokenizer are excluded on every side.
"""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def digest(ids: Any) -> str:
    """A hash of the ids, whatever their type."""
    return hashlib.sha256(np.ascontiguousarray(ids, dtype=np.uint32).tobytes()).hexdigest()


def read_texts(jsonl: str) -> list[str]:
    """The texts of the file, in memory; each already has its UTF-8 form."""
    with open(jsonl, encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """(CPU seconds of this process, result)."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def files_native(tokenizer: str, jsonl: str) -> dict[str, Any]:
    """jsonl to .bin and .idx by the corpus builder in one thread: reading, parsing, encoding, and writing as well.

    The builder loads the tokenizer itself: that is timed where it happens and taken off, as on the other sides.
    """
    from unittest.mock import patch

    from megatron_ettin.corpus.build.build import build_corpus
    from megatron_ettin.corpus.build.job import BuildOptions
    from megatron_ettin.tokenizer.tokenizer import Tokenizer

    load, loads = Tokenizer.from_file, []

    def timed_load(*given: Any) -> Tokenizer:
        seconds, loaded = timed(lambda: load(*given))
        loads.append(seconds)
        return loaded

    folder = Path(tempfile.mkdtemp(prefix="ettin-engines-"))
    try:
        with patch.object(Tokenizer, "from_file", timed_load):
            cold, report = timed(lambda: build_corpus(jsonl, folder / "a", tokenizer, BuildOptions(threads=1)))
            again, _ = timed(lambda: build_corpus(jsonl, folder / "b", tokenizer, BuildOptions(threads=1)))
        ids = digest(report.corpus.pairs[0].map().tokens)
        return {"cold": cold - loads[0], "warm": again - loads[1], "load": loads[0], "hash": ids}
    finally:
        shutil.rmtree(folder)


def files_gigatoken(tokenizer: str, jsonl: str) -> dict[str, Any]:
    """gigatoken's `encode_files` on one thread; nothing is written."""
    import awkward
    import gigatoken

    load, engine = timed(lambda: gigatoken.Tokenizer(tokenizer))
    source = gigatoken.JsonlFileSource([jsonl])
    cold, result = timed(lambda: engine.encode_files(source, parallel=False))
    warm, _ = timed(lambda: engine.encode_files(source, parallel=False))
    return {"cold": cold, "warm": warm, "load": load, "hash": digest(awkward.to_numpy(awkward.flatten(result)))}


def memory_native(tokenizer: str, jsonl: str) -> dict[str, Any]:
    """Strings in memory to arrays."""
    from megatron_ettin.tokenizer.tokenizer import Tokenizer

    texts = read_texts(jsonl)
    load, engine = timed(lambda: Tokenizer.from_file(tokenizer))
    cold, result = timed(lambda: engine.encode_batch(texts))
    warm, _ = timed(lambda: engine.encode_batch(texts))
    return {"cold": cold, "warm": warm, "load": load, "hash": digest(result[0])}


def memory_gigatoken(tokenizer: str, jsonl: str) -> dict[str, Any]:
    """The same through gigatoken."""
    import awkward
    import gigatoken

    texts = read_texts(jsonl)
    load, engine = timed(lambda: gigatoken.Tokenizer(tokenizer))
    cold, result = timed(lambda: engine.encode_batch(texts, parallel=False))
    warm, _ = timed(lambda: engine.encode_batch(texts, parallel=False))
    return {"cold": cold, "warm": warm, "load": load, "hash": digest(awkward.to_numpy(awkward.flatten(result)))}


def memory_huggingface(tokenizer: str, jsonl: str) -> dict[str, Any]:
    """The same through `encode_batch_fast` of tokenizers."""
    from tokenizers import Tokenizer

    texts = read_texts(jsonl)
    load, engine = timed(lambda: Tokenizer.from_file(tokenizer))
    cold, result = timed(lambda: engine.encode_batch_fast(texts, add_special_tokens=False))
    ids = np.concatenate([np.array(encoding.ids, np.uint32) for encoding in result])
    return {"cold": cold, "warm": cold, "load": load, "hash": digest(ids)}


def roofline(_: str, jsonl: str) -> dict[str, Any]:
    """What the machine does with the same bytes when it does hardly anything: CPU seconds of one pass each."""
    import zlib

    import zstandard

    text = Path(jsonl).read_bytes()
    source = np.frombuffer(text, np.uint8)
    target = np.zeros_like(source)
    packed, zipped = zstandard.compress(text, 3), zlib.compress(text, 6)
    passes: dict[str, Callable[[], Any]] = {
        "memcpy": lambda: np.copyto(target, source),
        "line scan": lambda: text.count(b"\n"),
        "zstd -3 decompression": lambda: zstandard.decompress(packed),
        "zlib decompression": lambda: zlib.decompress(zipped),
    }
    return {name: min(timed(work)[0] for _ in range(3)) for name, work in passes.items()} | {"bytes": len(text)}


def main() -> int:
    """Run the engine named on the command line."""
    engine, tokenizer, jsonl = sys.argv[1:]
    result = globals()[engine.replace("-", "_")](tokenizer, jsonl)
    result["peak_megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
