"""The unfinished state of a build: staging files and a journal that says how much of them is sound."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from megatron_ettin import _native
from megatron_ettin.corpus.build.journal import BuildState, Journal, decode_state
from megatron_ettin.corpus.checksum import ChecksummedWriter
from megatron_ettin.corpus.format import DTYPES, IndexHeader, file_pieces, write_index
from megatron_ettin.corpus.manifest import FileChecksum
from megatron_ettin.errors import DataError, OwnershipError
from megatron_ettin.ownership import Claim, owned
from megatron_ettin.publish import finish_set, publish_set, write_atomically
from megatron_ettin.typed_json import parse_json

CHECK_BYTES = 8 << 20


class OutputFiles(NamedTuple):
    """Staging files of one output."""

    tokens: Path
    lengths: Path
    documents: Path
    hashes: Path

    def sizes(self, state: BuildState, output: int) -> dict[Path, int]:
        """How long each file is at least in some state of the build."""
        return {
            self.tokens: state.outputs[output].bytes,
            self.lengths: state.outputs[output].sequences * 4,
            self.documents: state.documents * 8,
            self.hashes: state.documents * 4,
        }


def staging_folder(prefix: Path) -> Path:
    """The hidden folder of an unfinished build beside its prefix."""
    return prefix.parent / f".{prefix.name}.incomplete"


def claim_name(prefix: Path) -> str:
    """What a build owns in the folder of its prefix."""
    return f"{prefix.name}.build"


class Staging:
    """The hidden folder of an unfinished build beside its prefix."""

    def __init__(self, prefix: Path, outputs: int, dtype: str) -> None:
        self.prefix = prefix
        self.folder = staging_folder(prefix)
        self._claim: Claim | None = None
        self._lost: OwnershipError | None = None
        self.dtype = dtype
        self.itemsize = DTYPES[dtype]
        self.outputs = [
            OutputFiles(*(self.folder / f"{i}.{name}" for name in ("tokens", "lengths", "documents", "hashes")))
            for i in range(outputs)
        ]
        self.journal = self.folder / "journal"
        self.rejects = self.folder / "rejects.jsonl"
        self.identity = self.folder / "plan.json"
        self.publication = self.folder / "publication.json"

    @contextlib.contextmanager
    def owned(self, command: str) -> Iterator[None]:
        """Own the prefix: one build at a time, on any file system. Raises DataError when another process builds it.

        The claim lies beside the folder and is removed in the end.
        """
        with contextlib.ExitStack() as stack:
            try:
                claim = owned(self.prefix.parent, claim_name(self.prefix), command, remove=True, on_loss=self._lose)
                self._claim = stack.enter_context(claim)
            except OwnershipError as error:
                raise DataError(f"{self.prefix}: another process is building this corpus: {error}") from error
            self.folder.mkdir(exist_ok=True)
            yield

    def _lose(self, error: OwnershipError) -> None:
        self._lost = error

    def require_owned(self) -> None:
        """Raise OwnershipError when the heart of the claim found that another process has taken over."""
        if self._lost is not None:
            raise self._lost

    def discard(self) -> None:
        """Forget what was built."""
        for path in self.folder.iterdir():
            path.unlink()

    def remove(self) -> None:
        """Take the folder away."""
        self.discard()
        self.folder.rmdir()

    def begin(self, identity: dict[str, Any], *, restart: bool) -> None:
        """Continue the build of this identity, or start it. Raises DataError when another one was begun here."""
        if not restart and self.identity.exists():
            found = parse_json(self.identity.read_bytes())
            if found == identity:
                return
            names = [name for name in sorted({*found, *identity}) if found.get(name) != identity.get(name)]
            shown = [f"{name}={json.dumps(found.get(name))[:60]}" for name in names if name != "sources"]
            if "sources" in names:
                shown.append("other input files (or they changed since)")
            raise DataError(
                f"{self.folder}: an unfinished build with {', '.join(shown)}; run it to its end, or add --restart to "
                "drop it"
            )
        self.discard()
        write_atomically(self.identity, json.dumps(identity, indent=1))

    def read_journal(self) -> Journal:
        """The journal as far as it is sound."""
        return Journal(self.journal.read_bytes() if self.journal.exists() else b"", len(self.outputs))

    def sources_done(self) -> int:
        """How many sources are encoded and written to their end. Reads the last entry of the journal."""
        width = 8 * _native.journal_words(len(self.outputs))
        size = self.journal.stat().st_size if self.journal.exists() else 0
        with open(self.journal, "rb") if size >= width else contextlib.nullcontext() as stream:
            if stream is None:
                return 0
            stream.seek(size // width * width - width)
            words = memoryview(stream.read(width)).cast("Q")
        if words[-1] != _native.crc32c(words[:-1]):
            return 0
        last = decode_state(words)
        return last.source + last.ends_source

    def last_whole_state(self) -> BuildState | None:
        """The last state that the staging files bear out; None for a fresh build.

        Reads the staged ids once and compares checksums, so that a torn write is found whatever its cause.
        """
        journal = self.read_journal()
        for output, files in enumerate(self.outputs):
            while (state := journal.last()) is not None and not self._long_enough(state):
                journal.cut(len(journal) - 1)
            if len(journal):
                journal.cut(_matching(files.tokens, journal.output_checksums(output)))
        last = journal.last()
        return last if last is not None and self._consistent(last) else None

    def _long_enough(self, state: BuildState) -> bool:
        sizes = {self.rejects: state.rejects_bytes}
        for output, files in enumerate(self.outputs):
            sizes.update(files.sizes(state, output))
        return all((path.stat().st_size if path.exists() else 0) >= size for path, size in sizes.items())

    def _consistent(self, state: BuildState) -> bool:
        """Whether the staged lengths add up to the staged ids."""
        for written, files in zip(state.outputs, self.outputs, strict=True):
            end = last = 0
            for piece in file_pieces(files.lengths, 4, written.sequences):
                _, end = _native.sequence_pointers(piece, self.itemsize, end)
            for piece in file_pieces(files.documents, 8, state.documents):
                last = int.from_bytes(piece[-8:], "little")
            if (last, end) != (written.sequences, written.bytes):
                return False
        return True

    def truncate(self, state: BuildState | None) -> None:
        """Cut every file to what ``state`` says; without a state, to nothing."""
        if state is None:
            for path in (self.journal, self.rejects, *(path for files in self.outputs for path in files)):
                path.unlink(missing_ok=True)
            return
        os.truncate(self.journal, state.blocks * len(state.words) * 8)
        os.truncate(self.rejects, state.rejects_bytes)
        for output, files in enumerate(self.outputs):
            for path, size in files.sizes(state, output).items():
                os.truncate(path, size)

    def build_index(self, state: BuildState, output: int, files: OutputFiles) -> tuple[Path, FileChecksum]:
        """Write the .idx of one output from its staged ``files``."""
        path = self.folder / f"{output}.idx"
        header = IndexHeader(dtype=self.dtype, sequences=state.outputs[output].sequences, documents=state.documents)
        with open(path, "wb") as stream:
            writer = ChecksummedWriter(stream)
            write_index(writer.write, header, files.lengths, files.documents)
        return path, writer.written

    def publish(self, files: dict[Path, Path], marks: dict[Path, Path]) -> None:
        """Move staged files to their final names, the manifests, ``marks``, last; a killed process can finish it."""
        if self._claim is not None:
            self._claim.require()
        publish_set(files, marks, self.publication)
        self.discard()

    def finish_publication(self) -> None:
        """Do what is left of a publication that was begun. The manifests, which come last, are absent meanwhile."""
        if finish_set(self.publication):
            self.discard()


def _matching(path: Path, states: Iterator[tuple[int, int]]) -> int:
    """How many (bytes, checksum) pairs, from the first, describe the start of the file."""
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
