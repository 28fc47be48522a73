"""Where the checkpoints of a curve come from: a run, folders on disk, or revisions of a hub repository."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from megatron_ettin.checkpoint.load import verify
from megatron_ettin.evaluate.suites.subjects import TOKENIZERS, WEIGHTS, fetched
from megatron_ettin.export.mapping import Kind
from megatron_ettin.export.runs import export_checkpoint, fingerprint_of, load_checkpoint, refill
from megatron_ettin.run_folder import Checkpoint


class Origin(Protocol):
    """One checkpoint before anything of it is read."""

    def known_by(self) -> str:
        """A word that stays while the checkpoint does, told without reading weights; empty where nothing tells."""
        return self.fingerprint()

    def fingerprint(self) -> str:
        """For results, where it is told without reading weights; else empty."""
        return ""

    def folder(self) -> contextlib.AbstractContextManager[Path]:
        """It as a Hugging Face folder, for the while. Raises CheckpointError."""
        ...


@dataclass
class RunExport:
    """The one folder into which the checkpoints of a run are put, one after the other.

    The first is exported as ``ettin convert`` does, with the proof of its logits; of the others the weights alone
    change.
    """

    kind: Kind | None = None
    """Of a run that trains an encoder and a decoder in one: which of them."""
    holds: Any = None
    """Shape, objective and tokenizer of what is in the folder."""
    place: TemporaryDirectory[str] = field(default_factory=lambda: TemporaryDirectory(prefix="ettin-dynamics-"))
    exports: int = 0

    def take(self, checkpoint: Checkpoint) -> Path:
        """The folder, with this checkpoint in it. Raises CheckpointError, DamagedError."""
        verify(checkpoint)
        loaded = load_checkpoint(checkpoint)
        wanted = (loaded.config.model, loaded.config.objective, loaded.tokenizer)
        folder = Path(self.place.name, str(self.exports))
        if self.holds == wanted:
            refill(folder, loaded)
            return folder
        self.exports += 1
        folder = Path(self.place.name, str(self.exports))
        export_checkpoint(checkpoint, folder, kind=self.kind)
        self.holds = wanted
        return folder


@dataclass(frozen=True)
class StoredCheckpoint(Origin):
    """A checkpoint in the folder of a run."""

    checkpoint: Checkpoint
    export: RunExport

    def fingerprint(self) -> str:
        """That of the checkpoint's manifest, and the kind where it holds two."""
        return " ".join([fingerprint_of(self.checkpoint), *([self.export.kind] if self.export.kind else [])])

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        """See Origin."""
        yield self.export.take(self.checkpoint)


@dataclass(frozen=True)
class ExportedFolder(Origin):
    """A folder that transformers reads."""

    path: Path

    def known_by(self) -> str:
        """Names, sizes and times of change of its files."""
        names = [path for pattern in (*WEIGHTS, "config.json", *TOKENIZERS) for path in sorted(self.path.glob(pattern))]
        facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in names]
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        """See Origin."""
        yield self.path


@dataclass(frozen=True)
class HubRevision(Origin):
    """A revision of a hub repository, fetched when it is needed."""

    repository: str
    revision: str
    commit: str
    """What the hub says the revision is; empty where it could not be asked."""

    def known_by(self) -> str:
        """See Origin."""
        return f"{self.repository} {self.commit}" if self.commit else ""

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        """See Origin."""
        yield Path(fetched(f"{self.repository}@{self.commit or self.revision}"))
