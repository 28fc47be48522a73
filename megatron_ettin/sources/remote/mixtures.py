"""The published Ettin text: three datasets of MDS shards on the hub, fetched whole or in part, verified and resumed."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from itertools import compress
from pathlib import Path, PurePosixPath
from typing import Any

from megatron_ettin.errors import ConfigError, DataError
from megatron_ettin.ownership import owned
from megatron_ettin.progress import Progress, format_count
from megatron_ettin.publish import write_atomically
from megatron_ettin.sources.files import detect
from megatron_ettin.sources.listed import MDS_INDEX
from megatron_ettin.sources.remote.address import RemoteFile
from megatron_ettin.sources.remote.listing import Listing, files_below, shard_names
from megatron_ettin.sources.remote.retry import NotWantedError
from megatron_ettin.sources.remote.staging import FILES_AT_ONCE
from megatron_ettin.sources.remote.store import path_of, pinned, read_range
from megatron_ettin.sources.remote.transfer import transfer
from megatron_ettin.typed_json import FieldError, decode, load_json, parse_json

REPOSITORIES = {
    "pretrain": "jhu-clsp/ettin-pretraining-data",
    "extension": "jhu-clsp/ettin-extension-data",
    "decay": "jhu-clsp/ettin-decay-data",
}
"""Datasets of the hub by the stage that they were made for."""
PLAN, RECORD = ".fetching.json", ".fetched.json"
"""What is being fetched into a folder, and what a whole folder holds: hidden, for who reads the folder as text."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was asked for; a folder holds files of one plan."""

    mixture: str
    fraction: float
    revision: str
    """As it was asked for; empty for the newest."""
    commit: str
    """The revision that this was at the first start, which all later ones go on with."""


