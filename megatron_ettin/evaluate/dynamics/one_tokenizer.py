"""All checkpoints of a dynamics run have one tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from megatron_ettin.errors import DataError
from megatron_ettin.evaluate.dynamics.origins import ExportedFolder, StoredCheckpoint
from megatron_ettin.evaluate.dynamics.points import Point
from megatron_ettin.evaluate.suites.models import tokenizer_digest
from megatron_ettin.run_folder import stored_tokenizer
from megatron_ettin.tokenizer.identity import TokenizerIdentity, difference, read_identity


@dataclass
class OneTokenizer:
    """The tokenizer of all points: ids of two would mean different texts."""

    first: Point | None = None
    identity: TokenizerIdentity | None = None
    digest: str = ""
    _read: dict[str, TokenizerIdentity | None] = field(default_factory=dict)
    """Digest of a folder's files -> what they say, which is read once."""

    def require_stored(self, points: Sequence[Point]) -> None:
        """Compare all that can be told without fetching anything. Raises DataError."""
        for point in points:
            if isinstance(point.origin, StoredCheckpoint):
                self._require(point, stored_tokenizer(point.origin.checkpoint), "")
            elif isinstance(point.origin, ExportedFolder):
                self.require(point, point.origin.path)

    def require(self, point: Point, folder: Path) -> None:
        """Compare the tokenizer in a point's folder. Raises DataError."""
        digest = tokenizer_digest(folder)
        if digest not in self._read:
            path = folder / "tokenizer.json"
            self._read[digest] = read_identity(path) if path.is_file() else None
        self._require(point, self._read[digest], digest)

    def _require(self, point: Point, identity: TokenizerIdentity | None, digest: str) -> None:
        if self.first is None:
            self.first, self.identity, self.digest = point, identity, digest
            return
        if digest and digest == self.digest:
            return
        if identity is not None and self.identity is not None:
            found = difference(self.identity, identity)
        elif not digest or not self.digest:  # earlier versions of ours did not note it
            return
        else:
            found = "its files differ, and one of them has no tokenizer.json"
        if found:
            raise DataError(
                f"{point.name} ({point.source}) has another tokenizer than {self.first.name} ({self.first.source}): "
                f"{found}; a dynamics run compares checkpoints of one tokenizer: evaluate them in runs of their own"
            )
