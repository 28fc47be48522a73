"""Local rows that stand in for mteb's data of other types than retrieval: similarity, classification, clustering."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ettin.errors import DataError
from megatron_ettin.evaluate.suites.local import read_rows, split_file
from megatron_ettin.evaluate.suites.suite import NotRunError

SCORED = "test"


@dataclass(frozen=True, kw_only=True)
class RowForm:
    """What the rows of a type of task hold."""

    type: str
    """As mteb calls it."""
    texts: tuple[str, ...]
    label: str
    splits: tuple[str, ...] = (SCORED,)

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the hub's data set."""
        return (*self.texts, self.label)


FORMS = (
    RowForm(type="STS", texts=("sentence1", "sentence2"), label="score"),
    RowForm(type="Classification", texts=("text",), label="label", splits=("train", SCORED)),
    RowForm(type="Clustering", texts=("sentences",), label="labels"),
)


@dataclass(frozen=True)
class LocalRows:
    """A folder with a file for each split."""

    folder: Path
    form: RowForm

    def files(self) -> dict[str, Path]:
        """Split -> file. Raises NotRunError."""
        return {split: split_file(self.folder, split) for split in self.form.splits}

    def read(self, limit: int | None) -> Mapping[str, list[dict[str, Any]]]:
        """Split -> rows, the first ``limit`` of the scored one. Raises NotRunError, DataError for an empty text."""
        return {split: self._rows(path, limit if split == SCORED else None) for split, path in self.files().items()}

    def _rows(self, path: Path, limit: int | None) -> list[dict[str, Any]]:
        rows = []
        for number, row in enumerate(read_rows(path, self.form.columns, limit), 1):
            for column in self.form.texts:
                if not isinstance(row[column], str) or not row[column].strip():
                    raise DataError(f"{path}, row {number}: {column} is {row[column]!r}; it is a text: remove the row")
            labels = row[self.form.label] if isinstance(row[self.form.label], list) else [row[self.form.label]]
            if not labels or any(isinstance(one, bool) or not isinstance(one, (int, float, str)) for one in labels):
                raise DataError(
                    f"{path}, row {number}: {self.form.label} is {row[self.form.label]!r}; it is a number or a name"
                )
            rows.append({column: row[column] for column in self.form.columns})
        if not rows:
            raise DataError(f"{path} has no rows")
        return rows


def local_rows(folder: Path) -> LocalRows:
    """The folder's rows, of the form that its columns show. Raises NotRunError for columns of no form."""
    path = split_file(folder, SCORED)
    first: dict[str, Any] = next(read_rows(path, ()), {})
    for form in FORMS:
        if set(form.columns) <= set(first):
            return LocalRows(folder, form)
    forms = "; ".join(f"{form.type}: {', '.join(form.columns)}" for form in FORMS)
    raise NotRunError(
        f"{path} has columns {', '.join(first) or 'none'}, and local rows are read of these types: {forms}. "
        "Other types of mteb come from the hub: leave --local away"
    )
