"""Mixtures: which corpora a stage reads, and how much of each."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from megatron_ettin.corpus.format import corpus_prefix
from megatron_ettin.errors import DataError

Measure = Literal["tokens", "weight", "passes"]


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


def read_mixture(path: str | Path) -> Mixture:
    """A mixture from a .json file, or one pass over a single corpus from its prefix.

    Raises DataError naming the file, the source and the rule that is broken.
    """
    path = Path(path)
    if path.suffix == ".json" and path.is_file():
        content = _load(path)
        if not (isinstance(content, dict) and "format" in content and "sources" in content and "files" in content):
            return parse_mixture(content, path)
    prefix = corpus_prefix(path)
    return Mixture(sources=(MixtureSource(name=prefix.name, prefix=prefix, measure="passes", amount=1.0),))


def _load(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a JSON file ({error})") from error


def parse_mixture(content: object, path: Path) -> Mixture:
    """The mixture in a decoded file."""
    if not isinstance(content, dict) or not isinstance(content.get("sources"), list) or not content["sources"]:
        raise DataError(f'{path}: a mixture is {{"sources": [{{"name", "prefix", "tokens"}}, ...]}} with some sources')
    for name in content.keys() - {"sources", "tokens", "description"}:
        raise DataError(f"{path}: {name!r} is not a field of a mixture; fields: sources, tokens, description")
    sources = tuple(_source(item, path) for item in content["sources"])
    _check_names(sources, path)
    return Mixture(sources=sources, tokens=_total(content, sources, path))


def _source(item: Any, path: Path) -> MixtureSource:  # noqa: ANN401
    if not isinstance(item, dict) or not isinstance(item.get("name"), str) or not isinstance(item.get("prefix"), str):
        raise DataError(f"{path}: each source needs a name and a prefix (text), found {str(item)[:80]}")
    where = f"{path}: source {item['name']!r}"
    measures: list[Measure] = [measure for measure in get_args(Measure) if measure in item]
    for name in item.keys() - {"name", "prefix", *measures}:
        raise DataError(f"{where}: {name!r} is not a field of a source")
    if len(measures) != 1:
        raise DataError(f"{where} must have exactly one of tokens, weight and passes, found {measures or 'none'}")
    amount = _positive(item[measures[0]], f"{where}: {measures[0]}")
    prefix = corpus_prefix(path.parent / item["prefix"])
    return MixtureSource(name=item["name"], prefix=prefix, measure=measures[0], amount=amount)


def _positive(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise DataError(f"{where} is {value}, but must be a positive finite number; leave the source out instead of 0")
    return float(value)


def _check_names(sources: tuple[MixtureSource, ...], path: Path) -> None:
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{path}: two sources are called {name!r}; every source needs a name of its own")


def _total(content: dict[str, Any], sources: tuple[MixtureSource, ...], path: Path) -> float | None:
    weighted = [source.name for source in sources if source.measure == "weight"]
    if not weighted:
        if "tokens" in content:
            raise DataError(f"{path}: tokens of the whole goes with weights, but no source has one; take it out")
        return None
    if len(weighted) != len(sources):
        raise DataError(f"{path}: either all sources have a weight or none has; only {', '.join(weighted)} have")
    if "tokens" not in content:
        raise DataError(f"{path}: sources with weights need the tokens of the whole, as in {{'tokens': 1e9, ...}}")
    return _positive(content["tokens"], f"{path}: tokens")
