"""The rows of the GPU benchmark, the most valuable first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from typing import Any

from megatron_ettin.config.shapes import PUBLISHED_SIZES

LARGEST, SMALLEST, MIDDLE = "1b", "17m", "150m"
FEWER_ROWS = (4, 16, 48)
"""Rows of small micro-batches of the smallest model, which waits for launches; it is trained with 144."""
SECONDS = {"machine": 15.0, "numerics": 20.0, "step": 20.0, "peer": 25.0, "profile": 25.0, "kernels": 10.0}
"""What a row of a kind is expected to take before one of its kind has been measured."""
LARGE_SECONDS = 20.0
"""Added for the largest model."""
COMPILE_SECONDS = {"step": 15.0, "peer": 60.0, "profile": 15.0, "numerics": 0.0, "machine": 0.0, "kernels": 20.0}
"""Added where torch.compile works."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement."""

    kind: str
    """machine, numerics, step, peer, profile or kernels."""
    size: str = SMALLEST
    objective: str = "mlm"
    row_length: int = 1024
    precision: str = "bf16"
    backend: str = "auto"
    """Our attention back end, or transformers' attention for a peer."""
    compile: bool = True
    kernels: str = "auto"
    """Our own kernels where they can be, or torch's."""
    plain: bool = False
    """One piece a row and no dropout, as peers are measured; else the recipe's dropout, and rows of several pieces, as
    long as texts of the web. Peers and checks of numbers are plain whatever stands here."""
    rows: int = 0
    """Rows of a micro-batch; 0: as many as the models were trained with."""
    loss_chunk_mebibytes: int = 0
    """Bound of the logits held at once; 0: the default."""
    fp8_recipe: str = "current"

    @property
    def key(self) -> str:
        """Names the row in the file of results: the kind and every field that is not the default."""
        own = {item.name: getattr(self, item.name) for item in fields(Row)}
        named = ("size", "objective", "row_length", "backend") if self.kind != "machine" else ()
        changed = [
            f"{name}={value}" for name, value in own.items()
            if name in named or (name != "kind" and value != getattr(DEFAULTS, name))
        ]  # fmt: skip
        return " ".join([self.kind, *changed])

    @property
    def is_recipe(self) -> bool:
        """Whether dropout and pieces are those of the recipe."""
        return self.kind in ("step", "profile") and not self.plain

    @property
    def seconds(self) -> float:
        """What the row is expected to take."""
        large = LARGE_SECONDS if self.size == LARGEST else 0.0
        return SECONDS[self.kind] + large + (COMPILE_SECONDS[self.kind] if self.compile else 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


DEFAULTS = Row(kind="step")


def plan() -> list[Row]:
    """Every row once, in the order in which they are worth having."""
    return list(dict.fromkeys(_plan()))


def thinned(rows: list[Row]) -> list[Row]:
    """The first row of every setting, whatever its size; micro-batches of given rows count as one setting."""
    settings: dict[Row, Row] = {}
    for row in rows:
        settings.setdefault(replace(row, size=SMALLEST, rows=min(1, row.rows)), row)
    return list(settings.values())


def without_twins(rows: list[Row], chosen: str) -> list[Row]:
    """The rows but those that ask for the attention that `auto` chooses here anyway."""
    return [row for row in rows if row.kind == "peer" or row.backend != chosen or row.precision == "fp32"]


def _plan() -> Iterator[Row]:
    yield Row(kind="machine", compile=False)
    yield Row(kind="numerics")
    for kind in ("step", "profile", "kernels"):
        yield Row(kind=kind)
    yield Row(kind="step", compile=False, kernels="torch")  # something to go by where nothing compiles
    for size in (MIDDLE, LARGEST):
        yield Row(kind="step", size=size)
    for size in (MIDDLE, LARGEST):
        yield Row(kind="profile", size=size)
    yield Row(kind="numerics", objective="clm")
    yield Row(kind="step", objective="clm")
    yield Row(kind="step", row_length=8192)
    yield Row(kind="step", plain=True)
    yield Row(kind="peer", backend="sdpa")
    for rows in FEWER_ROWS:
        yield Row(kind="step", rows=rows)
    for size in PUBLISHED_SIZES:
        yield Row(kind="step", size=size)
    for size in PUBLISHED_SIZES:
        yield Row(kind="step", size=size, row_length=8192, plain=True)
    for size in (MIDDLE, LARGEST):
        yield Row(kind="step", size=size, plain=True)
        yield Row(kind="peer", size=size, backend="sdpa")
    for size in PUBLISHED_SIZES:
        yield Row(kind="step", size=size, objective="clm")
    yield from _choices()
    yield from _fp8()
    for objective, size in product(("mlm", "clm"), PUBLISHED_SIZES):
        yield Row(kind="step", size=size, objective=objective, row_length=8192)
    for objective, length, size, backend, compiled in product(
        ("mlm", "clm"), (1024, 8192), PUBLISHED_SIZES, ("flash_attention_2", "sdpa"), (True, False)
    ):
        yield Row(kind="peer", size=size, objective=objective, row_length=length, backend=backend, compile=compiled)


def _choices() -> Iterator[Row]:
    """What each choice of ours is worth: back ends, compiled parts, the bound of the logits."""
    for backend in ("varlen", "flash", "te", "sdpa"):
        for objective in ("mlm", "clm"):
            yield Row(kind="numerics", objective=objective, backend=backend)
        for size, length in ((SMALLEST, 1024), (LARGEST, 1024), (SMALLEST, 8192), (MIDDLE, 8192)):
            yield Row(kind="step", size=size, row_length=length, backend=backend)
    for size in (SMALLEST, MIDDLE, LARGEST):
        for compiled in (True, False):
            yield Row(kind="step", size=size, compile=compiled, kernels="torch")
    for size in (MIDDLE, LARGEST):
        yield Row(kind="kernels", size=size)
    for mebibytes in (64, 256, 4096):
        yield Row(kind="step", loss_chunk_mebibytes=mebibytes)
    yield Row(kind="step", precision="fp32", backend="sdpa")


def _fp8() -> Iterator[Row]:
    for recipe in ("current", "delayed", "blocks"):
        yield Row(kind="numerics", precision="fp8", fp8_recipe=recipe)
        for size in (LARGEST, "400m"):
            yield Row(kind="step", size=size, precision="fp8", fp8_recipe=recipe)
