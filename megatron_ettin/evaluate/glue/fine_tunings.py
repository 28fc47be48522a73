"""All fine-tunings of one model: each is kept as soon as it is finished, and none is done twice."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from megatron_ettin.evaluate.generative.engines import longest_text
from megatron_ettin.evaluate.glue.classifiers import DROPOUT, Classifier, PackedClassifier, PaddedClassifier
from megatron_ettin.evaluate.glue.kept import FineTuning, Outcome, Place
from megatron_ettin.evaluate.glue.reading import Reader, Text
from megatron_ettin.evaluate.glue.scores import Values, score
from megatron_ettin.evaluate.glue.settings import Budget, Setting
from megatron_ettin.evaluate.glue.tasks import TASKS, TRAIN, Task
from megatron_ettin.evaluate.glue.tuning import Tuned, fine_tune, predict, steps_of
from megatron_ettin.evaluate.suites.shard import Shard
from megatron_ettin.evaluate.suites.subjects import Subject
from megatron_ettin.evaluate.suites.suite import Facts, NotRunError, Options
from megatron_ettin.evaluate.suites.tokenizers import tokenizer_of
from megatron_ettin.export.huggingface import read_folder_config
from megatron_ettin.progress import Progress

logger = logging.getLogger(__name__)

FIRST_SEED = 42
"""The published one; further seeds count on from it."""
STAGE = "mnli"
"""The task whose fine-tuned model others begin with."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split as the model reads it."""

    texts: list[Text]
    labels_N: Values
    cut: int
    """Texts that were cut to the longest one."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The fine-tunings behind a score."""

    setting: Setting
    outcomes: Sequence[Outcome]
    """One a seed."""
    swept: Mapping[str, float]
    """Setting -> score with the first seed, where there were several."""


