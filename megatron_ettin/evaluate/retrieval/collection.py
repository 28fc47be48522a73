"""Local test collections: documents, queries and which answers which, in the forms of BEIR, MLDR and CodeSearchNet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from megatron_ettin.errors import DataError
from megatron_ettin.evaluate.suites.local import read_rows, split_file
from megatron_ettin.evaluate.suites.suite import NotRunError

SPLITS = ("test", "dev", "validation")
"""Of judgements, in the order in which they are looked for."""
DOCUMENTS_PER_QUERY = 10
"""Documents that a limited collection keeps a query: the judged ones and, to be told from them, the first others."""


@dataclass(frozen=True, kw_only=True)
class Collection:
    """What is searched, what for, and what is right."""

    documents: Mapping[str, Mapping[str, str]]
    """Id -> {"title", "text"}."""
    queries: Mapping[str, str]
    """Id -> text; each has a judgement."""
    judgements: Mapping[str, Mapping[str, int]]
    """Query -> document -> relevance, 0 or more."""
    notes: Mapping[str, int] = field(default_factory=dict)
    """What was found odd and how often: clipped judgements, empty documents, queries without judgement."""

    def limited(self, queries: int | None) -> Collection:
        """The first queries, with DOCUMENTS_PER_QUERY documents for each; all for None."""
        if queries is None:
            return self
        asked, documents = kept(list(self.queries), list(self.documents), self.judgements, queries)
        return replace(
            self, queries={query: text for query, text in self.queries.items() if query in asked},
            judgements={query: self.judgements[query] for query in asked},
            documents={name: text for name, text in self.documents.items() if name in documents},
        )  # fmt: skip


def kept(
    queries: Sequence[str], documents: Sequence[str], judgements: Mapping[str, Mapping[str, int]], limit: int
) -> tuple[set[str], set[str]]:
    """The first ``limit`` queries with a relevant document, and their documents: see DOCUMENTS_PER_QUERY."""
    asked = [query for query in queries if any(relevance > 0 for relevance in judgements.get(query, {}).values())]
    asked = asked[:limit]
    judged = {document for query in asked for document in judgements[query]}
    others = [name for name in documents if name not in judged]
    return set(asked), judged | set(others[: max(0, DOCUMENTS_PER_QUERY * len(asked) - len(judged))])


@dataclass(frozen=True)
class Form:
    """How a folder holds a collection."""

    files: Callable[[Path], dict[str, Path]]
    """Folder -> role -> file; raises NotRunError."""
    read: Callable[[Mapping[str, Path]], Collection]
    """The same files -> collection; raises DataError."""
    long_texts: bool = False


def form_of(folder: Path) -> Form | None:
    """The form that a folder's names show; None for something else."""
    if (folder / "qrels").is_dir():
        return BEIR
    if _has(folder, "corpus") and _has(folder, "queries"):
        return MLDR
    if any(_has(language, "test") for language in folder.glob("*") if language.is_dir()):
        return CODE
    return None


def _has(folder: Path, split: str) -> bool:
    try:
        return bool(split_file(folder, split))
    except NotRunError:
        return False


def _beir_files(folder: Path) -> dict[str, Path]:
    for split in SPLITS:
        judgements = folder / "qrels" / f"{split}.tsv"
        if judgements.is_file():
            return {
                "corpus": split_file(folder, "corpus"),
                "queries": split_file(folder, "queries"),
                f"qrels/{split}": judgements,
            }
    raise NotRunError(f"{folder / 'qrels'} has no {SPLITS[0]}.tsv (or {', '.join(f'{s}.tsv' for s in SPLITS[1:])})")


def _read_beir(files: Mapping[str, Path]) -> Collection:
    corpus, queries, qrels = files.values()
    documents = {
        name: {"title": str(row.get("title") or ""), "text": str(row["text"] or "")}
        for _, name, row in _named_rows(corpus, "_id", ("text",))
    }
    asked = {name: row["text"] for _, name, row in _named_rows(queries, "_id", ("text",), query="text")}
    judgements: dict[str, dict[str, int]] = {}
    clipped = 0
    for number, query, document, relevance in _judgements(qrels):
        for name, known, of in ((query, asked, queries), (document, documents, corpus)):
            if name not in known:
                raise DataError(
                    f"{qrels}, row {number}: {name!r} is no _id of {of.name}; remove the row or add the text"
                )
        clipped += relevance < 0
        judgements.setdefault(query, {})[document] = max(0, relevance)
    return _checked(documents, asked, judgements, qrels, clipped)


