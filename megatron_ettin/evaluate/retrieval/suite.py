"""The retrieval suite: an embedding model of each subject, trained as published, scored by mteb."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from math import sqrt
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from megatron_ettin.evaluate.retrieval.collection import Form, form_of
from megatron_ettin.evaluate.retrieval.contrast import LOGGERS, load
from megatron_ettin.evaluate.retrieval.mteb_tasks import collection_task, fetched, hub_task, rows_task
from megatron_ettin.evaluate.retrieval.rows import LocalRows, local_rows
from megatron_ettin.evaluate.retrieval.scoring import Scored, interval, score
from megatron_ettin.evaluate.retrieval.tasks import (
    BENCHMARK,
    ENGLISH,
    ENGLISH_TASKS,
    LOCAL_FOLDERS,
    NAMED,
    TRIPLETS,
    local_folders,
)
from megatron_ettin.evaluate.retrieval.trained import EmbeddingModels, facts_of, longest
from megatron_ettin.evaluate.retrieval.triplets import EXTRA, triplet_facts
from megatron_ettin.evaluate.suites.intervals import wilson
from megatron_ettin.evaluate.suites.local import file_facts
from megatron_ettin.evaluate.suites.optional import library, quiet
from megatron_ettin.evaluate.suites.subjects import Subject
from megatron_ettin.evaluate.suites.suite import Facts, Measured, NotRunError, Options, RunTask


@dataclass(frozen=True)
class RetrievalSuite:
    """Held-out triplets, the paper's retrieval tasks, MTEB(eng, v2), and the collections of a local folder."""

    options: Options
    name: ClassVar[str] = "retrieval"
    version: ClassVar[str] = "1"

    @property
    def groups(self) -> Mapping[str, Sequence[str]]:
        """Names that stand for several tasks."""
        return {ENGLISH: ENGLISH_TASKS}

    def tasks(self) -> Sequence[str]:
        """In the order of the table: held-out triplets, the named ones, the benchmark, other local ones by folder."""
        known, local = [TRIPLETS, *NAMED, *ENGLISH_TASKS], self.options.local
        return known if local is None else [*known, *(name for name in local_folders(local) if name not in known)]

    def data(self, task: str) -> Facts:
        """Of the training, and of what is scored."""
        trained_on = {"trained_on": triplet_facts(self.options.local)}
        if task == TRIPLETS:
            return trained_on
        if self.options.local is None:
            asked = hub_task(task, NAMED.get(task))
            data = asked.metadata.dataset
            return {
                **trained_on, "hub": data["path"], "revision": data.get("revision"), "splits": list(asked.eval_splits),
                "subsets": list(asked.hf_subsets or []),
            }  # fmt: skip
        found = self._local(task)
        files = found.files() if isinstance(found, LocalRows) else found[1].files(found[0])
        return {**trained_on, **file_facts(files)}

    def _local(self, task: str) -> LocalRows | tuple[Path, Form]:
        """The folder of a task, by its form. Raises NotRunError."""
        assert self.options.local is not None
        folder = local_folders(self.options.local).get(task)
        if folder is None:
            places = " or ".join(str(self.options.local / place) for place in LOCAL_FOLDERS)
            raise NotRunError(f"no folder of this name in {places}")
        form = form_of(folder)
        return local_rows(folder) if form is None else (folder, form)

    def protocol(self, task: str, subject: Subject) -> Facts:
        """How the model is trained and the task is scored."""
        rates = list(self.options.retrieval.rates(self.options.budget))
        rules = {
            **self.options.retrieval.rules(), "learning_rates": rates, "budget": self.options.budget,
            "trainer": f"sentence-transformers {self._versions['sentence-transformers']}",
        }  # fmt: skip
        if len(rates) > 1:
            rules["chosen_by"] = "held-out triplets"
        if task != TRIPLETS:
            rules["scored_by"] = f"mteb {self._versions['mteb']}"
        pooling = self.options.retrieval.pooling_of(causal=subject.causal)
        template = "[CLS] text [SEP]" if subject.ours else "the model's own template, with an end token"
        return {"rules": rules, "reading": f"{pooling} of {template}, at most {longest(subject.folder):,} tokens"}

    @cached_property
    def _versions(self) -> dict[str, str]:
        """Raises ConfigError when a library is not installed."""
        library("sentence_transformers", EXTRA)
        library("mteb", EXTRA)
        return {name: metadata.version(name) for name in ("sentence-transformers", "mteb")}

    @contextlib.contextmanager
    def opened(self, subject: Subject) -> Iterator[RunTask]:
        """The subject's embedding models, trained at the first task."""
        quiet(EXTRA, LOGGERS)
        with contextlib.ExitStack() as stack:
            keep = self.options.keep or Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="ettin-retrieval-"))
            )
            folders = EmbeddingModels(self.options, keep / self.name).chosen(subject)
            models = [load(folder) for folder in folders]
            facts = [facts_of(folder) for folder in folders]
            trained = {"learning_rate": facts[0]["learning_rate"], "triplets_trained_on": facts[0]["trained_on"]}

            def run(task: str) -> Measured:
                if task == TRIPLETS:
                    return ranked([one["ranked_rightly"] for one in facts], facts[0]["held_out"], trained)
                return self._scored(task, models, trained)

            yield run

    def _scored(self, task: str, models: Sequence[Any], trained: Facts) -> Measured:
        scored = []
        for model in models:
            found, details = self._task(task)
            scored.append(score(found, model, long_texts=bool(details.pop("long_texts"))))
        group: Facts = {}
        if task in ENGLISH_TASKS:
            group = {"group": BENCHMARK, "group_size": len(ENGLISH_TASKS)}
        elif task not in NAMED:
            group = {"group": "local tasks", "group_size": 0}
        return measured(scored, {"type": found.metadata.type, **group, **trained, **details})

    def _task(self, task: str) -> tuple[Any, Facts]:
        """The task with its data, and what there is to say about them; one a model, since random states are in it."""
        if self.options.local is None:
            named = NAMED.get(task)
            long_texts = named is not None and named.long_texts
            return fetched(hub_task(task, named), self.options.limit), {"long_texts": long_texts}
        found = self._local(task)
        if isinstance(found, LocalRows):
            return rows_task(task, found, self.options.limit), {"long_texts": False}
        folder, form = found
        collection = form.read(form.files(folder))
        limited = collection.limited(self.options.limit)
        counts = {"documents": len(limited.documents), "queries": len(limited.queries)}
        return collection_task(task, limited), {"long_texts": form.long_texts, **counts, **collection.notes}


