"""Which files an address means: one file, those below a folder, those of a glob, in the order of files on a disk."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from megatron_ettin.errors import DataError
from megatron_ettin.sources.files import BESIDE_DATA, DESCRIPTION, FORMATS, HIDDEN, NAMELESS, detect
from megatron_ettin.sources.listed import MDS_INDEX, SAVED_INFO, SAVED_SPLITS, SAVED_STATE
from megatron_ettin.sources.remote.address import WEB, RemoteFile, redacted, require_plain, scheme_of
from megatron_ettin.sources.remote.retry import retried
from megatron_ettin.sources.remote.store import describe, filesystem, path_of, pinned, read_range, shown_name
from megatron_ettin.typed_json import parse_json

ASKED_AT_ONCE = 16
"""Files of a web server that are asked after side by side: each waits for an answer."""
LARGEST_INDEX = 1 << 30
"""Bytes of the index of an MDS folder."""
UNNAMED = "not named by the MDS index beside it"

Found = tuple[RemoteFile, str, str | None]
"""A file, its format and its compression."""


def place_of(name: str) -> PurePosixPath:
    """The path in an address, without server, query and escapes: by it a format is told."""
    return PurePosixPath(unquote(urlsplit(name).path) if scheme_of(name) in WEB else path_of(name))


def find_remote(item: str, wanted: str, remedy: str) -> tuple[list[Found], dict[str, list[str]]]:
    """The files of an address, and by reason what is left out of a folder or glob.

    ``wanted`` is a format for all of them, or auto. Raises DataError, and ConfigError for an address that cannot be
    read here.
    """
    require_plain(item)
    address, commit = pinned(item)
    if not commit:
        filesystem(address).invalidate_cache()  # what an earlier call of this process was told may be old
    if (fixed := _before_magic(path_of(address))) != path_of(address):
        folder, listed = fixed.rpartition("/")[0], _glob(address)
    elif _is_folder(address):
        folder, listed = path_of(address), files_below(address)
    else:
        remote = describe(address, commit)
        kind = detect(place_of(remote.name), wanted)
        if kind is None:
            known = ", ".join(FORMATS)
            raise DataError(f"{remote.name}: the name says no format ({known}, each also with .gz or .zst); {remedy}")
        return [(remote, *kind)], {}
    files, left_out = _chosen(Listing(scheme_of(address), folder, commit, listed), wanted)
    if not files:
        raise DataError(f"{redacted(item)}: no input file there ({', '.join(FORMATS)}, each also with .gz or .zst)")
    return files, left_out


def _before_magic(path: str) -> str:
    """What stands before the first wildcard of a glob; all where there is none. On the web ``?`` begins a query."""
    place, mark, query = path.partition("?") if scheme_of(path) in WEB else (path, "", "")
    fixed = re.split(r"[*?\[]", place)[0]
    return fixed if fixed != place else place + mark + query


def _is_folder(address: str) -> bool:
    if address.endswith("/") or scheme_of(address) in WEB:
        return address.endswith("/")
    store = filesystem(address)
    return bool(retried(lambda: store.info(path_of(address)), address)["type"] == "directory")


def _glob(address: str) -> dict[str, dict[str, Any]]:
    store = filesystem(address)
    found: dict[str, dict[str, Any]] = retried(lambda: store.glob(path_of(address), detail=True), address)
    return {name: info for name, info in found.items() if info["type"] == "file"}


def files_below(address: str) -> dict[str, dict[str, Any]]:
    """What the server says of each file in a folder and the folders in it, by its path. Raises DataError."""
    store, path = filesystem(address), path_of(address)
    found: dict[str, dict[str, Any]] = retried(lambda: store.find(path, detail=True), address)
    return {name: info for name, info in found.items() if info["type"] == "file" and name != path}


class Listing:
    """The files below a folder: their addresses, their names below it, and what the server said of each."""

    def __init__(self, scheme: str, folder: str, commit: str, listed: Mapping[str, dict[str, Any]]) -> None:
        self._scheme, self._commit = scheme, commit
        self._web = scheme in WEB
        self._folder = self._shown(folder).rstrip("/") + "/"
        self.infos = {name: info for name, info in listed.items() if not (self._web and re.search("[?#]", name))}

    def _shown(self, path: str) -> str:
        return unquote(path) if self._web else path

    def address(self, path: str) -> str:
        """As it is read."""
        return path if self._web else f"{self._scheme}://{path}"

    def below(self, path: str) -> tuple[str, ...]:
        """The parts of a path below the folder."""
        return PurePosixPath(self._shown(path).removeprefix(self._folder)).parts

    def name(self, path: str) -> str:
        """As it is shown."""
        return shown_name(self.address(path), self._commit)

    def describe(self, paths: Sequence[str]) -> list[RemoteFile]:
        """The files, several asked after at a time where the listing does not say how large they are."""

        def one(path: str) -> RemoteFile:
            info = self.infos[path]
            return describe(self.address(path), self._commit, info if info.get("size") is not None else None)

        with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
            return list(pool.map(one, paths))


def _order(parts: tuple[str, ...]) -> tuple[tuple[bool, str], ...]:
    """The files of a folder before its folders, both by name, as on a disk."""
    return tuple((at < len(parts) - 1, part) for at, part in enumerate(parts))


def _chosen(listing: Listing, wanted: str) -> tuple[list[Found], dict[str, list[str]]]:
    """The files that say a format, text only where there is no data; shards as the index of their folder names them."""
    left_out: dict[str, list[str]] = {}
    kinds: dict[str, tuple[str, str | None]] = {}
    paths = sorted(listing.infos, key=lambda path: _order(listing.below(path)))
    shards = _shards(listing, paths)
    saved = any(path.endswith(".arrow") for path in paths)
    for path in paths:
        folder, _, name = path.rpartition("/")
        if any(part.startswith(".") for part in listing.below(path)):
            left_out.setdefault(HIDDEN, []).append(listing.name(path))
        elif folder in shards:
            if path in shards[folder]:
                kinds[path] = ("mds", "zst" if path.endswith((".zst", ".zstd")) else None)
            elif name != MDS_INDEX:
                left_out.setdefault(UNNAMED, []).append(listing.name(path))
        elif saved and name in (SAVED_STATE, SAVED_INFO, SAVED_SPLITS):
            left_out.setdefault(DESCRIPTION, []).append(listing.name(path))
        elif (kind := detect(place_of(listing.address(path)), wanted)) is not None:
            kinds[path] = kind
        else:
            left_out.setdefault(NAMELESS, []).append(listing.name(path))
    if wanted == "auto" and {format for format, _ in kinds.values()} > {"txt"}:
        texts = [path for path, (format, _) in kinds.items() if format == "txt"]
        left_out.setdefault(BESIDE_DATA, []).extend(map(listing.name, texts))
        kinds = {path: kind for path, kind in kinds.items() if path not in texts}
    described = listing.describe(list(kinds))
    files = [(remote, *kind) for remote, kind in zip(described, kinds.values(), strict=True)]
    return files, {reason: names for reason, names in left_out.items() if names}


def _shards(listing: Listing, paths: Iterable[str]) -> dict[str, set[str]]:
    """The shards of each folder that is an MDS folder. Raises DataError for one that its index names in vain."""
    found: dict[str, set[str]] = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        if name != MDS_INDEX:
            continue
        (index,) = listing.describe([path])
        for raw, zipped in shard_names(read_range(index, 0, min(index.size, LARGEST_INDEX)), listing.name(path)):
            choices = [f"{folder}/{shard}" for shard in (raw, zipped) if shard]
            there = next((choice for choice in choices if choice in listing.infos), None)
            if there is None:
                raise DataError(f"{listing.name(path)}: names the shard {raw}, which is not there; repair the index")
            found.setdefault(folder, set())
            found.setdefault(there.rpartition("/")[0], set()).add(there)
    return found


def shard_names(content: bytes, where: str) -> list[tuple[str, str]]:
    """(plain, compressed or empty) names of the shards in an index of MDS; none in any other JSON. Raises DataError."""
    try:
        index = parse_json(content)
        if not isinstance(index, dict) or "shards" not in index:
            return []
        shards = index["shards"]
        return [(shard["raw_data"]["basename"], (shard.get("zip_data") or {}).get("basename", "")) for shard in shards]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{where}: not the index of an MDS folder ({error!r}); repair it, or leave it out") from error
