"""Mixtures: which corpora a stage reads, and how much of each."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from megatron_ettin.config.run import DataConfig
from megatron_ettin.corpus.format import corpus_prefix
from megatron_ettin.errors import DataError
from megatron_ettin.typed_json import FieldError, decode, load_json

Measure = Literal["tokens", "weight", "passes"]


class _SourceFields(NamedTuple):
    """A source as a mixture file says it."""

    name: str
    prefix: str
    tokens: float | None = None
    weight: float | None = None
    passes: float | None = None


class _MixtureFields(NamedTuple):
    """A mixture file."""

    sources: tuple[_SourceFields, ...]
    tokens: float | None = None
    description: Any = None


@dataclass(frozen=True, kw_only=True)
class MixtureSource:
    """One corpus of a mixture and how much of it is wanted."""

    name: str
    """Its name in logs and metrics."""
    prefix: Path
    """Prefix of the corpus; relative ones start at the mixture file."""
    measure: Measure
    """What ``amount`` counts: tokens seen, a share relative to the other weights, or passes over the corpus."""
    amount: float
    """How much; positive and finite."""


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Some sources, in the order that numbers their rows."""

    sources: tuple[MixtureSource, ...]
    tokens: float | None = None
    """Tokens of the whole pool, when the sources have weights."""

    def tokens_wanted(self, source: MixtureSource) -> float | None:
        """Tokens seen that a source is to give, or None when passes were asked for."""
        if source.measure == "passes":
            return None
        if source.measure == "tokens" or self.tokens is None:
            return source.amount
        return self.tokens * source.amount / sum(other.amount for other in self.sources)


def mixture_of(data: DataConfig) -> Mixture:
    """The mixture that a run reads, its weights raised to the power ``data.temperature``.

    Raises DataError as ``read_mixture`` does, and where there are no weights to raise.
    """
    mixture, power = read_mixture(data.data), data.temperature
    if power == 1.0:
        return mixture
    if mixture.tokens is None:
        raise DataError(
            f"{data.data}: data.temperature={power:g} raises weights to a power, but no source has one; give the "
            "sources weights, such as their tokens, and the mixture its tokens, or take --data.temperature 1"
        )
    raised = tuple(replace(source, amount=source.amount**power) for source in mixture.sources)
    return replace(mixture, sources=raised)


def read_mixture(path: str | Path) -> Mixture:
    """A mixture from a .json file, or one pass over a single corpus from its prefix.

    Raises DataError naming the file, the source and the rule that is broken.
    """
    path = Path(path)
    if path.suffix == ".json" and path.is_file():
        try:
            content = load_json(path.read_bytes())
        except FieldError as error:
            raise DataError(f"{path}: {error}") from error
        if not (isinstance(content, dict) and "format" in content and "sources" in content and "files" in content):
            return parse_mixture(content, path)
    prefix = corpus_prefix(path)
    return Mixture(sources=(MixtureSource(name=prefix.name, prefix=prefix, measure="passes", amount=1.0),))


def parse_mixture(content: object, path: Path) -> Mixture:
    """The mixture in a decoded file."""
    form = 'a mixture is {"sources": [{"name", "prefix", "tokens"}, ...]} with some sources'
    try:
        found = decode(_MixtureFields, content, strict=True)
    except FieldError as error:
        raise DataError(f"{path}: {error}; {form}") from error
    if not found.sources:
        raise DataError(f"{path}: {form}")
    sources: list[MixtureSource] = []
    for item in found.sources:
        where = f"{path}: source {item.name!r}"
        amounts = {name: getattr(item, name) for name in get_args(Measure) if getattr(item, name) is not None}
        if len(amounts) != 1:
            found_ones = list(amounts) or "none"
            raise DataError(f"{where} must have exactly one of tokens, weight and passes, found {found_ones}")
        ((measure, value),) = amounts.items()
        prefix, amount = corpus_prefix(path.parent / item.prefix), _positive(value, f"{where}: {measure}")
        sources.append(MixtureSource(name=item.name, prefix=prefix, measure=measure, amount=amount))
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{path}: two sources are called {name!r}; every source needs a name of its own")
    weighted = [source.name for source in sources if source.measure == "weight"]
    if not weighted and found.tokens is not None:
        raise DataError(f"{path}: tokens of the whole goes with weights, but no source has one; take it out")
    if weighted and len(weighted) != len(sources):
        raise DataError(f"{path}: either all sources have a weight or none has; only {', '.join(weighted)} have")
    if weighted and found.tokens is None:
        raise DataError(f"{path}: sources with weights need the tokens of the whole, as in {{'tokens': 1e9, ...}}")
    tokens = None if found.tokens is None else _positive(found.tokens, f"{path}: tokens")
    return Mixture(sources=tuple(sources), tokens=tokens)


def _positive(value: float, where: str) -> float:
    if not math.isfinite(value) or value <= 0:
        raise DataError(f"{where} is {value}, but must be a positive finite number; leave the source out instead of 0")
    return value
