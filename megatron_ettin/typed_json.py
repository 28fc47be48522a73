"""Decoded JSON as frozen dataclasses and named tuples, every value checked against its declared type.

The types are ``str``, ``bool``, ``int``, ``float``, ``Count``, ``Any``, ``Literal``, ``X | None``, ``tuple[X, ...]``,
``dict[str, X]`` and classes with fields of these. A whole number is accepted for a float, no bool for a number.
"""

from __future__ import annotations

import json
import types
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from megatron_ettin.errors import suggest

T = TypeVar("T")
LONGEST_SHOWN = 80
"""Characters of a wrong value that an error shows."""


class Limits(NamedTuple):
    """The least and the largest value of a whole number."""

    least: int
    most: int


Count = Annotated[int, Limits(0, 2**63 - 1)]
"""The type of a field that counts something, or says how many bytes there are."""


class FieldError(ValueError):
    """A text that is no JSON, or a value that does not fit its type; says the dotted path of the field, not the file.

    Who knows the file turns it into an error of the package: ``DataError(f"{path}: {error}; rebuild the corpus")``.
    """


def parse_json(text: str | bytes) -> Any:  # noqa: ANN401
    """The value in a JSON text from elsewhere. Raises ValueError, also where it is nested too deeply for Python."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def load_json(text: str | bytes) -> object:
    """The value in a JSON text. Raises FieldError."""
    try:
        return cast(object, parse_json(text))
    except ValueError as error:
        raise FieldError(f"not a JSON file ({error})") from error


def decode(kind: type[T], value: object, where: str = "", *, strict: bool = False) -> T:
    """``value`` as a ``kind``; absent fields take their defaults. ``where`` is the dotted path of the value.

    Raises FieldError for a value of another type, a field that is missing, and with ``strict`` one that is not known.
    """
    return cast(T, _decode(kind, value, where, strict))


def join(where: str, name: str) -> str:
    """A dotted path with one more name."""
    return f"{where}.{name}" if where else name


@cache
def field_types(kind: Any) -> dict[str, Any]:  # noqa: ANN401 - a dataclass or a named tuple
    """The types of the fields of a class, resolved, in the order of declaration."""
    return get_type_hints(kind, include_extras=True)


class _Field(NamedTuple):
    """A field of a class, prepared for manifests of many thousand objects."""

    name: str
    kind: Any
    plain: Any
    """The type of values that are taken as they are, when they lie within ``limits``."""
    limits: Limits | None
    required: bool


@cache
def _prepared(kind: Any) -> tuple[_Field, ...]:  # noqa: ANN401
    if is_dataclass(kind):
        without = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    else:
        without = set(kind._fields) - set(kind._field_defaults)
    found = []
    for name, declared in field_types(kind).items():
        plain, limits = get_args(declared) if get_origin(declared) is Annotated else (declared, None)
        found.append(_Field(name, declared, plain, limits, name in without))
    return tuple(found)


def _decode(kind: Any, value: Any, where: str, strict: bool) -> Any:  # noqa: ANN401
    if type(value) is kind or kind is Any:
        return value
    if is_dataclass(kind) or hasattr(kind, "_fields"):
        return _object(kind, value, where, strict)
    origin, options = get_origin(kind), get_args(kind)
    if origin is Annotated:
        base, limits = options
        if type(value) is not base or not limits.least <= value <= limits.most:
            raise FieldError(f"{_shown(where, value)} must be a whole number from {limits.least} to {limits.most}")
        return value
    if origin is Literal:
        if value not in options:
            raise FieldError(f"{_shown(where, value)} is not one of {', '.join(map(str, options))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise FieldError(f"{_shown(where, value)} must be a list")
        return tuple(_decode(options[0], item, f"{where}[{i}]", strict) for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise FieldError(f"{_shown(where, value)} must be a table")
        return {name: _decode(options[1], item, join(where, name), strict) for name, item in value.items()}
    if origin in (Union, types.UnionType):
        return None if value is None else _decode(options[0], value, where, strict)
    if kind is float and type(value) is int:
        return float(value)
    raise FieldError(f"{_shown(where, value)} must be of type {kind.__name__}")


def _object(kind: Any, value: Any, where: str, strict: bool) -> Any:  # noqa: ANN401
    """A dataclass or a named tuple from a table of its fields."""
    if not isinstance(value, dict):
        raise FieldError(f"{where or kind.__name__} must be a table of fields, not {value!r:.{LONGEST_SHOWN}}")
    if strict:
        known = [field.name for field in _prepared(kind)]
        for name in value:
            if name not in known:
                raise FieldError(f"{join(where, name)} is not a field{suggest(str(name), known)}")
    decoded: dict[str, Any] = {}
    missing = []
    for name, declared, plain, limits, required in _prepared(kind):
        if name not in value:
            if required:
                missing.append(name)
            continue
        item = value[name]
        if type(item) is not plain or (limits is not None and not limits.least <= item <= limits.most):
            item = _decode(declared, item, join(where, name), strict)
        decoded[name] = item
    if missing:
        raise FieldError(f"{where or kind.__name__}: missing {', '.join(missing)}")
    return kind(**decoded)


def _shown(where: str, value: object) -> str:
    return f"{where}={value!r:.{LONGEST_SHOWN}}"
