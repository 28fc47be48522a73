"""A run as plain data: dictionaries and back, strictly; one fingerprint; differences a person can read."""

from __future__ import annotations

import difflib
import hashlib
import json
import types
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from megatron_ettin.config.run import RunConfig
from megatron_ettin.errors import ConfigError

T = TypeVar("T")

LIKE = 0.5
"""Share of a name's letters that a misspelt one has in common with it."""


def suggest(name: str, known: list[str]) -> str:
    """The part of an error message that helps with a misspelt name."""
    near = closest(name, known)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else f"; known: {', '.join(known)}"


def closest(name: str, known: list[str]) -> list[str]:
    """The known names that resemble a misspelt one most, all that do equally; none where nothing does."""
    likeness = {other: difflib.SequenceMatcher(None, name, other).ratio() for other in known}
    best = max(likeness.values(), default=0.0)
    return [other for other in known if likeness[other] == best >= LIKE]


def hints(kind: Any) -> dict[str, Any]:  # noqa: ANN401
    """The resolved field types of a dataclass."""
    return get_type_hints(kind)


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
    if not isinstance(data, dict):
        raise ConfigError(f"{where or kind.__name__} must be a table of fields, not {data!r}")
    types_of = hints(kind)
    for name in data:
        if name not in types_of:
            raise ConfigError(f"{join(where, name)} is not a field{suggest(str(name), list(types_of))}")
    values = {name: decode(types_of[name], value, join(where, name)) for name, value in data.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise ConfigError(f"{where or kind.__name__}: {str(error).split(') ')[-1]}; add what is missing") from error


def join(where: str, name: str) -> str:
    """A dotted path."""
    return f"{where}.{name}" if where else name


def decode(kind: Any, value: Any, where: str) -> Any:  # noqa: ANN401
    """One value checked against its declared type; whole numbers are accepted for floats."""
    if is_dataclass(kind):
        return from_dict(kind, value, where)  # type: ignore[arg-type]
    origin, options = get_origin(kind), get_args(kind)
    if origin is Literal:
        if value not in options:
            raise ConfigError(f"{where}={value!r} is not one of {', '.join(map(str, options))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where}={value!r} must be a list")
        return tuple(decode(options[0], item, where) for item in value)
    if origin in (Union, types.UnionType):
        return None if value is None else decode(options[0], value, where)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ConfigError(f"{where}={value!r} must be of type {kind.__name__}")
    return value


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
    known = hints(type(config))
    if name not in known:
        raise ConfigError(f"{name} is not a field of {type(config).__name__}{suggest(name, list(known))}")
    inner = with_field(getattr(config, name), rest, value) if rest else decode(known[name], to_dict(value), name)
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
    "data.data", "compute.attention", "compute.loss_chunk_bytes", "compute.compile", "compute.deterministic",
    "compute.threads",
)  # fmt: skip
FP8_FIELDS = ("compute.fp8_recipe", "compute.fp8_ends_in_bf16")
"""Without effect in another precision, and then no part of what a run is."""


def changes_result(path: str) -> bool:
    """Whether a field changes what is learned, beyond rounding; where files lie and who computes does not."""
    return not path.startswith(FREE_PREFIXES) and path not in FREE_FIELDS


def fingerprint(config: RunConfig) -> str:
    """A sha256 of every field that changes what is learned; equal under every layout, precision apart."""
    idle = () if config.compute.precision == "fp8" else FP8_FIELDS
    leaves = {
        path: to_dict(value) for path, value in flatten(config).items() if changes_result(path) and path not in idle
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
    refused = [item for item in found if changes_result(item.path) and not extends(old, item)]
    if refused:
        raise ConfigError(
            "this folder holds a run with other settings:\n  "
            + "\n  ".join(map(str, refused))
            + "\nuse the same settings to resume, or another --run folder for another run"
        )
    return found


def extends(old: RunConfig, item: Difference) -> bool:
    """Whether a difference only moves the end of a schedule whose past does not depend on its end."""
    return item.path == "schedule.tokens" and old.schedule.shape == "warmup_stable"
