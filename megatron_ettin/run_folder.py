"""What lies where in the folder of a run: the one place that knows the names. Needs neither torch nor numpy.

    RUN/config.json            the settings            RUN/metrics.jsonl   a record for each step
    RUN/environment.json       what it was started on  RUN/console.log     the lines for people
    RUN/command.txt            how it was started      RUN/tensorboard/    the same figures, for TensorBoard
    RUN/order/data.json        what it reads           RUN/saves.jsonl     a line for each checkpoint that was saved
    RUN/tokenizer.json         its tokenizer, for the corpus may go
    RUN/changes.jsonl          a line for each return to an earlier checkpoint, by a spike or with other settings
    RUN/start.json             the model that `ettin adapt` goes on from
    RUN/corpus/                the text that it has prepared
    RUN/export/                the Hugging Face folder that it ends with
    RUN/checkpoints/           LATEST and a folder for each saved step:
    step-NNNNNNNN/state.json, step-NNNNNNNN/shards/, step-NNNNNNNN/manifest.json

A plan has a folder of its own, with a run folder for each of its stages:

    FOLDER/plan.json           the plan and its stages    FOLDER/1-NAME/, 2-NAME/, ...
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ettin.config import codec
from megatron_ettin.config.run import RunConfig
from megatron_ettin.errors import CheckpointError, ConfigError, DamagedError, OwnershipError
from megatron_ettin.ownership import Claim, owned, owner_of
from megatron_ettin.publish import remove_staged, write_atomically
from megatron_ettin.regular_files import read_regular
from megatron_ettin.tokenizer.identity import TokenizerIdentity
from megatron_ettin.typed_json import parse_json

CONFIG, ENVIRONMENT, COMMAND = "config.json", "environment.json", "command.txt"
METRICS, CONSOLE, TENSORBOARD = "metrics.jsonl", "console.log", "tensorboard"
TOKENIZER = "tokenizer.json"
"""The run's own copy of the tokenizer that made what it reads."""
ORDER, DATA_RECORD = "order", "order/data.json"
CHECKPOINTS, LATEST = "checkpoints", "LATEST"
SAVES, CHANGES = "saves.jsonl", "changes.jsonl"
START, CORPUS, EXPORT = "start.json", "corpus/text", "export"
"""Of a run of `ettin adapt`: what it goes on from, the prefix of the corpus prepared for it, and its export."""
OWNER = "run"
"""What a run's owner owns (``ownership``)."""
EXIT_TAKEN_OVER = 72
"""Exit status of a process whose run another one has taken over (EX_OSFILE)."""
STATE, SHARDS, MANIFEST = "state.json", "shards", "manifest.json"
PLAN = "plan.json"

_STEP = re.compile(r"step-(\d{8,})")
_LEFTOVER = re.compile(r"\.(step-\d{8,})\.(incomplete|deleted)-.*")
_WRITTEN_WHOLE = (
    CONFIG, ENVIRONMENT, COMMAND, METRICS, f"{Path(METRICS).stem}.repeated-*.jsonl", TOKENIZER, SAVES, CHANGES, START,
    LATEST, Path(DATA_RECORD).name,
)  # fmt: skip
"""Files that the run's owner writes beside their name and renames; other programs may write others at this moment."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A folder with the name of a checkpoint; whether it is whole is its manifest's to say."""

    path: Path
    """The folder."""
    step: int
    """Steps taken when it was saved."""


def is_run(folder: Path) -> bool:
    """Whether ``folder`` is that of a run, also of one that has lost some of its parts.

    Raises OSError when that cannot be read.
    """
    if (folder / CHECKPOINTS).is_dir() or (folder / METRICS).is_file():
        return True
    try:
        content = parse_json(read_regular(folder / CONFIG))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    return isinstance(content, dict) and isinstance(content.get("model"), dict) and "objective" in content


