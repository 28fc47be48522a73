"""Training data: triplets of query, positive and negative, from the hub or from local files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ettin.errors import DataError
from megatron_ettin.evaluate.retrieval.settings import HELD_OUT, SPLIT_SEED
from megatron_ettin.evaluate.suites.local import ENDINGS, file_facts, read_rows
from megatron_ettin.evaluate.suites.optional import hub_rows, library
from megatron_ettin.evaluate.suites.suite import Facts, NotRunError

EXTRA = "eval-embed"
HUB = ("sentence-transformers/msmarco-co-condenser-margin-mse-sym-mnrl-mean-v1", "triplet-hard", "train")
COLUMNS = ("query", "positive", "negative")
HELD_OUT_SHARE = 10
"""At most one in so many triplets is held out."""


@dataclass(frozen=True)
class Triplets:
    """Two sets of triplets, each a ``datasets.Dataset`` with COLUMNS."""

    train: Any
    held_out: Any


def triplet_files(local: Path) -> dict[str, Path]:
    """Name -> file of all triplets below ``local``, in the order of names. Raises NotRunError."""
    folder = local / "retrieval" / "triplets"
    files = sorted(path for path in folder.glob("*") if path.name.endswith(ENDINGS))
    if not files:
        raise NotRunError(
            f"no triplets to train on: no file NAME{ENDINGS[0]} (or {', '.join(ENDINGS[1:])}) in {folder}"
        )
    return {path.name.partition(".")[0]: path for path in files}


def triplet_facts(local: Path | None) -> Facts:
    """Where the triplets come from, with the hash of each local file; raises NotRunError."""
    if local is None:
        path, config, split = HUB
        return {"hub": path, "config": config, "split": split}
    return file_facts(triplet_files(local))


def read_triplets(local: Path | None, most: int) -> Triplets:
    """All triplets, split as published: at most HELD_OUT held out, and at most ``most`` in either set.

    Raises NotRunError, DataError with file, row, rule and remedy.
    """
    if local is None:
        rows = hub_rows(*HUB, EXTRA).select_columns(list(COLUMNS))
    else:
        rows = library("datasets", EXTRA).Dataset.from_list(list(_from_files(local)))
    if len(rows) < 2:
        raise DataError("one triplet cannot be trained on and held out; give at least two")
    held_out = min(HELD_OUT, max(1, len(rows) // HELD_OUT_SHARE))
    split = rows.train_test_split(test_size=held_out, seed=SPLIT_SEED)
    kept = {name: part.select(range(min(most, len(part)))) for name, part in split.items()}
    return Triplets(kept["train"], kept["test"])


def _from_files(local: Path) -> Iterator[dict[str, str]]:
    for path in triplet_files(local).values():
        for number, row in enumerate(read_rows(path, COLUMNS), 1):
            for column in COLUMNS:
                if not isinstance(row[column], str) or not row[column].strip():
                    raise DataError(
                        f"{path}, row {number}: {column} is {row[column]!r}, and a triplet is three texts; "
                        "mend or remove the row"
                    )
            yield {column: row[column] for column in COLUMNS}
