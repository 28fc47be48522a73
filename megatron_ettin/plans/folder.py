"""The folder of a plan: what was resolved, which stages have begun, and what they go on from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from megatron_ettin.config import codec
from megatron_ettin.config.derived import with_vocabulary
from megatron_ettin.config.run import RunConfig
from megatron_ettin.errors import ConfigError
from megatron_ettin.plans.plan import Plan
from megatron_ettin.plans.resolve import Choices, Stage, begun_from
from megatron_ettin.publish import remove_staged, write_atomically
from megatron_ettin.regular_files import read_regular
from megatron_ettin.run_folder import PLAN, furthest_save, is_run, known_settings, read_config, stage_folder
from megatron_ettin.schedule import batch_schedule
from megatron_ettin.typed_json import parse_json


def run_of_stage(folder: Path, stage: Stage) -> Path:
    """The run folder of a stage."""
    return stage_folder(folder, stage.place, stage.name)


def record_plan(folder: Path, plan: Plan, choices: Choices, stages: Sequence[Stage]) -> None:
    """Write plan.json. Raises ConfigError where the folder holds a run, or other stages have begun in it."""
    if is_run(folder):
        raise ConfigError(f"--run {folder}: holds a single run; choose another folder for the stages of a plan")
    refuse_changed(folder, stages)
    content = {
        "plan": codec.to_dict(plan),
        "size": choices.size,
        "objective": choices.objective or plan.objective,
        "scale": choices.scale,
        "split": choices.split if choices.split is not None else plan.split,
        "stages": [
            {
                "name": stage.name,
                "folder": run_of_stage(folder, stage).name,
                "carries": list(stage.carries),
                "config": codec.to_dict(stage.config),
            }
            for stage in stages
        ],
    }
    try:
        remove_staged(folder, PLAN)
        write_atomically(folder / PLAN, json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise ConfigError(f"--run {folder}: cannot write there ({error}); choose another folder") from error


def recorded_stages(folder: Path) -> list[tuple[str, Path]]:
    """Name and run folder of each stage in plan.json, none where there is no such file. Raises ConfigError."""
    path = folder / PLAN
    try:
        content: Any = parse_json(read_regular(path))
        return [(str(stage["name"]), folder / Path(stage["folder"]).name) for stage in content["stages"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; restore it, or give another folder") from error


def refuse_changed(folder: Path, stages: Sequence[Stage]) -> None:
    """Raise ConfigError where a stage that has begun in the folder is another one in ``stages``."""
    names = dict(enumerate([stage.name for stage in stages], start=1))
    found = [
        f"stage {place} is {name!r} in the folder, and {names.get(place, 'none')!r} here"
        for place, (name, run) in enumerate(recorded_stages(folder), start=1)
        if has_begun(run) and names.get(place) != name
    ]
    begun = [stage for stage in stages if not found and has_begun(run_of_stage(folder, stage))]
    found += [
        f"stage {stage.name!r}: {change}"
        for stage in begun
        for change in changes_of(folder, stage, ended=stage is not begun[-1])
    ]
    if found:
        raise ConfigError(
            f"{folder} was begun with another plan:\n  " + "\n  ".join(found) + f"\ngo on with the plan that is in "
            f"{folder / PLAN}, or give another folder"
        )


def has_begun(run: Path) -> bool:
    """Whether a stage has settings or checkpoints in its folder."""
    return run.is_dir() and known_settings(run) is not None


def changes_of(folder: Path, stage: Stage, *, ended: bool) -> Iterator[str]:
    """What is different in a stage that has begun; one that another goes on from keeps its length as well."""
    run = run_of_stage(folder, stage)
    stored = known_settings(run)
    assert stored is not None
    ours = with_vocabulary(stage.config, stored.model.vocabulary)
    if stage.place > 1:
        ours = as_begun(ours, stored)
    different = codec.changes_of_result(stored, ours)
    known = [item.path for item in different]
    if ended and stored.schedule.tokens != ours.schedule.tokens and "schedule.tokens" not in known:
        different.append(codec.Difference("schedule.tokens", stored.schedule.tokens, ours.schedule.tokens))
    yield from map(str, different)


def as_begun(config: RunConfig, stored: RunConfig) -> RunConfig:
    """The run of a later stage with what became known when it began: its folder may have moved since."""
    return replace(
        config,
        start=replace(config.start, from_run=stored.start.from_run),
        data=replace(config.data, first_row=stored.data.first_row),
    )


def furthest_begun(folder: Path, stages: Sequence[Stage]) -> Stage:
    """The last stage that has saved a checkpoint, before which all are over; the first one where none has."""
    saved = [stage for stage in stages if (run := run_of_stage(folder, stage)).is_dir() and furthest_save(run)]
    return saved[-1] if saved else stages[0]


def settings_of(folder: Path, stage: Stage, before: Stage | None, steps_before: Callable[[], int]) -> RunConfig:
    """The run of a stage as it begins, or as it has begun, after the stage before has taken ``steps_before`` steps."""
    if before is None:
        return stage.config
    if (stored := known_settings(run_of_stage(folder, stage))) is not None:
        return as_begun(stage.config, stored)
    run = run_of_stage(folder, before)
    config = read_config(run)
    consumed = sum(batch_schedule(config.batch, config.data.row_length).rows_at(steps_before() - 1))
    return begun_from(stage, run, config.data.first_row + consumed)