@dataclass(frozen=True)
class FineTunings:
    """All of one model."""

    subject: Subject
    options: Options
    budget: Budget
    version: str
    folder: Path
    """Of the results."""
    shard: Shard
    _read: dict[str, dict[str, Split]] = field(default_factory=dict, repr=False)
    """Task -> its splits."""

    def chosen(self, task: Task) -> Chosen:
        """Every seed at the best setting of the task. Raises NotRunError while other processes have some of them."""
        setting, swept = self._best(task)
        seeds = range(FIRST_SEED, FIRST_SEED + self.options.seeds)
        outcomes = self._outcomes([FineTuning(task=task, setting=setting, seed=seed) for seed in seeds])
        return Chosen(setting=setting, outcomes=outcomes, swept=swept)

    def labels(self, task: Task) -> dict[str, Values]:
        """Split -> labels of what is scored."""
        return {name: split.labels_N for name, split in self._splits(task).items() if name != TRAIN}

    def _best(self, task: Task) -> tuple[Setting, dict[str, float]]:
        settings = self.budget.settings(task)
        if len(settings) == 1:
            return settings[0], {}
        outcomes = self._outcomes([FineTuning(task=task, setting=setting, seed=FIRST_SEED) for setting in settings])
        labels_N = self.labels(task)[task.split]
        scores = [score(task.metric, np.array(one.predictions[task.split]), labels_N)[0] for one in outcomes]
        best = max(range(len(settings)), key=scores.__getitem__)
        return settings[best], {str(setting): value for setting, value in zip(settings, scores, strict=True)}

    def _outcomes(self, tunings: Sequence[FineTuning]) -> list[Outcome]:
        """Those of an earlier session, or made here. Raises NotRunError where other processes are to make some."""
        found = []
        for tuning in tunings:
            place = self._place(tuning)
            if not place.outcome.exists() and self.shard.takes(self._number(tuning)):
                self._do(tuning, keep=tuning.task.name == STAGE and len(self.budget.settings(tuning.task)) == 1)
            if place.outcome.exists():
                found.append(place.read())
        if missing := len(tunings) - len(found):
            raise NotRunError(
                f"{missing} of {len(tunings)} fine-tunings on {tunings[0].task.name} belong to other shards; give the "
                "same command again when they are done",
                absent=False,
            )
        return found

    def _number(self, tuning: FineTuning) -> int:
        """Of one among all of the model, by which processes share them."""
        before = 0
        for task in TASKS.values():
            settings = self.budget.settings(task)
            if task.name == tuning.task.name:
                later = tuning.seed - FIRST_SEED
                return before + (len(settings) + later - 1 if later else settings.index(tuning.setting))
            before += len(settings) + self.options.seeds - 1
        raise ValueError(f"{tuning.task.name} is no task")

    def _do(self, tuning: FineTuning, *, keep: bool) -> None:
        """Fine-tune, predict and keep the outcome; with ``keep`` the weights as well."""
        splits = self._splits(tuning.task)
        training = splits[TRAIN]
        classifier = self.classifier(tuning, [text for split in splits.values() for text in split.texts])
        title = f"{self.subject.name}, glue {tuning.task.name}, {tuning.setting}, seed {tuning.seed}"
        with Progress(title, steps_of(len(training.texts), tuning.setting), " steps") as progress:
            tuned = fine_tune(
                classifier, training.texts, training.labels_N, tuning.setting, tuning.seed, progress.update
            )
        if tuned.diverged_at is not None:
            logger.warning("%s: the loss of step %d is no number", title, tuned.diverged_at)
        outcome = Outcome(
            predictions={name: predicted(classifier, tuned, split) for name, split in splits.items() if name != TRAIN},
            steps=tuned.steps, loss=tuned.loss, diverged_at=tuned.diverged_at,
            cut=sum(split.cut for split in splits.values()), training_examples=len(training.texts),
        )  # fmt: skip
        body = classifier.body(tuned.kept) if keep else None
        self._place(tuning).write(self._identity(tuning), outcome, body)
        logger.info("%s: loss %.4f after %d steps", title, tuned.loss, tuned.steps)

    def classifier(self, tuning: FineTuning, texts: Sequence[Text]) -> Classifier:
        """The model before its first step, able to read these texts; weights to begin with are made if need be."""
        start, classes, stage = None, tuning.task.classes, self._stage_of(tuning.task)
        if stage is not None:
            start = self._place(stage).weights
            if not start.exists():
                self._do(stage, keep=True)
        if self.subject.ours:
            return PackedClassifier.load(self.subject, texts, classes, tuning.seed, start, DROPOUT)
        return PaddedClassifier.load(self.subject, self._reader.tokenizer, classes, tuning.seed, start)

    def _stage_of(self, task: Task) -> FineTuning | None:
        """The fine-tuning that a staged task begins with, done if it is for this process to do."""
        if not task.staged or not stage_is_there(self.options):
            return None
        setting, _ = self._best(TASKS[STAGE])
        tuning = FineTuning(task=TASKS[STAGE], setting=setting, seed=FIRST_SEED)
        self._outcomes([tuning])
        return tuning

    @cached_property
    def _reader(self) -> Reader:
        subject = self.subject
        if subject.ours:
            longest = read_folder_config(subject.folder).model.maximum_length
        else:
            from transformers import AutoConfig

            longest = longest_text(AutoConfig.from_pretrained(subject.folder, trust_remote_code=False))
        explicit = subject.ours or subject.causal
        return Reader(tokenizer=tokenizer_of(subject), model_longest=longest, explicit=explicit)

    def _splits(self, task: Task) -> dict[str, Split]:
        """Every split, training first; read once."""
        if task.name not in self._read:
            found = {}
            for name in task.splits(self.options.local):
                limits = [self.options.limit, self.budget.most_examples if name == TRAIN else None]
                examples = task.read(self.options.local, name, min((one for one in limits if one), default=None))
                texts, cut = self._reader.read(examples)
                found[name] = Split(texts=texts, labels_N=examples.labels_N, cut=cut)
            self._read[task.name] = found
        return self._read[task.name]

    def _place(self, tuning: FineTuning) -> Place:
        return Place.of(self.folder, self.subject.name, tuning, self._identity(tuning))

    def _identity(self, tuning: FineTuning) -> Facts:
        """All that decides the outcome."""
        stage = self._stage_of(tuning.task)
        return {
            "fingerprint": self.subject.fingerprint, "version": self.version, "task": tuning.task.name,
            "setting": str(tuning.setting), "seed": tuning.seed, "data": tuning.task.facts(self.options.local),
            "limit": self.options.limit, "most_examples": self.budget.most_examples,
            "start": None if stage is None else self._identity(stage),
        }  # fmt: skip


def predicted(classifier: Classifier, tuned: Tuned, split: Split) -> list[float]:
    """The predictions of a split: of a model that diverged a constant, since its weights mean nothing."""
    if tuned.diverged_at is not None:
        return [0.0] * len(split.texts)
    return [value if math.isfinite(value) else 0.0 for value in predict(classifier, split.texts).tolist()]


def stage_is_there(options: Options) -> bool:
    """Whether the data of MNLI are."""
    try:
        TASKS[STAGE].facts(options.local)
    except NotRunError:
        return False
    return True