def is_plan(folder: Path) -> bool:
    """Whether ``folder`` is that of a plan."""
    return (folder / PLAN).is_file()


def stage_folder(folder: Path, place: int, name: str) -> Path:
    """The run folder of a stage of a plan; ``place`` counts from 1."""
    return folder / f"{place}-{name}"


def refuse_plan_folder(folder: Path) -> None:
    """Raise ConfigError for a folder that holds the stages of a plan, where a run is to be."""
    if is_plan(folder):
        raise ConfigError(f"--run {folder}: holds the stages of a plan; go on with --plan, or choose another folder")


def read_config(run: Path) -> RunConfig:
    """The settings of a run. Raises ConfigError when there are none or they cannot be read."""
    path = Path(run) / CONFIG
    try:
        return codec.run_from_dict(parse_json(read_regular(path)))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give the folder of a run that has been started") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} does not hold the settings of a run: {error}; give another run folder") from error


def read_environment(run: Path) -> dict[str, Any]:
    """What a run was last started on. Raises ConfigError when it is not on record."""
    path = Path(run) / ENVIRONMENT
    try:
        return dict(parse_json(read_regular(path)))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; give the folder of a run that has been started") from error


def parse_source(text: str) -> tuple[Path, int | None]:
    """``RUN`` or ``RUN@step`` as a folder and a step (None: the newest); a folder of just this name wins."""
    folder, mark, step = text.rpartition("@")
    if not mark or "/" in step or Path(text).is_dir():
        return Path(text), None
    if not step.isdigit():
        raise CheckpointError(f"{text}: after @ comes a step number, such as {folder}@1200")
    return Path(folder), int(step)


@contextlib.contextmanager
def own_run(run: Path, command: str, *, take_over: bool = False) -> Iterator[Claim]:
    """Own a run's folder, which is made where it is missing, for as long as something is written into it.

    This process ends at once when another one has taken over. Raises OwnershipError when the folder has an owner that
    lives, ConfigError when the folder cannot be made.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--run {run}: cannot write there ({error}); choose another folder") from error

    def end(error: OwnershipError) -> None:
        say(f"error: {error}")
        os._exit(EXIT_TAKEN_OVER)

    def say(text: str) -> None:
        with contextlib.suppress(OSError):  # a terminal that is gone
            print(text, file=sys.stderr, flush=True)

    with owned(run, OWNER, command, take_over=take_over, say=say, on_loss=end) as claim:
        yield claim


def being_trained(run: Path) -> str:
    """A line for whoever reads a run that is being trained at this moment; empty where it is not."""
    owner, standing = owner_of(run, OWNER)
    if owner is None or standing not in ("alive", "undecided"):
        return ""
    return f"{run} is being trained by {owner}; what it has saved so far is taken"


def repeated_records(run: Path, number: int) -> Path:
    """Where records of steps go that a resumed run takes again: one file for each time."""
    return Path(run) / f"{Path(METRICS).stem}.repeated-{number}.jsonl"


def checkpoints_of(run: Path) -> Path:
    """The folder that holds the checkpoints of ``run``."""
    return Path(run) / CHECKPOINTS


def latest_of(run: Path) -> Path:
    """The file that names the newest checkpoint; it is there once one has been saved."""
    return checkpoints_of(run) / LATEST


def path_of(run: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` belongs."""
    return checkpoints_of(run) / f"step-{step:08d}"


def list_checkpoints(run: Path) -> list[Checkpoint]:
    """Every published checkpoint of ``run``, oldest first; unverified."""
    folder = checkpoints_of(run)
    names = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    matches = [(path, _STEP.fullmatch(path.name)) for path in names]
    found = [Checkpoint(path=path, step=int(match.group(1))) for path, match in matches if match]
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def read_numbers(checkpoint: Checkpoint) -> dict[str, Any]:
    """The content of state.json. Raises DamagedError when it is missing or no table, OSError when it cannot be read."""
    path = checkpoint.path / STATE
    try:
        numbers = parse_json(read_regular(path))
    except FileNotFoundError:
        raise DamagedError(f"{path} is missing") from None
    except ValueError as error:
        raise DamagedError(f"{path} is damaged: {error}") from error
    if not isinstance(numbers, dict):
        raise DamagedError(f"{path} is not a table")
    return numbers


