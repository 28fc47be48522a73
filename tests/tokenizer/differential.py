"""A differential fuzzer: random bytes and odd fragments, made valid UTF-8, through `tokenizers` and the native engine.

    python -m tests.tokenizer.differential --seconds 600 [tokenizer.json ...]

Stops with the shortest text found when ids differ. Without files it takes the small tokenizers of the tests in turn.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tests.tokenizer.samples import ATOMS, KINDS, SENTENCES

BATCH = 256


def random_texts(seed: int) -> Iterator[str]:
    """Endless texts: fragments, characters of random planes, decoded random bytes, and pieces of sentences."""
    source = random.Random(seed)
    planes = [
        (0x20, 0x7F),
        (0x80, 0x800),
        (0x300, 0x370),
        (0x800, 0x3000),
        (0x3000, 0xD800),
        (0xE000, 0x10000),
        (0x10000, 0x110000),
    ]

    def fragment() -> str:
        kind = source.randrange(5)
        if kind == 0:
            return source.choice(ATOMS)
        if kind == 1:
            low, high = source.choice(planes)
            return "".join(chr(source.randrange(low, high)) for _ in range(source.randrange(1, 6)))
        if kind == 2:
            return source.randbytes(source.randrange(1, 12)).decode("utf-8", "ignore")
        if kind == 3:
            sentence = source.choice(SENTENCES)
            begin = source.randrange(len(sentence))
            return sentence[begin : begin + source.randrange(1, 40)]
        return source.choice(" \n'ae1!\u0301") * source.randrange(1, 30)

    while True:
        yield "".join(fragment() for _ in range(source.randrange(1, 30)))


def shorten(text: str, differs: object) -> str:
    """Removes parts of ``text`` while ids still differ."""
    size = len(text) // 2
    while size:
        for at in range(0, len(text), size):
            shorter = text[:at] + text[at + size :]
            if differs(shorter):  # type: ignore[operator]
                text = shorter
                break
        else:
            size //= 2
    return text


def main() -> int:
    """Run until the time is over or ids differ."""
    from tests.tokenizer.conftest import Pair

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    options = parser.parse_args()
    contents = [file.read_text() for file in options.files] or [make().to_str() for make in KINDS.values()]
    pairs = [Pair.of(content) for content in contents]
    end, count, texts = time.monotonic() + options.seconds, 0, random_texts(options.seed)

    def differs(pair: Pair, text: str) -> bool:
        return bool(pair.ours.encode(text).tolist() != pair.reference.encode(text, add_special_tokens=False).ids)

    while time.monotonic() < end:
        batch = list(islice(texts, BATCH))
        for number, pair in enumerate(pairs):
            try:
                pair.assert_equal(batch)
            except AssertionError:
                text = next(text for text in batch if differs(pair, text))
                print(f"tokenizer {number}, seed {options.seed}: {shorten(text, lambda t, p=pair: differs(p, t))!r}")
                return 1
        count += len(batch) * len(pairs)
    print(f"{count} texts, no difference, seed {options.seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
