"""The unfinished state of a build: staging files, the journal, and how both become a corpus."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from megatron_ettin.corpus.format import IndexHeader, file_pieces, write_index
from megatron_ettin.corpus.manifest import DTYPES
from megatron_ettin.corpus.names import member
from megatron_ettin.errors import DataError
from megatron_ettin.publish import finish_set, publish_set, write_atomically

FIXED_WORDS = 13
"""Words of a journal record before the counts of rejected records."""
OUTPUT_WORDS = 8
CHECK_BYTES = 8 << 20


def folder_of(prefix: Path) -> Path:
    """Where an unfinished build of ``prefix`` lies: a hidden sibling."""
    return prefix.parent / f".{prefix.name}.incomplete"


class OutputState(NamedTuple):
    """One output after some number of blocks."""

    bytes: int
    checksum: int
    sequences: int
    empty_documents: int
    tokens: int
    text_bytes: int
    lone_surrogates: int
    specials: int


class Record(NamedTuple):
    """One record of the journal: totals after ``blocks`` whole blocks; counts of ``source`` so far."""

    words: tuple[int, ...]
    blocks: int
    documents: int
    rejects_bytes: int
    source: int
    end: int
    lines: int
    ends_source: bool
    source_bytes: int
    source_checksum: int
    source_documents: int
    blank_lines: int
    rejected: tuple[int, ...]
    outputs: tuple[OutputState, ...]


def decode_record(words: Sequence[int]) -> Record:
    """The record in a row of the journal."""
    from megatron_ettin import _native

    values, kinds = tuple(words), len(_native.REJECT_KINDS)
    rest = values[FIXED_WORDS + kinds : -1]
    outputs = [OutputState(*rest[i : i + OUTPUT_WORDS]) for i in range(0, len(rest), OUTPUT_WORDS)]
    rejected = values[FIXED_WORDS : FIXED_WORDS + kinds]
    return Record(
        words=values,
        blocks=values[1],
        documents=values[2],
        rejects_bytes=values[3],
        source=values[4],
        end=values[5],
        lines=values[6],
        ends_source=bool(values[7]),
        source_bytes=values[8],
        source_checksum=values[9],
        source_documents=values[10],
        blank_lines=values[11],
        rejected=rejected,
        outputs=tuple(outputs),
    )


def empty_record(outputs: int) -> Record:
    """The state before the first block."""
    from megatron_ettin import _native

    return decode_record([0] * _native.journal_words(outputs))


class JournalRows:
    """Records of a journal as they lie in it: ``width`` words of 64 bits each."""

    def __init__(self, content: bytes, width: int) -> None:
        self._width = width
        self._words = memoryview(content)[: len(content) // (8 * width) * (8 * width)].cast("Q")

    def __len__(self) -> int:
        return len(self._words) // self._width

    def __getitem__(self, number: int) -> memoryview[int]:
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self._words[number * self._width : (number + 1) * self._width]

    def __iter__(self) -> Iterator[memoryview[int]]:
        return (self[number] for number in range(len(self)))

    def cut(self, count: int) -> None:
        """Keep the first ``count`` records."""
        self._words = self._words[: count * self._width]

    def outputs(self, output: int) -> Iterator[tuple[int, int]]:
        """(bytes, checksum) of one output after each record."""
        from megatron_ettin import _native

        first = FIXED_WORDS + len(_native.REJECT_KINDS) + OUTPUT_WORDS * output
        return ((row[first], row[first + 1]) for row in self)


class OutputFiles(NamedTuple):
    """Staging files of one output."""

    tokens: Path
    lengths: Path
    documents: Path
    hashes: Path

    def sizes(self, record: Record, output: int) -> dict[Path, int]:
        """How long each file is after the blocks of ``record``."""
        state = record.outputs[output]
        return {
            self.tokens: state.bytes,
            self.lengths: state.sequences * 4,
            self.documents: record.documents * 8,
            self.hashes: record.documents * 4,
        }


class Staging:
    """The folder of an unfinished build, locked while it is open."""

    def __init__(self, prefix: Path, outputs: int, dtype: str) -> None:
        self.folder = folder_of(prefix)
        self.dtype = dtype
        self.itemsize = DTYPES[dtype]
        self.outputs = [
            OutputFiles(*(self.folder / f"{i}.{name}" for name in ("tokens", "lengths", "documents", "hashes")))
            for i in range(outputs)
        ]
        self.journal = self.folder / "journal"
        self.rejects = self.folder / "rejects.jsonl"
        self.plan = self.folder / "plan.json"
        self.publication = self.folder / "publication.json"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder. Raises DataError when another process builds the same prefix."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise DataError(f"{self.folder}: another process is building this corpus; wait for it") from error
            yield

    def discard(self) -> None:
        """Forget what was built; the lock stays."""
        for path in self.folder.iterdir():
            if path.name != "lock":
                path.unlink()

    def remove(self) -> None:
        """Take the folder away."""
        self.discard()
        (self.folder / "lock").unlink()
        self.folder.rmdir()

    def adopt_plan(self, plan: dict[str, Any], *, restart: bool) -> None:
        """Continue a build of the same plan, or start one. Raises DataError when another plan was begun here."""
        if restart:
            self.discard()
        if self.plan.exists():
            found = json.loads(self.plan.read_bytes())
            if found != plan:
                raise DataError(
                    f"{self.folder}: an unfinished build with {_difference(found, plan)}; run it to its end, or add "
                    "--restart to drop it"
                )
            return
        self.discard()
        write_atomically(self.plan, json.dumps(plan, indent=1))

    def journal_rows(self) -> JournalRows:
        """The records of the journal that are whole and in order."""
        from megatron_ettin import _native

        content = self.journal.read_bytes() if self.journal.exists() else b""
        rows = JournalRows(content, _native.journal_words(len(self.outputs)))
        for number, row in enumerate(rows):
            if row[-1] != _native.crc32c(row[:-1]) or row[1] != number + 1:
                rows.cut(number)
                break
        return rows

    def last_whole_record(self) -> Record | None:
        """The last record that the staging files bear out; None for a fresh build.

        Reads the staged ids once and compares checksums, so that a torn write is found whatever its cause.
        """
        rows = self.journal_rows()
        for output, files in enumerate(self.outputs):
            while len(rows) and not self._long_enough(rows[len(rows) - 1]):
                rows.cut(len(rows) - 1)
            if len(rows):
                rows.cut(_matching(files.tokens, rows.outputs(output)))
        last = decode_record(rows[len(rows) - 1]) if len(rows) else None
        return last if last is not None and self._consistent(last) else None

    def _long_enough(self, row: Sequence[int]) -> bool:
        record = decode_record(row)
        sizes = {self.rejects: record.rejects_bytes}
        for output, files in enumerate(self.outputs):
            sizes.update(files.sizes(record, output))
        return all(_size(path) >= size for path, size in sizes.items())

    def _consistent(self, record: Record) -> bool:
        """Whether the staged lengths add up to the staged ids."""
        from megatron_ettin import _native

        for state, files in zip(record.outputs, self.outputs, strict=True):
            end = last = 0
            for piece in file_pieces(files.lengths, 4, state.sequences):
                _, end = _native.sequence_pointers(piece, self.itemsize, end)
            for piece in file_pieces(files.documents, 8, record.documents):
                last = int.from_bytes(piece[-8:], "little")
            if (last, end) != (state.sequences, state.bytes):
                return False
        return True

    def finished_sources(self) -> dict[int, Record]:
        """The final record of each source."""
        return {row[4]: decode_record(row) for row in self.journal_rows() if row[7]}

    def truncate(self, record: Record | None) -> None:
        """Cut every file to what ``record`` says; without a record, to nothing."""
        if record is None:
            for path in (
                self.journal,
                self.rejects,
                *(path for files in self.outputs for path in files),
            ):
                path.unlink(missing_ok=True)
            return
        os.truncate(self.journal, record.blocks * len(record.words) * 8)
        os.truncate(self.rejects, record.rejects_bytes)
        for output, files in enumerate(self.outputs):
            for path, size in files.sizes(record, output).items():
                os.truncate(path, size)

    def build_index(self, record: Record, output: int, files: OutputFiles) -> tuple[Path, int, int]:
        """Write the .idx of one output from its staged ``files``; returns (path, bytes, crc32c)."""
        path = self.folder / f"{output}.idx"
        header = IndexHeader(dtype=self.dtype, sequences=record.outputs[output].sequences, documents=record.documents)
        with open(path, "wb") as stream:
            checked = ChecksummedWriter(stream)
            write_index(checked.write, header, files.lengths, files.documents)
        return path, checked.size, checked.checksum

    def publish(self, files: dict[Path, Path], marks: dict[Path, Path]) -> None:
        """Move staged files to their final names, the manifests, ``marks``, last; a killed process can finish it."""
        publish_set(files, marks, self.publication)
        self.discard()

    def finish_publication(self) -> None:
        """Do what is left of a publication that was begun. The manifests, which come last, are absent meanwhile."""
        if finish_set(self.publication):
            self.discard()


class ChecksummedWriter:
    """Passes writes on, with their size and crc32c."""

    def __init__(self, stream: Any) -> None:  # noqa: ANN401 - any object with write
        self._stream = stream
        self.size = 0
        self.checksum = 0

    def write(self, content: bytes) -> int:
        """Write and count."""
        from megatron_ettin import _native

        self._stream.write(content)
        self.checksum = _native.crc32c(content, self.checksum)
        self.size += len(content)
        return len(content)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _matching(path: Path, states: Iterator[tuple[int, int]]) -> int:
    """How many (bytes, checksum) pairs, from the first, describe the start of the file."""
    from megatron_ettin import _native

    checksum = position = matching = 0
    with open(path, "rb", buffering=0) as stream:
        for size, expected in states:
            while position < size:
                content = stream.read(min(CHECK_BYTES, size - position))
                checksum = _native.crc32c(content, checksum)
                position += len(content)
            if checksum != expected:
                break
            matching += 1
    return matching


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    names = [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]
    shown = [f"{name}={json.dumps(found.get(name))[:60]}" for name in names if name != "sources"]
    if "sources" in names:
        shown.append("other input files (or they changed since)")
    return ", ".join(shown)


def plan_hash(plan: dict[str, Any]) -> str:
    """A short name of a plan, kept in the manifest to recognise a finished build."""
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()


def final_names(prefix: Path) -> dict[str, Path]:
    """The files of a corpus, by suffix."""
    return {suffix: member(prefix, suffix) for suffix in (".bin", ".idx", ".tokenizer.json", ".rejects.jsonl", ".json")}