def known_settings(run: Path) -> RunConfig | None:
    """The settings of the run in a folder: from config.json, or where that is lost from its newest checkpoint.

    None for a fresh folder. Raises ConfigError when neither can be told though there are checkpoints.
    """
    path = run / CONFIG
    if path.is_file():
        content = path.read_bytes()
        with contextlib.suppress(ValueError):
            return codec.run_from_dict(parse_json(content))
    damaged = f"{path} is damaged" if path.is_file() else f"{path} is lost"
    checkpoints = list_checkpoints(run)
    for checkpoint in reversed(checkpoints):
        with contextlib.suppress(DamagedError, ValueError):
            settings = codec.run_from_dict(read_numbers(checkpoint).get("config"))
            for change in read_changes(run):
                if change["kind"] == "settings" and change["step"] >= checkpoint.step:
                    settings = codec.with_fields(settings, {name: new for name, (_, new) in change["fields"].items()})
            return settings
    if checkpoints or path.is_file():
        raise ConfigError(f"{damaged}, and no checkpoint tells the settings; restore it, or give another --run folder")
    return None


def nearest(run: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    return next(folder for folder in (run, *run.absolute().parents) if folder.exists())


def free_bytes(run: Path) -> float:
    """Bytes free on the disk of a run, which need not have begun; infinite where the disk does not tell."""
    usage = shutil.disk_usage(nearest(run))
    return usage.free if usage.total else math.inf


def keep_tokenizer(run: Path, source: Path) -> None:
    """Keep a copy of the tokenizer.json ``source`` in the run, where it has none and there is one."""
    if source.is_file() and not (run / TOKENIZER).exists():
        write_atomically(run / TOKENIZER, source.read_bytes())


def stored_tokenizer(checkpoint: Checkpoint) -> TokenizerIdentity | None:
    """The tokenizer that a checkpoint was trained with; None where an earlier version wrote it.

    Raises CheckpointError when that cannot be read.
    """
    path = checkpoint.path / STATE
    try:
        numbers = parse_json(read_regular(path))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; take another checkpoint") from error
    return TokenizerIdentity.from_record(numbers.get("tokenizer") if isinstance(numbers, dict) else None)


def note_save(run: Path, checkpoint: Checkpoint, reason: str) -> None:
    """Write what outlives the checkpoint: a line of saves.jsonl, and LATEST, a hint for people and scripts.

    Neither is worth a run: a disk that refuses them refuses the next checkpoint too, and says so there.
    """
    with contextlib.suppress(OSError), (run / SAVES).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": checkpoint.step, "reason": reason, "time": time.time()}) + "\n")
    with contextlib.suppress(OSError):
        write_atomically(checkpoint.path.parent / LATEST, checkpoint.path.name + "\n")


def furthest_save(run: Path) -> int:
    """The highest step that was ever saved in ``run``, whatever is left of it; 0 when nothing was.

    Raises OSError when that cannot be read.
    """
    steps = [0]
    folder = checkpoints_of(run)
    if folder.is_dir():
        names = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
        steps += [int(step) for name in names for step in _STEP.findall(name)]
        if latest_of(run).is_file():
            steps += [int(step) for step in _STEP.findall(latest_of(run).read_text(encoding="utf-8", errors="replace"))]
    for line in (run / SAVES).read_bytes().splitlines() if (run / SAVES).is_file() else ():
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a line that a crash has cut off
            steps.append(int(parse_json(line)["step"]))
    return max(steps)


def note_change(run: Path, change: dict[str, Any]) -> None:
    """Add a line to changes.jsonl before the change is made; what stands there last already is not added again.

    ``kind`` is ``settings`` (``fields``: name -> [old, new]) or ``rewind`` (``refused``: the steps whose updates are
    refused from here on, ``reason``); ``step`` is that of the checkpoint from which the run goes on.
    """
    known = read_changes(run)
    if known and {name: value for name, value in known[-1].items() if name != "time"} == change:
        return
    lines = [json.dumps(line) + "\n" for line in (*known, change | {"time": time.time()})]
    write_atomically(run / CHANGES, "".join(lines))


def read_changes(run: Path) -> list[dict[str, Any]]:
    """The lines of changes.jsonl, oldest first. Raises CheckpointError when it is damaged."""
    path = Path(run) / CHANGES
    if not path.is_file():
        return []
    try:
        changes = [parse_json(line) for line in path.read_bytes().splitlines()]
        if not all(isinstance(change["kind"], str) and isinstance(change["step"], int) for change in changes):
            raise ValueError("a line is no change")
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); restore it, or remove the line") from error
    return changes


