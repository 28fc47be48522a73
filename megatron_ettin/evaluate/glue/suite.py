"""The glue suite: a score a task, of models that were fine-tuned on it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from megatron_ettin.evaluate.glue.classifiers import DROPOUT
from megatron_ettin.evaluate.glue.fine_tunings import FIRST_SEED, STAGE, FineTunings, stage_is_there
from megatron_ettin.evaluate.glue.reading import LONGEST
from megatron_ettin.evaluate.glue.scores import measured, require_libraries
from megatron_ettin.evaluate.glue.settings import Budget
from megatron_ettin.evaluate.glue.tasks import TASKS
from megatron_ettin.evaluate.glue.tuning import BETAS, EPSILON, WARMUP
from megatron_ettin.evaluate.suites.shard import ALONE, Shard
from megatron_ettin.evaluate.suites.subjects import Subject
from megatron_ettin.evaluate.suites.suite import Facts, Measured, Options, RunTask

READINGS = {
    "encoder": "head of the language model at [CLS] of [CLS] a [SEP] b [SEP]",
    "decoder": "head of the language model at the last [SEP] of [CLS] a [SEP] b [SEP]",
}


@dataclass(frozen=True)
class GlueSuite:
    """Eight tasks."""

    options: Options
    budget: Budget
    folder: Path = Path()
    """Where finished fine-tunings are kept."""
    shard: Shard = ALONE
    name: ClassVar[str] = "glue"
    version: ClassVar[str] = "1"

    def tasks(self) -> Sequence[str]:
        """In the paper's order."""
        return list(TASKS)

    def within(self, folder: Path, shard: Shard) -> GlueSuite:
        """See Divisible."""
        return replace(self, folder=folder, shard=shard)

    def data(self, task: str) -> Facts:
        """Files with their hashes, or the hub's data set; for a staged task those of MNLI as well."""
        found = TASKS[task].facts(self.options.local)
        if TASKS[task].staged and stage_is_there(self.options):
            return {**found, f"{STAGE}, before": TASKS[STAGE].facts(self.options.local)}
        return found

    def protocol(self, task: str, subject: Subject) -> Facts:
        """How it is fine-tuned, and where the model is read."""
        wanted, start = TASKS[task], "pretrained"
        if wanted.staged:
            start = f"fine-tuned on {STAGE}" if stage_is_there(self.options) else f"pretrained, {STAGE} is absent"
        rules: Facts = {
            **self.budget.facts(wanted), "start": start, "metric": wanted.metric, "longest_text": LONGEST,
            "first_seed": FIRST_SEED, "dropout": DROPOUT, "precision": "fp32",
            "optimizer": f"AdamW, betas {BETAS[0]} {BETAS[1]}, epsilon {EPSILON:g}, decay of matrices apart from the "
            f"rate; warmup {WARMUP:g}, then linear to 0",
        }  # fmt: skip
        if wanted.staged and stage_is_there(self.options):
            rules[STAGE] = self.budget.facts(TASKS[STAGE])
        reading = READINGS["decoder" if subject.causal else "encoder"]
        return {"rules": rules, "reading": reading if subject.ours else "classifier of transformers, with its dropout"}

    @contextlib.contextmanager
    def opened(self, subject: Subject) -> Iterator[RunTask]:
        """Every task has models of its own."""
        require_libraries()
        tunings = FineTunings(subject, self.options, self.budget, self.version, self.folder, self.shard)

        def run(name: str) -> Measured:
            task = TASKS[name]
            chosen = tunings.chosen(task)
            details: Facts = {
                "setting": str(chosen.setting),
                "seeds": [FIRST_SEED + i for i in range(len(chosen.outcomes))],
                "training_examples": chosen.outcomes[0].training_examples,
                "texts_cut": chosen.outcomes[0].cut,
            }
            diverged = sum(one.diverged_at is not None for one in chosen.outcomes)
            if diverged:
                details["diverged"] = f"{diverged} of {len(chosen.outcomes)} seeds; they count as constant predictions"
            if chosen.swept:
                details["swept"] = dict(chosen.swept)
            predictions = [
                {split: np.array(values) for split, values in one.predictions.items()} for one in chosen.outcomes
            ]
            return measured(task, predictions, tunings.labels(task), details)

        yield run