@dataclass(frozen=True, kw_only=True)
class FetchedFile:
    """One file of the folder."""

    path: str
    bytes: int
    checksum: str
    """KIND:HEX, as the hub names it and as the bytes were found to have it."""


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What a folder holds: the content of its ``.fetched.json``."""

    repository: str
    plan: Plan
    files: tuple[FetchedFile, ...]
    columns: dict[str, dict[str, str]]
    """By source: the columns of its first shard, and how they are encoded."""


def chosen(shards: Sequence[str], fraction: float) -> list[str]:
    """That part of the shards of one source, evenly spaced; at least one."""
    count = max(1, round(len(shards) * fraction))
    return [shards[(2 * number + 1) * len(shards) // (2 * count)] for number in range(count)]


def fetch_mixture(mixture: str, folder: Path, fraction: float, revision: str, command: str) -> Fetched:
    """Fetch a published mixture, or a part of each of its sources, into ``folder``; the same call goes on.

    Every file is compared with the checksum that the hub names. The indexes of MDS folders name what was fetched.
    Raises ConfigError for a folder that holds something else and a disk that is too small, DataError for what the hub
    does not give.
    """
    if not 0 < fraction <= 1:
        raise ConfigError(f"fraction {fraction:g}: must be above 0 and at most 1")
    address = f"hf://datasets/{REPOSITORIES[mixture]}" + (f"@{revision.replace('/', '%2F')}" if revision else "")
    folder.mkdir(parents=True, exist_ok=True)
    with owned(folder, "fetch", command, remove=True):
        plan = _plan(folder, Plan(mixture=mixture, fraction=fraction, revision=revision, commit=""), address)
        root = f"hf://datasets/{REPOSITORIES[mixture]}@{plan.commit}"
        listing = Listing("hf", path_of(root), plan.commit, files_below(root))
        shards = _shards_of_sources(listing)
        if not shards:
            raise DataError(f"{root}: holds no MDS shards; name another --revision")
        wanted = [shard for paths in shards.values() for shard in chosen(paths, fraction)]
        places = ("/".join(listing.below(path)) for path in wanted)
        files = dict(zip(places, listing.describe(wanted), strict=True))
        _fetch(folder, files)
        columns = _write_indexes(folder, listing, files)
        found = Fetched(
            repository=REPOSITORIES[mixture], plan=plan, columns=columns,
            files=tuple(FetchedFile(path=at, bytes=file.size, checksum=file.checksum) for at, file in files.items()),
        )  # fmt: skip
        write_atomically(folder / RECORD, json.dumps(asdict(found), indent=1) + "\n")
    return found


def _plan(folder: Path, asked: Plan, address: str) -> Plan:
    """The plan of a folder, which is begun when it is empty. Raises ConfigError for one with another plan or files."""
    path = folder / PLAN
    try:
        there = decode(Plan, load_json(path.read_bytes()), strict=True)
    except FileNotFoundError:
        if any(not name.name.startswith(".") for name in folder.iterdir()):
            raise ConfigError(f"{folder}: holds other files; choose an empty folder, or a new one") from None
        plan = replace(asked, commit=pinned(address)[1])
        write_atomically(path, json.dumps(asdict(plan)) + "\n")
        return plan
    except FieldError as error:
        raise DataError(f"{path}: cannot be read ({error}); choose another folder") from error
    if replace(there, commit="") != asked:
        held = f"--mixture {there.mixture} --fraction {there.fraction:g}"
        raise ConfigError(
            f"{folder}: is for {held}{f' --revision {there.revision}' if there.revision else ''}; go on with these, or "
            "choose another folder"
        )
    return there


def _shards_of_sources(listing: Listing) -> dict[str, list[str]]:
    """The paths of the shards of each source, which is a folder at the top; of a shard in two forms the packed one."""
    found: dict[tuple[str, ...], str] = {}
    for path in sorted(listing.infos, key=listing.below):  # longer names, of packed shards, behind the plain ones
        parts = listing.below(path)
        if ".." in parts:
            raise DataError(f"{listing.name(path)}: leads out of the dataset; nothing is fetched from there")
        kind = detect(PurePosixPath(parts[-1]), "auto")
        if kind is not None and kind[0] == "mds" and len(parts) > 1:
            found[*parts[:-1], parts[-1].partition(".mds")[0]] = path
    sources: dict[str, list[str]] = {}
    for parts, path in found.items():
        sources.setdefault(parts[0], []).append(path)
    return sources


def _fetch(folder: Path, files: dict[str, RemoteFile]) -> None:
    """Fetch what is not there yet, several files side by side. Raises the first error; what is fetched stays."""
    left = {folder / at: file for at, file in files.items()}
    left = {path: file for path, file in left.items() if not (path.is_file() and path.stat().st_size == file.size)}
    partly = sum(part.stat().st_size for path in left if (part := path.with_name(f"{path.name}.part")).is_file())
    total, stop, lock = sum(file.size for file in left.values()) - partly, threading.Event(), threading.Lock()
    if total > (free := shutil.disk_usage(folder).free):
        raise ConfigError(
            f"{folder}: {format_count(total, 'B')} are to be fetched, and {format_count(free, 'B')} are free there; "
            "make room, or ask for a smaller --fraction"
        )
    done = 0

    def copied(size: int) -> None:
        nonlocal done
        with lock:
            done += size
            progress.update(done)

    def one(path: Path, file: RemoteFile) -> None:
        try:
            if not stop.is_set():
                path.parent.mkdir(parents=True, exist_ok=True)
                transfer(file, path, stop, copied)
        except BaseException:
            stop.set()
            raise

    with Progress("fetch", total, "B") as progress, ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        tasks = [pool.submit(one, path, file) for path, file in left.items()]
        try:
            for task in as_completed(tasks):
                with contextlib.suppress(NotWantedError):  # another one's error ended it
                    task.result()
        except BaseException:
            stop.set()
            raise


def _write_indexes(folder: Path, listing: Listing, files: dict[str, RemoteFile]) -> dict[str, dict[str, str]]:
    """Write the index of each MDS folder, with the shards that are there; returns the columns of each source."""
    columns: dict[str, dict[str, str]] = {}
    indexes = [path for path in listing.infos if path.rpartition("/")[2] == MDS_INDEX]
    there = {listing.below(path)[:-1]: path for path in indexes}
    for parts in sorted({PurePosixPath(at).parts[:-1] for at in files}):
        if parts not in there:
            continue
        (remote,) = listing.describe([there[parts]])
        content = read_range(remote, 0, remote.size)
        if not (names := shard_names(content, remote.name)):
            continue
        index: dict[str, Any] = parse_json(content)
        here = [any("/".join((*parts, name)) in files for name in both) for both in names]
        shards = list(compress(index["shards"], here))
        write_atomically(folder.joinpath(*parts, MDS_INDEX), json.dumps(index | {"shards": shards}) + "\n")
        if shards and "column_names" in shards[0]:
            pairs = zip(shards[0]["column_names"], shards[0]["column_encodings"], strict=False)
            columns.setdefault(parts[0], dict(pairs))
    return columns
