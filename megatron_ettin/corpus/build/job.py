"""A corpus build with everything resolved: what the stages of the builder pass on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ettin.corpus.build.options import BuildOptions
from megatron_ettin.sources.files import Source
from megatron_ettin.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Job:
    """A build with everything resolved."""

    prefix: Path
    targets: tuple[Path, ...]
    """Prefix of each output."""
    sources: tuple[Source, ...]
    tokenizer: Tokenizer
    eod: int | None
    options: BuildOptions
    command: str
    ignored: tuple[Path, ...]

    @property
    def plan(self) -> dict[str, Any]:
        """Everything that decides the ids: a resumed build must have the same."""
        return {
            **self.options.content_settings(),
            "tokenizer": self.tokenizer.fingerprint,
            "eod": self.eod,
            "sources": [[str(s.path), s.kind, s.size, s.modified, s.begin, s.end] for s in self.sources],
        }

    @property
    def total_bytes(self) -> int:
        """Bytes of all sources."""
        return sum(source.bytes for source in self.sources)


def megatron_prefix(prefix: Path, key: str, level: str) -> Path:
    """The prefix that Megatron-LM's script gives to one key's output."""
    return prefix.with_name(f"{prefix.name}_{key}_{level}")