def rewinds(run: Path) -> list[dict[str, Any]]:
    """The rewinds since the settings changed last: what led to a spike under others is tried again."""
    changes = read_changes(run)
    last = max((place for place, change in enumerate(changes) if change["kind"] == "settings"), default=-1)
    return [change for change in changes[last + 1 :] if change["kind"] == "rewind"]


def rewound_steps(run: Path) -> frozenset[int]:
    """The steps whose updates are refused when they come because they led to a spike."""
    return frozenset(step for change in rewinds(run) for step in change.get("refused", []))


def go_back(run: Path, step: int) -> None:
    """Make the checkpoint of ``step`` the newest: later ones are kept under another name; nothing is deleted."""
    for checkpoint in list_checkpoints(run):
        if checkpoint.step > step:
            _keep_as(checkpoint, "undone")


def put_away(run: Path) -> Path | None:
    """Move the checkpoints of a run that is to begin again out of its way; where they are now, None: there were none.

    Nothing is deleted.
    """
    records = [run / name for name in (SAVES, CHANGES) if (run / name).is_file()]
    if not checkpoints_of(run).is_dir() and not records:
        return None
    for number in range(1, 1000):
        target = run / f"{CHECKPOINTS}.before-{number}"
        if not target.exists():
            break
    else:
        raise CheckpointError(f"{run}: too many {CHECKPOINTS}.before-* folders; delete some")
    if checkpoints_of(run).is_dir():
        checkpoints_of(run).rename(target)
    target.mkdir(exist_ok=True)
    for path in records:
        path.rename(target / path.name)
    return target


def remove_leftovers(run: Path) -> None:
    """Delete what interrupted saves, deletions and small files left. Only the one writer of a run may call this."""
    folder = checkpoints_of(run)
    for place in (run, run / ORDER, folder):
        remove_staged(place, *_WRITTEN_WHOLE)
    for path in folder.iterdir() if folder.is_dir() else ():
        if _LEFTOVER.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def set_aside(checkpoint: Checkpoint) -> Path:
    """Rename a damaged checkpoint so that its step can be saved again; nothing is deleted."""
    return _keep_as(checkpoint, "damaged")


def _keep_as(checkpoint: Checkpoint, word: str) -> Path:
    for number in range(1000):
        target = checkpoint.path.with_name(f"{word}-{checkpoint.path.name}-{number}")
        if not target.exists():
            return checkpoint.path.rename(target)
    raise CheckpointError(f"{checkpoint.path}: too many {word} copies beside it; delete the {word}-* folders")


def delete(checkpoint: Checkpoint) -> None:
    """Delete a checkpoint so that a crash in the middle leaves no half of it under its name."""
    hidden = checkpoint.path.with_name(f".{checkpoint.path.name}.deleted-")
    with contextlib.suppress(OSError):
        checkpoint.path.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)
