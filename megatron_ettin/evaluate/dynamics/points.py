"""Curves of checkpoints: what the user names becomes points, each with its place in the training."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from megatron_ettin.checkpoint.standing import stored_run
from megatron_ettin.config.objective import OBJECTIVES, kinds_of
from megatron_ettin.errors import CheckpointError, ConfigError, first_line
from megatron_ettin.evaluate.dynamics.origins import ExportedFolder, HubRevision, Origin, RunExport, StoredCheckpoint
from megatron_ettin.evaluate.suites.subjects import Subject, subject_of
from megatron_ettin.export.config_json import kind_of
from megatron_ettin.export.hub import is_hub_name
from megatron_ettin.export.runs import REVISIONS, TRAINING_FILE
from megatron_ettin.plans.chosen import chosen_run
from megatron_ettin.plans.folder import recorded_stages
from megatron_ettin.run_folder import being_trained, is_plan, is_run, list_checkpoints, parse_source
from megatron_ettin.typed_json import parse_json

STAGES = tuple(REVISIONS.values())
"""Prefixes of revisions, in the order of training."""
REVISION = re.compile(rf"(?P<stage>{'|'.join(STAGES)})-?(?P<step>\d+)(-tokens(?P<billions>\d+)B)?")
"""Names of checkpoints: ours and the published ones, and other makers' step1000 and step1000-tokens4B."""
PUBLISHED = re.compile(r"jhu-clsp/ettin-(encoder|decoder)-\w+")
PUBLISHED_STAGES = {"step": (599_525, 1_700e9), "ext": (50_854, 250e9), "decay": (8_210, 50e9)}
"""Prefix -> (last step, tokens) of a published stage, whose steps all saw the same number of tokens."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One checkpoint of a curve."""

    curve: str
    revision: str
    """``step1200``; unique in its curve."""
    source: str
    """What names this checkpoint alone."""
    origin: Origin
    stage: int
    """Place of its stage in the training."""
    step: int | None
    """Of the stage."""
    tokens: float | None
    """Seen since the curve began."""
    run: Path | None = None
    """The run that it is of, which knows what was read."""

    @property
    def name(self) -> str:
        """In results and tables."""
        return f"{self.curve}@{self.revision}"

    def facts(self) -> dict[str, Any]:
        """For results."""
        return {
            "curve": self.curve, "revision": self.revision, "stage": self.stage, "step": self.step,
            "tokens": self.tokens, "run": None if self.run is None else str(self.run),
            "known_by": self.origin.known_by(),
        }  # fmt: skip

    @contextlib.contextmanager
    def opened(self, mntp: Collection[str] = ()) -> Iterator[Subject]:
        """The model, for the while. Raises CheckpointError, ConfigError."""
        with self.origin.folder() as folder:
            yield subject_of(
                self.name, self.source, folder, self.curve in mntp, fingerprint=self.origin.fingerprint(),
                point=self.facts(),
            )  # fmt: skip


def points_of(models: Sequence[str]) -> list[Point]:
    """All checkpoints of runs, of folders of exports and of hub repositories; of one named alone, that one.

    Sources of one name (``NAME=SOURCE``, else the last part of their path) are one curve; where a later one is of a
    later stage, or of another run, its tokens count on from the last of the one before. Raises CheckpointError,
    ConfigError.
    """
    found: dict[str, list[Point]] = {}
    for model in models:
        given, mark, source = model.partition("=")
        source = source if mark else model
        points = _of_source(given if mark else "", source)
        if not points:
            raise CheckpointError(f"{source} has no checkpoints")
        for curve_name in dict.fromkeys(point.curve for point in points):
            curve = found.setdefault(curve_name, [])
            curve += _counting_on(curve, [point for point in points if point.curve == curve_name])
    for curve_name, curve in found.items():
        names = [point.revision for point in curve]
        if doubled := next((name for name in names if names.count(name) > 1), None):
            raise ConfigError(
                f"{curve_name} has two checkpoints {doubled}; name one of their sources another: NAME=SOURCE"
            )
    return [point for curve in found.values() for point in curve]


def _of_source(name: str, source: str) -> list[Point]:
    """The points of one source, in the order of training, with the tokens of each one's own stage."""
    if is_hub_name(source):
        return _of_hub(name, source)
    path, step = parse_source(source)
    if is_plan(path) and step is None:
        return _of_plan(name or path.resolve().name, path)
    path = chosen_run(path, print)
    if is_run(path):
        return _of_run(name or path.resolve().name, path, step)
    if (path / "config.json").is_file():
        return [_of_export(name or path.resolve().parent.name, path)]
    if path.is_dir():
        folders = [folder for folder in sorted(path.iterdir()) if (folder / "config.json").is_file()]
        if not folders:
            raise CheckpointError(f"{path} is no run, and none of its folders holds an exported model")
        return _in_order([_of_export(name or path.resolve().name, folder) for folder in folders])
    raise CheckpointError(f"{source} is no run, no folder of exports and no name of a hub repository")


