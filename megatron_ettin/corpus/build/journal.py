"""The journal of a build: its state after every block, as the native builder appends it.

A state is ``_native.journal_words(outputs)`` little-endian words of 64 bits: a magic number, the numbers of
``BuildState`` in its order, a reserved word, the counts of rejected records by kind, the numbers of an ``OutputState``
for each output, and the crc32c of all these words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from megatron_ettin import _native


class OutputState(NamedTuple):
    """One output after some number of blocks; from ``empty_documents`` on, counts of the source at work."""

    bytes: int
    checksum: int
    sequences: int
    empty_documents: int
    tokens: int
    text_bytes: int
    lone_surrogates: int
    specials: int


class BuildState(NamedTuple):
    """Totals after ``blocks`` whole blocks; from ``end`` on, what is done of the source at work."""

    blocks: int
    documents: int
    rejects_bytes: int
    source: int
    """Number of the source at work."""
    end: int
    """Where its next block starts."""
    lines: int
    ends_source: bool
    """The source is done."""
    source_bytes: int
    source_checksum: int
    source_documents: int
    blank_lines: int
    rejected: tuple[int, ...]
    """Records of the source that were skipped, in the order of ``_native.REJECT_KINDS``."""
    outputs: tuple[OutputState, ...]
    words: tuple[int, ...]
    """The state as it lies in the journal."""


FIELDS = ("magic", *BuildState._fields[:-3], "reserved")
"""The words before the counts of rejected records."""
FIRST_OUTPUT = len(FIELDS) + len(_native.REJECT_KINDS)
OUTPUT_WORDS = len(OutputState._fields)
for read, written in (
    (FIELDS[1:-1], getattr(_native, "JOURNAL_FIELDS", None)),
    (OutputState._fields, getattr(_native, "JOURNAL_OUTPUT_FIELDS", None)),
    ((FIRST_OUTPUT + OUTPUT_WORDS + 1,), (_native.journal_words(1),)),
):
    if read != written:
        raise ImportError(
            f"the native extension writes journals of {written} where {__name__} reads {read}: the two are of "
            "different versions; build the extension again with `pip install -e .`"
        )
BLOCKS, SOURCE, ENDS_SOURCE = (FIELDS.index(name) for name in ("blocks", "source", "ends_source"))


def decode_state(words: Sequence[int]) -> BuildState:
    """The state in some words of the journal."""
    values = tuple(words)
    named: dict[str, Any] = dict(zip(FIELDS[1:-1], values[1:], strict=False))
    outputs = (OutputState(*values[i : i + OUTPUT_WORDS]) for i in range(FIRST_OUTPUT, len(values) - 1, OUTPUT_WORDS))
    return BuildState(
        **named | {"ends_source": bool(named["ends_source"])},
        rejected=values[len(FIELDS) : FIRST_OUTPUT],
        outputs=tuple(outputs),
        words=values,
    )


def empty_state(outputs: int) -> BuildState:
    """The state before the first block."""
    return decode_state([0] * _native.journal_words(outputs))


class Journal:
    """The states in a journal that are whole and in order; they are decoded when they are asked for."""

    def __init__(self, content: bytes, outputs: int) -> None:
        self._width: int = _native.journal_words(outputs)
        whole = len(content) // (8 * self._width) * (8 * self._width)
        self._words = memoryview(content)[:whole].cast("Q")
        for number, words in enumerate(self._states()):
            if words[-1] != _native.crc32c(words[:-1]) or words[BLOCKS] != number + 1:
                self.cut(number)
                break

    def __len__(self) -> int:
        return len(self._words) // self._width

    def _states(self) -> Iterator[memoryview[int]]:
        return (self._words[i : i + self._width] for i in range(0, len(self._words), self._width))

    def cut(self, count: int) -> None:
        """Keep the first ``count`` states."""
        self._words = self._words[: count * self._width]

    def last(self) -> BuildState | None:
        """The last state, None before the first block."""
        return decode_state(self._words[-self._width :]) if len(self) else None

    def finished_sources(self) -> dict[int, BuildState]:
        """The final state of each source that is done."""
        return {words[SOURCE]: decode_state(words) for words in self._states() if words[ENDS_SOURCE]}

    def output_checksums(self, output: int) -> Iterator[tuple[int, int]]:
        """(bytes, crc32c) of the ids of one output after each block."""
        place = FIRST_OUTPUT + OUTPUT_WORDS * output
        at_bytes, at_checksum = (place + OutputState._fields.index(name) for name in ("bytes", "checksum"))
        return ((words[at_bytes], words[at_checksum]) for words in self._states())