def measured(scored: Sequence[Scored], details: Facts) -> Measured:
    """The mean over seeds; its standard error has the part of the examples, which seeds share, and that of seeds."""
    values = np.array([one.value for one in scored])
    value, errors = float(values.mean()), [one.standard_error for one in scored]
    error = None
    if all(one is not None for one in errors):
        between = float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.0
        error = sqrt(float(np.mean([one**2 for one in errors if one is not None])) + between)
    others = {name: float(np.mean([one.others[name] for one in scored])) for name in scored[0].others}
    if len(values) > 1:
        others |= {"standard deviation over seeds": float(values.std(ddof=1)), "lowest": float(values.min()),
                   "highest": float(values.max())}  # fmt: skip
    return Measured(
        metric=scored[0].metric, value=value, examples=scored[0].examples, standard_error=error,
        interval=interval(details["type"], value, error), others=others,
        details={"scores": values.tolist(), **details},
    )  # fmt: skip


def ranked(rightly: Sequence[int], held_out: int, details: Facts) -> Measured:
    """The share of held-out triplets whose positive is nearer than the negative; the mean over seeds."""
    shares = np.array(rightly) / held_out
    value = float(shares.mean())
    return Measured(
        metric="accuracy", value=value, examples=held_out,
        standard_error=sqrt(value * (1 - value) / max(1, held_out - 1)), interval=wilson(value, held_out),
        details={"scores": shares.tolist(), **details},
    )  # fmt: skip