def _judgements(path: Path) -> Iterator[tuple[int, str, str, int]]:
    """Row, query, document, relevance of a tab-separated file with the header of BEIR."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}; it is tab-separated text") from error
    if not lines or lines[0].split("\t")[:3] != ["query-id", "corpus-id", "score"]:
        raise DataError(f"{path}, row 1: the header is query-id, corpus-id, score with tabs between")
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        fields = line.split("\t")
        try:
            query, document, relevance = fields
            yield number, query, document, int(relevance)
        except ValueError:
            raise DataError(
                f"{path}, row {number}: {line!r} is no query, document and whole number with tabs between"
            ) from None


def _mldr_files(folder: Path) -> dict[str, Path]:
    return {"corpus": split_file(folder, "corpus"), "queries": split_file(folder, "queries")}


def _read_mldr(files: Mapping[str, Path]) -> Collection:
    corpus, queries = files["corpus"], files["queries"]
    documents = {
        name: {"title": "", "text": str(row["text"] or "")} for _, name, row in _named_rows(corpus, "docid", ("text",))
    }
    asked: dict[str, str] = {}
    judgements: dict[str, dict[str, int]] = {}
    for number, name, row in _named_rows(queries, "query_id", ("query", "positive_passages"), query="query"):
        asked[name] = row["query"]
        for passage in _listed(queries, number, row, "positive_passages"):
            document = str(passage.get("docid")) if isinstance(passage, dict) else ""
            if document not in documents:
                raise DataError(
                    f"{queries}, row {number}: positive passage {document!r} is no docid of {corpus.name}; "
                    "remove the row or add the text"
                )
            judgements.setdefault(name, {})[document] = 1
    return _checked(documents, asked, judgements, queries, 0)


def _code_files(folder: Path) -> dict[str, Path]:
    return {
        language.name: split_file(language, "test")
        for language in sorted(folder.iterdir())
        if language.is_dir() and _has(language, "test")
    }


def _read_code(files: Mapping[str, Path]) -> Collection:
    """Documentation asks for the function that it was taken from, whose tokens are without it.

    Equal functions are one document, equal documentation one query; a function without documentation is only found.
    """
    names: dict[str, str] = {}
    asked: dict[str, str] = {}
    judgements: dict[str, dict[str, int]] = {}
    for language, path in files.items():
        for number, row in enumerate(read_rows(path, ("func_code_tokens", "func_documentation_string")), 1):
            code = " ".join(map(str, _listed(path, number, row, "func_code_tokens"))).strip()
            if not code:
                raise DataError(f"{path}, row {number}: func_code_tokens is empty; remove the row")
            document = names.setdefault(code, f"{language}-{number}")
            words = str(row["func_documentation_string"] or "").strip()
            if words:
                query = asked.setdefault(words, f"{language}-{number}")
                judgements.setdefault(query, {})[document] = 1
    documents = {name: {"title": "", "text": code} for code, name in names.items()}
    queries = {name: words for words, name in asked.items()}
    return _checked(documents, queries, judgements, next(iter(files.values())), 0)


def _named_rows(
    path: Path, key: str, columns: Sequence[str], query: str = ""
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Number, name and content of rows; no name comes twice, and the column ``query`` holds a text."""
    seen: set[str] = set()
    for number, row in enumerate(read_rows(path, (key, *columns)), 1):
        name = str(row[key])
        if name in seen:
            raise DataError(f"{path}, row {number}: {key} {name!r} is there already; give each row its own")
        seen.add(name)
        if query and not (isinstance(row[query], str) and row[query].strip()):
            raise DataError(f"{path}, row {number}: {query} is {row[query]!r}, and a query is a text; remove the row")
        yield number, name, row


def _listed(path: Path, number: int, row: Mapping[str, Any], column: str) -> list[Any]:
    """A column that holds a list."""
    value = row[column]
    if not isinstance(value, list):
        raise DataError(f"{path}, row {number}: {column} is {value!r}; it is a list in the hub's data set")
    return value


def _checked(
    documents: Mapping[str, Mapping[str, str]], asked: Mapping[str, str], judgements: Mapping[str, Mapping[str, int]],
    path: Path, clipped: int,
) -> Collection:  # fmt: skip
    """The collection of the queries that have an answer. Raises DataError when none has."""
    answered = {query: text for query, text in asked.items() if any(judgements.get(query, {}).values())}
    if not answered:
        raise DataError(f"{path}: no query has a relevant document, so that nothing can be scored")
    notes = {
        "judgements clipped to 0": clipped,
        "queries without a relevant document, left out": len(asked) - len(answered),
        "empty documents": sum(not (text["title"] + text["text"]).strip() for text in documents.values()),
    }
    return Collection(
        documents=documents, queries=answered, judgements={query: judgements[query] for query in answered},
        notes={what: count for what, count in notes.items() if count},
    )  # fmt: skip


BEIR = Form(_beir_files, _read_beir)
MLDR = Form(_mldr_files, _read_mldr, long_texts=True)
CODE = Form(_code_files, _read_code)
