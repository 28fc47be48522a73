"""The manifest of a checkpoint: every file with its size and hash. A folder without a fitting one does not count."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from megatron_ettin.errors import CheckpointError, DamagedError
from megatron_ettin.regular_files import special_kind
from megatron_ettin.run_folder import MANIFEST
from megatron_ettin.typed_json import parse_json

FORMAT = "megatron-ettin-checkpoint"
VERSION = 1
_BLOCK = 1 << 22


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """One file of a checkpoint."""

    bytes: int
    """Size."""
    sha256: str
    """Hash of the content, in hexadecimal."""


def hash_file(path: Path) -> FileRecord:
    """Size and hash of one file."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            size += len(block)
    return FileRecord(bytes=size, sha256=digest.hexdigest())


def files_of(folder: Path) -> list[str]:
    """Relative names of all files below ``folder`` but the manifest itself, sorted."""

    def refused(error: OSError) -> None:
        raise error  # a folder that cannot be read is not an empty one

    walk = os.walk(folder, onerror=refused)
    names = (Path(parent, name).relative_to(folder).as_posix() for parent, _, files in walk for name in files)
    return sorted(name for name in names if name != MANIFEST)


def hash_share(folder: Path, names: list[str], rank: int, ranks: int) -> dict[str, FileRecord]:
    """The records of every ``ranks``-th name, from ``rank`` on: the ranks together hash all."""
    return {name: hash_file(folder / name) for name in names[rank::ranks]}


def write_manifest(folder: Path, records: dict[str, FileRecord]) -> None:
    """Write the manifest; the folder is complete from here on."""
    files = {name: {"bytes": record.bytes, "sha256": record.sha256} for name, record in sorted(records.items())}
    content = {"format": FORMAT, "version": VERSION, "files": files}
    (folder / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, FileRecord]:
    """The records in ``folder``.

    Raises DamagedError when there is no manifest or it is none, CheckpointError when a newer version wrote it, OSError
    when it cannot be read.
    """
    path = folder / MANIFEST
    if kind := special_kind(path):
        raise DamagedError(f"{path} is {kind}, not a file")
    try:
        content = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise DamagedError(f"{path} is missing: the checkpoint was never completed") from None
    except ValueError as error:
        raise DamagedError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DamagedError(f"{path} is not a manifest of format {FORMAT}")
    version = content.get("version")
    if isinstance(version, int) and version > VERSION:
        raise CheckpointError(
            f"{path} has version {version}, this software reads up to {VERSION}; go on with the version that wrote it"
        )
    if version != VERSION:
        raise DamagedError(f"{path} has version {version!r}, which never was")
    files = content.get("files")
    if not isinstance(files, dict) or not files:
        raise DamagedError(f"{path}: 'files' is not a table of files")
    for name, entry in files.items():
        inside = not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts
        typed = isinstance(entry, dict) and isinstance(entry.get("bytes"), int) and isinstance(entry.get("sha256"), str)
        if not inside or not typed:
            raise DamagedError(f"{path}: entry {name!r} is not the size and hash of a file in the folder")
    return {name: FileRecord(bytes=entry["bytes"], sha256=entry["sha256"]) for name, entry in files.items()}


def check_sizes(folder: Path, records: dict[str, FileRecord]) -> None:
    """Raise DamagedError unless ``folder`` holds exactly the recorded files with the recorded sizes."""
    present = set(files_of(folder))
    if missing := sorted(set(records) - present):
        raise DamagedError(f"{folder / missing[0]} is missing")
    if extra := sorted(present - set(records)):
        raise DamagedError(f"{folder / extra[0]} is not in the manifest")
    for name, record in records.items():
        if kind := special_kind(folder / name):
            raise DamagedError(f"{folder / name} is {kind}, not a file")
        size = (folder / name).stat().st_size
        if size != record.bytes:
            raise DamagedError(f"{folder / name} has {size} bytes, its manifest says {record.bytes}")
