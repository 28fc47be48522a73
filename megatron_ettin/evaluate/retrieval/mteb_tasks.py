"""Tasks of mteb with their data loaded: the hub's, or local collections and rows in their place."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Collection, Mapping
from typing import Any

from megatron_ettin.errors import DataError
from megatron_ettin.evaluate.retrieval.collection import Collection as TestCollection
from megatron_ettin.evaluate.retrieval.collection import kept
from megatron_ettin.evaluate.retrieval.rows import SCORED, LocalRows
from megatron_ettin.evaluate.retrieval.tasks import BENCHMARK, ENGLISH_TASKS, NAMED, HubTask
from megatron_ettin.evaluate.retrieval.triplets import EXTRA
from megatron_ettin.evaluate.suites.optional import library, not_fetched
from megatron_ettin.evaluate.suites.suite import NotRunError

MAIN_SCORES = {
    "Retrieval": "ndcg_at_10",
    "STS": "cosine_spearman",
    "Classification": "accuracy",
    "Clustering": "v_measure",
}
CLASSES = {
    "Retrieval": "AbsTaskRetrieval", "STS": "AbsTaskSTS", "Classification": "AbsTaskClassification",
    "Clustering": "AbsTaskClustering",
}  # fmt: skip
"""Type -> class of mteb that scores it."""


def hub_task(name: str, named: HubTask | None) -> Any:  # noqa: ANN401 - mteb has no types
    """mteb's own task, a new one; those of the English benchmark with its subsets and splits. Nothing is fetched."""
    if named is None:
        named = _of_benchmark(name)
    options: dict[str, Any] = {}
    if named.splits:
        options["eval_splits"] = list(named.splits)
    if named.subsets:
        options["hf_subsets"] = list(named.subsets)
    return library("mteb", EXTRA).get_task(named.mteb, **options)


@functools.cache
def _of_benchmark(name: str) -> HubTask:
    """The benchmark's own object has random states and data that later users would find changed."""
    tasks = library("mteb", EXTRA).get_benchmark(BENCHMARK).tasks
    theirs = next(task for task in tasks if task.metadata.name == name)
    return HubTask(mteb=name, splits=tuple(theirs.eval_splits), subsets=tuple(theirs.hf_subsets))


def fetched(task: Any, limit: int | None) -> Any:  # noqa: ANN401
    """The task with the hub's data, limited. Raises DataError."""
    try:
        task.load_data()
    except (OSError, ValueError, KeyError) as error:
        raise not_fetched(f"the data of {task.metadata.name}", error) from error
    if limit is not None:
        limit_data(task, limit)
    return task


def limit_data(task: Any, limit: int) -> None:  # noqa: ANN401
    """Keep the first examples of each scored split, in place; clustering then takes all of them, not a sample."""
    embed_all(task)
    for split in task.eval_splits:
        for place in [task.dataset] if split in task.dataset else task.dataset.values():
            part: Any = place[split]
            if not is_collection(part):
                place[split] = part.select(range(min(limit, len(part))))
                continue
            queries, documents = kept(part["queries"]["id"], part["corpus"]["id"], part["relevant_docs"], limit)
            part["queries"] = _named(part["queries"], queries)
            part["relevant_docs"] = {query: part["relevant_docs"][query] for query in queries}
            if part.get("top_ranked") is None:
                part["corpus"] = _named(part["corpus"], documents)


def embed_all(task: Any) -> None:  # noqa: ANN401
    """Let a clustering task take all rows: mteb's usual sample of 4 % is nothing of a small split."""
    if hasattr(task, "max_fraction_of_documents_to_embed"):
        task.max_fraction_of_documents_to_embed = task.max_document_to_embed = None


def _named(rows: Any, names: Collection[str]) -> Any:  # noqa: ANN401
    """The rows of a ``datasets.Dataset`` whose id is among ``names``."""
    return rows.select([i for i, name in enumerate(rows["id"]) if name in names])


def is_collection(part: object) -> bool:
    """Whether the data of a split are queries and documents, not rows."""
    return isinstance(part, Mapping) and "queries" in part


def collection_task(name: str, collection: TestCollection) -> Any:  # noqa: ANN401
    """A retrieval task on a local collection: mteb's of this name, or one of the name alone, scored by nDCG@10.

    Raises DataError when mteb's is of another type.
    """
    dataset = library("datasets", EXTRA).Dataset
    task = _own_task(name, "Retrieval")
    if name in NAMED or name in ENGLISH_TASKS:
        theirs = hub_task(name, NAMED.get(name))
        if theirs.metadata.type != "Retrieval":
            raise DataError(
                f"mteb's {name} is a task of type {theirs.metadata.type}, and the local folder of this name holds a "
                "collection of queries and documents; rename the folder"
            )
        task = theirs if len(theirs.hf_subsets) == 1 else task
    documents, queries = collection.documents, collection.queries
    data = {
        "corpus": dataset.from_list([{"id": document, **text} for document, text in documents.items()]),
        "queries": dataset.from_list([{"id": query, "text": text} for query, text in queries.items()]),
        "relevant_docs": {query: dict(judged) for query, judged in collection.judgements.items()},
        "top_ranked": None,
    }
    task.dataset = {task.hf_subsets[0]: {task.eval_splits[0]: data}}
    task.data_loaded = True
    return task


def rows_task(name: str, rows: LocalRows, limit: int | None) -> Any:  # noqa: ANN401
    """mteb's task of this name with local rows in place of the hub's, or one of the rows' type for another name.

    Raises DataError when mteb's is of another type, NotRunError when it is one of several subsets.
    """
    datasets, mteb = library("datasets", EXTRA), library("mteb", EXTRA)
    try:
        task = hub_task(name, None) if name in ENGLISH_TASKS else mteb.get_task(name, languages=["eng"])
    except KeyError:
        task = _own_task(name, rows.form.type)
    if task.metadata.type != rows.form.type:
        raise DataError(
            f"{rows.folder}: mteb's {name} is a task of type {task.metadata.type}, and the rows are of "
            f"{rows.form.type} ({', '.join(rows.form.columns)}); rename the folder, or give the hub's columns"
        )
    if len(task.hf_subsets) != 1:
        raise NotRunError(f"mteb's {name} has subsets {', '.join(task.hf_subsets)}, and {rows.folder} holds one")
    parts = rows.read(limit)
    data = datasets.DatasetDict({split: datasets.Dataset.from_list(part) for split, part in parts.items()})
    task.dataset = {task.hf_subsets[0]: data} if task.metadata.is_multilingual else data
    task.dataset_transform()
    task.data_loaded = True
    if limit is not None:
        embed_all(task)
    return task


def _own_task(name: str, kind: str) -> Any:  # noqa: ANN401
    """A task that mteb does not have, without data."""
    metadata = library("mteb.abstasks.task_metadata", EXTRA).TaskMetadata(
        name=name, description=f"Local data called {name}.", type=kind, dataset={"path": "local", "revision": "local"},
        main_score=MAIN_SCORES[kind], eval_splits=[SCORED], eval_langs=["eng-Latn"], category="t2t",
        modalities=["text"], date=("1900-01-01", datetime.date.today().isoformat()), domains=[], task_subtypes=[],
        dialect=[], bibtex_citation="",
    )  # fmt: skip
    base = getattr(library("mteb.abstasks", EXTRA), CLASSES[kind])
    task = type("LocalTask", (base,), {"metadata": metadata})()
    embed_all(task)
    return task
