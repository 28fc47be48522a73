"""The shards of one build, made by many machines: which are there, which are under way, what is left."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from megatron_ettin.corpus.build.job import CONTENT_FIELDS, Job, megatron_prefix, shard_prefix
from megatron_ettin.corpus.build.staging import claim_name, staging_folder
from megatron_ettin.corpus.format import corpus_prefix, member
from megatron_ettin.corpus.manifest import Manifest, read_manifest
from megatron_ettin.errors import DataError
from megatron_ettin.ownership import owner_of

State = Literal["finished", "running", "interrupted", "missing", "damaged"]
OPENING_THREADS = 16
"""Shards that are looked at side by side: over a network each waits for its server."""
STATES: tuple[State, ...] = ("finished", "running", "interrupted", "missing", "damaged")
"""``interrupted``: begun, and nobody is at it; the same command goes on where it stopped."""


@dataclass(frozen=True, kw_only=True)
class ShardState:
    """How far one shard is."""

    index: int
    state: State
    detail: str = ""
    """Who is at it, or what is wrong with it."""


def _names(prefix: Path) -> list[re.Match[str]]:
    """The manifests and staging folders of shards of a prefix: index, count, and what of a key follows."""
    name = re.compile(
        rf"(?P<begun>\.?){re.escape(prefix.name)}-(?P<index>\d{{5,}})-of-(?P<count>\d{{5,}})"
        r"(?P<key>(_.+)?)(\.incomplete|(?<!\.tokenizer)\.json)"
    )
    found = (name.fullmatch(path) for path in (os.listdir(prefix.parent) if prefix.parent.is_dir() else ()))
    return [match for match in found if match and match[0].endswith(".incomplete") == bool(match["begun"])]


def _only_count(prefix: Path, counts: Iterable[int]) -> int | None:
    """The number of shards of the build at a prefix; None when there is none. Raises DataError for several builds."""
    known = sorted(set(counts))
    if len(known) > 1:
        raise DataError(
            f"{prefix}: shards of builds in {' and in '.join(map(str, known))} parts are there; start every task with "
            "the same number, or remove the shards of one build"
        )
    return known[0] if known else None


def shard_count(prefix: str | Path, told: int | None = None) -> int:
    """In how many shards the corpus of a prefix is built. Raises DataError where none says so, or another number."""
    prefix = Path(prefix)
    found = _only_count(prefix, (int(name["count"]) for name in _names(prefix)))
    if found is None and told is None:
        raise DataError(f"{prefix}: no shard {prefix.name}-*-of-* is there or begun; say how many by --shards")
    if None not in (found, told) and found != told:
        raise DataError(f"{prefix}: is built in {found} shards, not in {told}; say {found}, or remove those shards")
    return int(found or told or 0)


def shard_states(prefix: str | Path, count: int) -> list[ShardState]:
    """How far each of the shards of a prefix is. Opens those that have a manifest, which reads no text."""
    from concurrent.futures import ThreadPoolExecutor

    prefix = Path(prefix)
    with ThreadPoolExecutor(OPENING_THREADS) as pool:
        return list(pool.map(lambda index: _state(shard_prefix(prefix, index, count), index), range(count)))


def _state(shard: Path, index: int) -> ShardState:
    from megatron_ettin.corpus.reader import open_corpus  # imports numpy, which a build does without

    owner, standing = owner_of(shard.parent, claim_name(shard)) if shard.parent.is_dir() else (None, "free")
    if standing in ("alive", "undecided"):
        return ShardState(index=index, state="running", detail=str(owner))
    try:
        outputs = _outputs(shard)
        for output in outputs:
            open_corpus(output)
    except (DataError, OSError) as error:
        return ShardState(index=index, state="damaged", detail=str(error))
    if outputs:
        return ShardState(index=index, state="finished")
    return ShardState(index=index, state="interrupted" if staging_folder(shard).is_dir() else "missing")


def _outputs(shard: Path) -> list[Path]:
    """The corpora that a shard consists of, once its first manifest is there: one for each key."""
    if member(shard, ".json").is_file():
        return [shard]
    beside = sorted(shard.parent.glob(f"{shard.name}_*.json"))
    manifests = [path for path in beside if not path.name.endswith(".tokenizer.json") and not path.is_symlink()]
    if not manifests:
        return []
    first = read_manifest(manifests[0])
    return [megatron_prefix(shard, key, first.level) for key in first.settings["keys"]]


def array_list(indices: Iterable[int]) -> str:
    """Numbers, ascending, as ``sbatch --array`` takes them: ``0,3-5``."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and runs[-1][1] == index - 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def shards_beside(prefix: str | Path) -> list[Path]:
    """The finished shards of a build with one key, in order. Raises DataError for none, and for several builds."""
    prefix = Path(prefix)
    found = [name for name in _names(prefix) if not name["begun"] and not name["key"]]
    if not found:
        raise DataError(f"{prefix}: no shards {prefix.name}-*-of-*.json there; name the corpora to join")
    _only_count(prefix, (int(name["count"]) for name in found))
    ordered = sorted(found, key=lambda name: int(name["index"]))
    return [corpus_prefix(prefix.parent / name[0]) for name in ordered]


def require_same_build(job: Job) -> None:
    """Raise DataError when shards at the prefix of a job are of another number, of other inputs or settings."""
    if job.options.shard is None:
        return
    (index, count), found = job.options.shard, _names(job.base)
    if others := {int(name["count"]) for name in found} - {count}:
        raise DataError(
            f"{job.base}: shards of a build in {min(others)} parts are there, but this is one of {count}; start every "
            f"task of a build with the same number, or remove {job.base}-*-of-{min(others):05d}*"
        )
    siblings = (job.base.parent / name[0] for name in found if not name["begun"] and int(name["index"]) != index)
    if (sibling := next(siblings, None)) is not None:
        manifest = read_manifest(sibling)
        require_same_settings(manifest, job.manifest_settings, sibling, job.prefix)
        if manifest.tokenizer.sha256 != job.tokenizer.fingerprint:
            raise DataError(f"{job.prefix}: is to be of the same build as {sibling}, which has another tokenizer")


def require_same_settings(one: Manifest, other: dict[str, object], name: Path, other_name: Path) -> None:
    """Raise DataError when two shards are of other inputs or settings; what one does not say is not compared."""
    for setting in (*CONTENT_FIELDS, "inputs"):
        if setting == "shard" or setting not in one.settings or setting not in other:
            continue
        if one.settings[setting] != other[setting]:
            what = "input files" if setting == "inputs" else f"{setting}={one.settings[setting]}"
            raise DataError(
                f"{other_name}: is to be of the same build as {name}, which has other {what}; every shard is built "
                "from the same files with the same flags"
            )
