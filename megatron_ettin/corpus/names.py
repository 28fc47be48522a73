"""The names of the files of a corpus."""

from __future__ import annotations

import os
from pathlib import Path

SUFFIXES = (".bin", ".idx", ".json")


def corpus_prefix(path: str | Path) -> Path:
    """The prefix of a corpus, from the prefix itself or one of its three files."""
    path = Path(path)
    return path.with_suffix("") if path.suffix in SUFFIXES else path


def member(prefix: Path, suffix: str) -> Path:
    """The file of a corpus with this suffix; a dot in the prefix stays."""
    return prefix.with_name(prefix.name + suffix)


def hash_path(prefix: Path, fingerprint: str) -> Path:
    """Where the text hashes of a corpus lie: 4 bytes a document, in a file named after its content."""
    return member(prefix, f".{fingerprint[:16]}.hash")


def remove_hashes(prefix: Path) -> None:
    """Delete the text hashes of what was under this prefix before."""
    start = f"{prefix.name}."
    for name in os.listdir(prefix.parent):
        between = name.removeprefix(start).removesuffix(".hash")
        if name == f"{start}{between}.hash" and len(between) == 16 and set(between) <= set("0123456789abcdef"):
            (prefix.parent / name).unlink(missing_ok=True)
