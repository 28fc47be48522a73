"""The generative suite: lm-eval's tasks on any kind of model."""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

from megatron_ettin.errors import CheckpointError
from megatron_ettin.evaluate.generative.tasks import TASKS, Task
from megatron_ettin.evaluate.suites.intervals import wilson
from megatron_ettin.evaluate.suites.models import Models
from megatron_ettin.evaluate.suites.optional import library, not_fetched, quiet
from megatron_ettin.evaluate.suites.subjects import Subject
from megatron_ettin.evaluate.suites.suite import Facts, Measured, NotRunError, Options, RunTask

EXTRA = "eval-lm"
LOGGERS = ("lm_eval", "lm-eval", "evaluate")
READINGS = {
    "encoder": "three masks, the first is read; [SEP] counts",
    "encoder-from-decoder": "three masks, one position earlier; [SEP] counts",
    "decoder": "left context from [CLS]",
    "decoder-from-encoder": "left context from [CLS]",
}


@dataclass(frozen=True)
class GenerativeSuite:
    """Ten zero-shot tasks, gsm8k, and MMLU's two computer-science subjects."""

    options: Options
    models: Models = field(default_factory=Models)
    name: ClassVar[str] = "generative"
    version: ClassVar[str] = "1"
    _prepared: dict[Any, Any] = field(default_factory=dict)
    """Tokens and passes of requests, which all models of a tokenizer share."""

    def tasks(self) -> Sequence[str]:
        """In the paper's order."""
        return list(TASKS)

    def data(self, task: str) -> Facts:
        """Local files with their hashes, or the hub's data set that lm-eval names."""
        if self.options.local is not None:
            return TASKS[task].checked(self.options.local)
        return {"hub": f"as lm_eval {self.harness} names it for {task}", "split": TASKS[task].split}

    def protocol(self, task: str, subject: Subject) -> Facts:
        """Prompts and metrics are the harness's."""
        found = TASKS[task]
        rules = {"harness": f"lm_eval {self.harness}", "task": task, "shots": found.shots, "metric": found.metric}
        return {"rules": rules, "reading": READINGS[subject.kind]}

    @cached_property
    def harness(self) -> str:
        """Version of lm-eval. Raises ConfigError when it is not installed."""
        library("lm_eval", EXTRA)
        return metadata.version("lm_eval")

    @cached_property
    def _tasks(self) -> KeptTasks:
        quiet(EXTRA, LOGGERS)
        return KeptTasks(task_manager())

    @cached_property
    def _cache(self) -> tempfile.TemporaryDirectory[str]:
        """Where the tasks' tables lie for as long as the suite lives."""
        return tempfile.TemporaryDirectory(prefix="ettin-datasets-")

    @contextlib.contextmanager
    def opened(self, subject: Subject) -> Iterator[RunTask]:
        """The model as lm-eval takes it."""
        quiet(EXTRA, LOGGERS)
        model = loaded(subject, self.models, self._prepared)

        def run(task: str) -> Measured:
            before = getattr(model, "cut", 0)
            measured = self._run(TASKS[task], model)
            cut = getattr(model, "cut", 0) - before
            return replace(measured, details={**measured.details, "contexts_cut": cut})

        yield run

    def _run(self, task: Task, model: Any) -> Measured:  # noqa: ANN401
        simple_evaluate = library("lm_eval.evaluator", EXTRA).simple_evaluate
        wanted: list[Any] = [task.name]
        if self.options.local is not None:
            wanted = [{"group": "local", "task": [task.override(self.options.local, self._cache.name)]}]
        try:
            with without_bars():
                found = simple_evaluate(
                    model=model, tasks=wanted, task_manager=self._tasks, limit=self.options.limit, bootstrap_iters=0,
                    log_samples=False,
                )  # fmt: skip
        except (ConnectionError, FileNotFoundError) as error:
            raise not_fetched(f"the data of {task.name}", error) from error
        if found is None:
            raise NotRunError("another rank of the harness holds the results", absent=False)
        return measured_of(task, found["results"][task.name], found["n-samples"][task.name]["effective"])


class KeptTasks:
    """lm-eval's tasks with their data and prompts, which are made for the first model and asked of all others too."""

    def __init__(self, manager: Any) -> None:  # noqa: ANN401 - lm-eval has no types
        self._manager = manager
        self._loaded: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._manager, name)

    def load(self, wanted: list[Any]) -> Any:  # noqa: ANN401
        """In the place of the manager's: loaded tasks, those of an earlier model where they are the same."""
        key = json.dumps(wanted, sort_keys=True)
        if key not in self._loaded:
            self._loaded[key] = self._manager.load(wanted)
            return self._loaded[key]
        for task in self._loaded[key]["tasks"].values():
            if task.instances:
                task.build_all_requests = partial(without_answers, task)
        return self._loaded[key]


def without_answers(task: Any, **_: Any) -> None:  # noqa: ANN401
    """In the place of a task's making of requests: those of an earlier model, without what it answered."""
    for instance in task.instances:
        instance.resps, instance.filtered_resps = [], {}


def measured_of(task: Task, metrics: Mapping[str, Any], examples: int) -> Measured:
    """The published metric, a share of examples, with its interval, and all others. Raises CheckpointError for NaN."""
    name = task.metric.partition(",")[0]
    value = float(metrics[task.metric])
    if not math.isfinite(value):
        raise CheckpointError(f"{task.name}: {name} is {value}; the model's probabilities are no numbers")
    interval = wilson(value, examples)
    standard_error = math.sqrt(value * (1 - value) / (examples - 1)) if examples > 1 else None
    others = {
        key: float(number)
        for key, number in metrics.items()
        if key != task.metric and isinstance(number, (int, float)) and math.isfinite(number)
    }
    return Measured(
        metric=name, value=value, examples=examples, standard_error=standard_error, interval=interval, others=others,
        details={"version": metrics.get("version")},
    )  # fmt: skip


def loaded(subject: Subject, models: Models, prepared: dict[Any, Any]) -> Any:  # noqa: ANN401 - a model of lm-eval
    """Encoders by three masks; decoders of ours by our engine, others by the harness's own model.

    ``prepared`` keeps the tokens and passes of requests from model to model.
    """
    library("lm_eval.models", EXTRA)
    if not subject.causal:
        from megatron_ettin.evaluate.generative.encoder_lm import EncoderLM

        return EncoderLM(subject, models=models, prepared=prepared)
    from megatron_ettin.evaluate.generative.decoder_lm import DecoderLM, harness_decoder

    if subject.ours:
        return DecoderLM(subject, models=models, prepared=prepared)
    return harness_decoder(subject, models)


def task_manager() -> Any:  # noqa: ANN401 - lm-eval has no types
    """The harness's index of the suite's task files alone: that of all 16,000 takes ten seconds to make."""
    tasks = Path(library("lm_eval", EXTRA).__path__[0]) / "tasks"
    folders = sorted({str(tasks / task.harness_folder) for task in TASKS.values()})
    return library("lm_eval.tasks", EXTRA).TaskManager(include_path=folders, include_defaults=False)


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """The harness makes its prompts without a progress bar, which it has no setting for."""
    module = library("lm_eval.api.task", EXTRA)
    kept = module.tqdm
    module.tqdm = lambda items, **_: items
    try:
        yield
    finally:
        module.tqdm = kept
