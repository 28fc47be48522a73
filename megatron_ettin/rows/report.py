"""What a run will read, before it starts: rows, tokens and passes of each source, counted and not estimated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megatron_ettin.rows.run_data import RunData
from megatron_ettin.tables import aligned

ROWS_AT_ONCE = 1 << 20
LEAST_WIDTHS = (20, 12, 12, 7, 17, 6, 7)
"""Of the columns of the table, so that those of several mixtures compare."""


@dataclass(frozen=True, kw_only=True)
class SourceReport:
    """The part of one source in a pool."""

    name: str
    documents: int
    pass_rows: int
    """Rows of one pass."""
    pass_tokens: int
    """Tokens seen in one pass."""
    fill: float
    """Share of the positions of its rows that hold a piece."""
    passes: float
    """How often the pool reads it."""
    rows: int
    """Rows in the pool."""
    tokens: int
    """Tokens in the pool: exact when counted, else the partial pass at the mean of its source."""
    counted: bool
    """Whether the tokens of a partial pass were counted row by row."""


def source_reports(data: RunData, count: bool = False) -> list[SourceReport]:
    """One report a source. With ``count`` the rows of partial passes are read from the pack index, about 1 us a row."""
    reports = []
    for source, pack, corpus in zip(data.pool.sources, data.packs, data.corpora, strict=True):
        partial = source.partial_rows * pack.tokens // pack.rows
        if count and source.partial_rows:
            partial = 0
            for first in range(0, source.partial_rows, ROWS_AT_ONCE):
                places = np.arange(first, min(first + ROWS_AT_ONCE, source.partial_rows))
                partial += int(pack.native.row_tokens(source.partial.at(places)).sum())
        reports.append(
            SourceReport(
                name=source.name,
                documents=corpus.documents,
                pass_rows=pack.rows,
                pass_tokens=pack.tokens,
                fill=pack.fill,
                passes=source.pool_rows / source.rows,
                rows=source.pool_rows,
                tokens=source.whole_passes * pack.tokens + partial,
                counted=count or not source.partial_rows,
            )
        )
    return reports


def source_table(data: RunData, count: bool = False) -> str:
    """The sources of a run as a table, with their sum; ``~`` marks tokens that were not counted row by row."""
    reports = source_reports(data, count)
    total = sum(item.tokens for item in reports)
    rows = [
        (
            item.name, f"{item.documents:,}", f"{item.rows:,}", f"{item.passes:.3f}",
            f"{'' if item.counted else '~'}{item.tokens:,}", f"{item.tokens / total:.2%}", f"{item.fill:.3%}",
        )
        for item in reports
    ]  # fmt: skip
    head = ("source", "documents", "rows", "passes", "tokens", "share", "fill")
    pool = ("pool", "", f"{data.pool_rows:,}", "", f"{total:,}", "", "")
    return aligned([head, *rows, pool], left=1, least=LEAST_WIDTHS, rule=False)
