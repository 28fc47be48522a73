"""Decoded JSON becomes typed values, or an error that names the field."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import pytest

from megatron_ettin.typed_json import Count, FieldError, decode, load_json


class Point(NamedTuple):
    x: float
    y: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Shape:
    name: str
    kind: Literal["line", "area"] = "line"
    points: tuple[Point, ...] = ()
    sizes: dict[str, Count] = field(default_factory=dict)
    parent: str | None = None
    notes: dict[str, Any] = field(default_factory=dict)


def test_values_of_every_kind_are_read() -> None:
    text = (
        '{"name": "a", "kind": "area", "points": [{"x": 1}, {"x": 2.5, "y": 3}], '
        '"sizes": {"b": 9}, "notes": {"c": [0]}}'
    )
    assert decode(Shape, load_json(text)) == Shape(
        name="a", kind="area", points=(Point(1.0), Point(2.5, 3.0)), sizes={"b": 9}, notes={"c": [0]}
    )


def test_an_unknown_field_is_ignored_or_refused() -> None:
    assert decode(Shape, {"name": "a", "colour": 1}) == Shape(name="a")
    with pytest.raises(FieldError, match="knd is not a field; did you mean 'kind'"):
        decode(Shape, {"name": "a", "knd": "area"}, strict=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 3}, "name=3 must be of type str"),
        ({"kind": "dot"}, "kind='dot' is not one of line, area"),
        ({"points": {}}, "points={} must be a list"),
        ({"points": [{"x": 1}, {"y": 1}]}, "points[1]: missing x"),
        ({"points": [{"x": True}]}, "points[0].x=True must be of type float"),
        ({"sizes": {"b": -1}}, "sizes.b=-1 must be a whole number from 0 to 9223372036854775807"),
        ({"sizes": {"b": False}}, "sizes.b=False must be a whole number"),
        ({"sizes": {"b": 2**63}}, f"sizes.b={2**63} must be a whole number"),
        ({"sizes": []}, "sizes=[] must be a table"),
        ({"parent": 0}, "parent=0 must be of type str"),
    ],
)
def test_a_wrong_value_is_refused_by_the_path_of_its_field(change: dict[str, object], message: str) -> None:
    with pytest.raises(FieldError) as caught:
        decode(Shape, {"name": "a", **change})
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", b"\xff", "[" * 100_000])
def test_what_is_no_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(FieldError, match="not a JSON file"):
        load_json(text)
