"""From a document of a corpus to the line, or the row, of the input file that it was built from."""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from megatron_ettin.corpus.manifest import Manifest, SourceSummary
from megatron_ettin.corpus.reader import Corpus
from megatron_ettin.corpus.together import join_sources, manifests_of
from megatron_ettin.errors import DataError
from megatron_ettin.sources.delimited import DELIMITERS, RecordPlaces
from megatron_ettin.sources.files import make_sources


class Unit(NamedTuple):
    """What a record of a file is called, and the number of the first."""

    name: str
    first: int


UNITS = {
    "jsonl": Unit("line", 1), "txt": Unit("text", 0), "csv": Unit("row", 0), "tsv": Unit("row", 0),
    "parquet": Unit("row", 0), "arrow": Unit("row", 0), "mds": Unit("sample", 0), "texts": Unit("document", 0),
}  # fmt: skip
"""By the format of a file."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a document stands in the input."""

    path: str
    format: str
    """As the manifest names it: ``csv.gz``."""
    unit: str
    first: int
    """Number of its line, row, sample or text, as people count: lines from 1, all else from 0."""
    last: int
    """The same, or more where records of the file were skipped and the manifest does not say before which document."""
    begin: int = 0
    """Byte of the file behind which records are counted; 0 unless the corpus is a shard without those before it."""

    def __str__(self) -> str:
        text = f"{self.path}, {self.unit} {self.first}"
        if self.last > self.first:
            text += f" to {self.last} (up to {self.last - self.first} before it were blank or skipped)"
        elif not self.begin and (more := _within(self.path, self.format, self.first)):
            text += f" ({more})"
        return f"{text}, counted from byte {self.begin}" if self.begin else text


@dataclass(frozen=True, kw_only=True)
class Partitioned:
    """Documents that stand together in the order of Megatron-LM's partitions; 1 is the order of the input."""

    documents: int
    partitions: int

    def input_number(self, number: int) -> int:
        """Which document of the input has this number: the order is 0, n, 2n, ..., then 1, n + 1, and so on."""
        whole, longer = divmod(self.documents, self.partitions)
        partition = number // (whole + 1) if number < longer * (whole + 1) else longer
        if partition == longer and whole:
            partition += (number - longer * (whole + 1)) // whole
        before = partition * whole + min(partition, longer)
        return partition + (number - before) * self.partitions


def partitioned(manifest: Manifest) -> tuple[Partitioned, ...]:
    """The stretches of documents of a corpus that were ordered together; several in a merged corpus."""
    told = manifest.settings.get("partitioned", [[manifest.documents, manifest.settings.get("partitions", 1)]])
    return tuple(Partitioned(documents=documents, partitions=partitions) for documents, partitions in told)


class Places:
    """The places of the documents of a corpus, from its manifest or those of all parts; no input file is read."""

    def __init__(self, corpus: Corpus) -> None:
        manifests = manifests_of(corpus)
        self._sources = join_sources([source for manifest in manifests for source in manifest.sources])
        self._ends = list(accumulate(source.documents for source in self._sources))
        self._orders = [order for manifest in manifests for order in partitioned(manifest)]
        self._starts = list(accumulate((order.documents for order in self._orders), initial=0))
        if (self._ends[-1:] or [0])[0] != corpus.documents:
            raise DataError(f"{corpus.prefix}: the manifest does not say which files its documents are from")

    def of(self, document: int) -> Place:
        """The place of a document, which is there. O(log files)."""
        stretch = bisect_right(self._starts, document) - 1
        start = self._starts[stretch]
        number = start + self._orders[stretch].input_number(document - start)
        at = bisect_right(self._ends, number)
        return _place(self._sources[at], number - self._ends[at] + self._sources[at].documents)


def _place(source: SourceSummary, number: int) -> Place:
    """The place of the n-th document of one file."""
    unit = UNITS.get(source.format.partition(".")[0], Unit("document", 0))
    skipped = source.blank_lines + sum(count for kind, count in source.rejected.items() if kind != "truncated")
    first = unit.first + number
    return Place(
        path=source.path, format=source.format, unit=unit.name, first=first, last=first + skipped, begin=source.begin
    )


def _within(path: str, kind: str, row: int) -> str:
    """Where a row stands in a file that can be read here, in words of its format; else nothing."""
    format, _, compression = kind.partition(".")
    if format == "parquet" and (group := _row_group(path, row)) is not None:
        return f"row group {group[0]}, row {group[1]} of it"
    if format in DELIMITERS:
        with contextlib.suppress(DataError):
            return f"line {_record_places(path, format, compression or None).line(row) or 'unknown'}"
    return ""


@lru_cache(maxsize=16)
def _record_places(path: str, format: str, compression: str | None) -> RecordPlaces:
    """The places of the records of a csv or tsv file. Raises DataError when it is not there."""
    return RecordPlaces(make_sources([(Path(path), format, compression)])[0])


@cache
def _group_ends(path: str) -> tuple[int, ...] | None:
    """The end of each row group of a parquet file, in rows; None when the file cannot be read here."""
    import pyarrow
    from pyarrow import parquet

    try:
        metadata: Any = parquet.read_metadata(Path(path))
    except (OSError, pyarrow.ArrowException):
        return None
    return tuple(accumulate(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)))


def _row_group(path: str, row: int) -> tuple[int, int] | None:
    """The row group of a row and its number in it; None when the file cannot be read here, or has no such row."""
    ends = _group_ends(path)
    if ends is None or not ends or row >= ends[-1]:
        return None
    group = bisect_right(ends, row)
    return group, row - (ends[group - 1] if group else 0)