def _of_plan(name: str, folder: Path) -> list[Point]:
    """The checkpoints of all stages; their revisions are named by their stages, of which several may be of one kind."""
    found: dict[str, list[Point]] = {}
    for place, (stage, run) in enumerate(recorded_stages(folder)):
        for curve, points in groupby(_of_run(name, run, None), key=lambda point: point.curve):
            known = found.setdefault(curve, [])
            named = [replace(point, revision=f"{stage}{point.step}", stage=place) for point in points]
            known += _counting_on(known, named)
    return [point for points in found.values() for point in points]


def _of_run(name: str, run: Path, step: int | None) -> list[Point]:
    """The checkpoints of a run; one that trains an encoder and a decoder in one is two curves."""
    if line := being_trained(run):
        print(line)
    checkpoints = list_checkpoints(run)
    objective = OBJECTIVES[stored_run(checkpoints[-1])[1].objective] if checkpoints else None
    if objective is None or not objective.mixes:
        return _checkpoints_of(name, run, step, RunExport())
    kinds = [kind_of(one) for one in kinds_of(objective)]
    return [point for kind in kinds for point in _checkpoints_of(f"{name}-{kind}", run, step, RunExport(kind))]


def _checkpoints_of(name: str, run: Path, step: int | None, export: RunExport) -> list[Point]:
    """The checkpoints of a run, or that of a step, in one form. Raises CheckpointError where that step is not there."""
    points = []
    for checkpoint in list_checkpoints(run):
        if step not in (None, checkpoint.step):
            continue
        state, config = stored_run(checkpoint)
        stage = REVISIONS[config.stage]
        points.append(Point(
            curve=name, revision=f"{stage}{state.step}", source=f"{run}@{checkpoint.step}",
            origin=StoredCheckpoint(checkpoint, export), stage=STAGES.index(stage), step=state.step,
            tokens=float(state.tokens), run=run,
        ))  # fmt: skip
    if step is not None and not points:
        raise CheckpointError(f"{run} has no checkpoint of step {step}")
    return points


def _of_export(name: str, folder: Path) -> Point:
    path = folder / TRAINING_FILE
    plain = _named(name, folder.name, str(folder), ExportedFolder(folder))
    if not path.is_file():
        return plain
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        stage, state = REVISIONS[content["run"]["stage"]], content["state"]
        return replace(
            plain, revision=str(content["revision"]), stage=STAGES.index(stage), step=int(state["step"]),
            tokens=float(state["tokens"]),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error!r}; remove it, or export the run again") from error


def _named(curve: str, revision: str, source: str, origin: Origin) -> Point:
    """A point of which no more than the name is known."""
    match = REVISION.fullmatch(revision)
    return Point(
        curve=curve, revision=revision, source=source, origin=origin,
        stage=STAGES.index(match["stage"]) if match else 0, step=int(match["step"]) if match else None,
        tokens=1e9 * int(match["billions"]) if match and match["billions"] else None,
    )  # fmt: skip


def _of_hub(name: str, source: str) -> list[Point]:
    """One revision of a repository, or all of those that are named as checkpoints."""
    from huggingface_hub import HfApi

    repository, mark, revision = source.partition("@")
    curve = name or repository.rpartition("/")[2]
    commits = {}
    try:
        refs = HfApi().list_repo_refs(repository)
        commits = {ref.name: ref.target_commit for ref in (*refs.tags, *refs.branches)}
    except Exception as error:  # the hub's client raises many kinds, all of them for the user
        if not mark:
            raise CheckpointError(
                f"{source} is no folder here, and the hub does not list its revisions ({first_line(error)}); check "
                f"the name and the network, or name those that have been fetched: {source}@REVISION"
            ) from error
    wanted = [revision] if mark else [ref for ref in commits if REVISION.fullmatch(ref)]
    if not wanted:
        raise CheckpointError(
            f"{source} has no revisions that are named as checkpoints (step1000, ext50, ...); name them: "
            f"{source}@REVISION"
        )
    points = []
    for ref in wanted:
        point = _named(curve, ref, f"{repository}@{ref}", HubRevision(repository, ref, commits.get(ref, "")))
        points.append(replace(point, tokens=_published(point, repository)) if point.tokens is None else point)
    return _in_order(points)


def _published(point: Point, repository: str) -> float | None:
    """Tokens that a published checkpoint had seen in its stage."""
    stage = STAGES[point.stage]
    if not PUBLISHED.fullmatch(repository) or stage not in PUBLISHED_STAGES or point.step is None:
        return None
    steps, tokens = PUBLISHED_STAGES[stage]
    return point.step * tokens / steps


def _in_order(points: Sequence[Point]) -> list[Point]:
    """In the order of training; the tokens of a stage count on from the last of the stage before."""
    ordered: list[Point] = []
    numbered = sorted(points, key=lambda point: (point.stage, point.step if point.step is not None else -1))
    for _, stage in groupby(numbered, key=lambda point: point.stage):
        ordered += _counting_on(ordered, list(stage))
    return ordered


def _counting_on(before: Sequence[Point], points: Sequence[Point]) -> list[Point]:
    """Points behind those of an earlier stage or run: their tokens on top of the last one's."""
    if not before or not points:
        return list(points)
    last, first = before[-1], points[0]
    if last.stage == first.stage and last.run == first.run:
        return list(points)
    if last.tokens is None:
        return [replace(point, tokens=None) for point in points]
    return [
        replace(point, tokens=None if point.tokens is None else last.tokens + point.tokens) for point in points
    ]
