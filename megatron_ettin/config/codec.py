"""A run as plain data: dictionaries and back, strictly; one fingerprint; differences a person can read."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

from megatron_ettin.config.run import RunConfig
from megatron_ettin.errors import ConfigError, suggest
from megatron_ettin.typed_json import FieldError, decode, field_types, join

T = TypeVar("T")


def to_dict(value: object) -> Any:  # noqa: ANN401
    """A dataclass as JSON-ready data: nested dictionaries, tuples as lists."""
    if is_dataclass(value):
        return {item.name: to_dict(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, tuple):
        return [to_dict(item) for item in value]
    return value


def from_dict(kind: type[T], data: object, where: str = "") -> T:
    """The inverse of ``to_dict``; missing fields take their defaults.

    Raises ConfigError for an unknown or missing field or a value of another type, naming its dotted path.
    """
    try:
        return decode(kind, data, where, strict=True)
    except FieldError as error:
        raise ConfigError(str(error)) from error


def run_from_dict(data: object) -> RunConfig:
    """A run from the content of a run folder's config.json."""
    return from_dict(RunConfig, data)


def to_json(config: RunConfig) -> str:
    """The text of a run folder's config.json."""
    return json.dumps(to_dict(config), indent=2) + "\n"


def with_fields(config: T, values: dict[str, object]) -> T:
    """A copy with fields replaced by dotted path: ``with_fields(config, {"layout.tensor": 2})``."""
    for path, value in values.items():
        config = with_field(config, path.split("."), value)
    return config


def with_field(config: T, path: list[str], value: object) -> T:
    """A copy with one field replaced; raises ConfigError for an unknown name."""
    name, *rest = path
    known = field_types(type(config))  # type: ignore[arg-type]
    if name not in known:
        raise ConfigError(f"{name} is not a field of {type(config).__name__}{suggest(name, list(known))}")
    inner = with_field(getattr(config, name), rest, value) if rest else from_dict(known[name], to_dict(value), name)
    return replace(config, **{name: inner})  # type: ignore[type-var]


def flatten(config: object, where: str = "") -> dict[str, object]:
    """Every leaf field by its dotted path."""
    leaves: dict[str, object] = {}
    for item in fields(config):  # type: ignore[arg-type]
        value, path = getattr(config, item.name), join(where, item.name)
        leaves |= flatten(value, path) if is_dataclass(value) else {path: value}
    return leaves


FREE_PREFIXES = ("layout.", "checkpoint.", "observe.")
FREE_FIELDS = (
    "data.data", "data.index_folder", "compute.attention", "compute.loss_chunk_bytes", "compute.kernels",
    "compute.compile", "compute.deterministic", "compute.threads", "compute.fp8_kernels",
)  # fmt: skip
FP8_FIELDS = ("compute.fp8_recipe", "compute.fp8_ends_in_bf16")
"""Without effect in another precision, and then no part of what a run is."""
UNSAID_AT_DEFAULT = (
    "data.temperature", "data.stage_number", "data.first_row", "start.planned", "data.mask_share_end",
    "data.causal_share", "optimizer.freeze",
)  # fmt: skip
"""Fields that fingerprints hold only where they are set: runs are recognised that began before there were these."""
GUARD_PREFIX = "guard."
"""Without effect on what is learned, unless a spike refuses updates."""
CHANGEABLE_PREFIXES = ("schedule.", "optimizer.", GUARD_PREFIX, *FP8_FIELDS)
"""What a run may change at one of its checkpoints, on record: neither the model nor the rows of a step."""


def changes_result(path: str) -> bool:
    """Whether a field changes what is learned, beyond rounding; where files lie and who computes does not."""
    return not path.startswith(FREE_PREFIXES) and path not in FREE_FIELDS


def guard_acts(config: RunConfig) -> bool:
    """Whether the guard refuses updates of finite numbers, and so changes what is learned."""
    return config.guard.on_spike in ("skip", "rewind")


def fingerprint(config: RunConfig) -> str:
    """A sha256 of every field that changes what is learned; equal under every layout, precision apart."""
    idle = () if config.compute.precision == "fp8" else FP8_FIELDS
    unsaid = flatten(RunConfig(objective="mlm", stage="pretrain", model=config.model, schedule=config.schedule))
    leaves = {
        path: to_dict(value)
        for path, value in flatten(config).items()
        if changes_result(path)
        and path not in idle
        and (guard_acts(config) or not path.startswith(GUARD_PREFIX))
        and not (path in UNSAID_AT_DEFAULT and value == unsaid[path])
    }
    return hashlib.sha256(json.dumps(leaves, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Difference:
    """One field in which two runs differ."""

    path: str
    old: object
    new: object

    def __str__(self) -> str:
        return f"{self.path}: {self.old!r} -> {self.new!r}"


def differences(old: RunConfig, new: RunConfig) -> list[Difference]:
    """The fields in which two runs differ, in the order of declaration."""
    before, after = flatten(old), flatten(new)
    return [Difference(path, before[path], after[path]) for path in before if before[path] != after[path]]


def check_resume(old: RunConfig, new: RunConfig) -> list[Difference]:
    """What a resumed run changes; raises ConfigError when that would make it another run.

    Layout, checkpoints, logging and the place of files may change, and a flat schedule may be made longer.
    """
    found = differences(old, new)
    if refused := changes_of_result(old, new):
        changeable = all(item.path.startswith(CHANGEABLE_PREFIXES) for item in refused)
        raise ConfigError(
            "this folder holds a run with other settings:\n  "
            + "\n  ".join(map(str, refused))
            + "\nuse the same settings to resume, or another --run folder for another run"
            + ("; or go on from one of its checkpoints with the change on record: --change-at STEP" * changeable)
        )
    return found


def check_change(old: RunConfig, new: RunConfig) -> list[Difference]:
    """What a run changes at one of its checkpoints; raises ConfigError for a field that it may not change there."""
    found = changes_of_result(old, new)
    kept = ("schedule.tokens",) if new.data.mask_share_end else ()  # the masks of past rows depend on it
    if refused := [item for item in found if not item.path.startswith(CHANGEABLE_PREFIXES) or item.path in kept]:
        raise ConfigError(
            "--change-at changes schedule, optimizer, guard and fp8 scales, but neither its model nor its rows:\n  "
            + "\n  ".join(map(str, refused))
            + "\nuse the settings of the run for these, or another --run folder for another run"
        )
    return found


def changes_of_result(old: RunConfig, new: RunConfig) -> list[Difference]:
    """The differences between two runs by which they would learn something else."""
    idle: tuple[str, ...] = () if guard_acts(old) or guard_acts(new) else (GUARD_PREFIX,)
    if old.schedule.shape == "warmup_stable" and not old.data.mask_share_end:  # its past does not depend on its end
        idle += ("schedule.tokens",)
    return [item for item in differences(old, new) if changes_result(item.path) and not item.path.startswith(idle)]
