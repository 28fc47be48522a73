"""Folders in which a file says which others hold the data: MDS folders, and datasets that `datasets` has saved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ettin.errors import DataError
from megatron_ettin.typed_json import parse_json

MDS_INDEX, SAVED_STATE, SAVED_INFO, SAVED_SPLITS = "index.json", "state.json", "dataset_info.json", "dataset_dict.json"
ZSTD_ENDINGS = (".zstd", ".zst")


@dataclass(frozen=True, kw_only=True)
class Listed:
    """What the data of such a folder is."""

    index: Path
    """The file that says it."""
    called: str
    """That file in a message."""
    files: list[tuple[Path, str, str | None]]
    """Each with format and compression, in order."""
    known: frozenset[str]
    """Names in the folder that are no data and nothing left out."""


def listed_folder(folder: Path) -> Listed | None:
    """The data files of a folder that lists them; None for any other folder.

    Of a dataset in splits the only one is taken. Raises DataError for a file that is not there, and for several splits.
    """
    if "shards" in (_content(folder / MDS_INDEX) or ()):
        files = [(path, "mds", "zst" if path.suffix in ZSTD_ENDINGS else None) for path in _mds_shards(folder)]
        return Listed(index=folder / MDS_INDEX, called="MDS index", files=files, known=frozenset({MDS_INDEX}))
    if "_data_files" in (_content(folder / SAVED_STATE) or ()):
        files = [(path, "arrow", None) for path in _saved_files(folder)]
        known = frozenset({SAVED_STATE, SAVED_INFO})
        return Listed(index=folder / SAVED_STATE, called=SAVED_STATE, files=files, known=known)
    if "splits" in (splits := _content(folder / SAVED_SPLITS) or {}):
        found = listed_folder(folder / _only_split(folder, splits["splits"]))
        if found is None:
            raise DataError(f"{folder / SAVED_SPLITS}: names a split that is no saved dataset; save it again")
        return found
    return None


def _content(index: Path) -> dict[str, Any] | None:
    """The object in a file; None when there is no such thing."""
    try:
        content = parse_json(index.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _mds_shards(folder: Path) -> list[Path]:
    """The shards that an MDS index names, in its order: as they lie there, compressed or not."""
    index = folder / MDS_INDEX
    try:
        shards = parse_json(index.read_bytes())["shards"]
        names = [(shard["raw_data"]["basename"], (shard.get("zip_data") or {}).get("basename")) for shard in shards]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{index}: not the index of an MDS folder ({error!r})") from error
    paths = []
    for raw, zipped in names:
        choices = [folder / Path(name).name for name in (raw, zipped) if name]
        found = next((path for path in choices if path.is_file()), None)
        if found is None:
            raise DataError(f"{index}: names the shard {raw}, which is not there; fetch it, or repair the index")
        paths.append(found)
    return paths


def _saved_files(folder: Path) -> list[Path]:
    """The arrow files that the state of a saved dataset names, in its order."""
    state = folder / SAVED_STATE
    try:
        content = parse_json(state.read_bytes())
        paths = [folder / Path(file["filename"]).name for file in content["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{state}: not the state of a saved dataset ({error!r})") from error
    if content.get("_indices_data_files"):
        raise DataError(
            f"{state}: its rows are chosen by a file of indices; save it again by `dataset.flatten_indices()."
            "save_to_disk(...)`"
        )
    for path in paths:
        if not path.is_file():
            raise DataError(f"{state}: names {path.name}, which is not there; fetch it, or save the dataset again")
    return paths


def _only_split(folder: Path, splits: object) -> str:
    """The split of a saved dataset that has one."""
    if not isinstance(splits, list) or not all(isinstance(name, str) and Path(name).name == name for name in splits):
        raise DataError(f"{folder / SAVED_SPLITS}: does not name splits; save the dataset again")
    if len(splits) != 1:
        raise DataError(
            f"{folder}: holds the splits {', '.join(splits) or '(none)'}; name the folder of one, such as "
            f"{folder / (splits[0] if splits else 'train')}"
        )
    return str(splits[0])
