"""Run tasks of suites on models, keep each outcome as it comes, and go on where an earlier session ended."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_ettin.errors import ConfigError, DataError, suggest
from megatron_ettin.evaluate.suites import results
from megatron_ettin.evaluate.suites.shard import ALONE, Divisible, Shard
from megatron_ettin.evaluate.suites.subjects import Subject
from megatron_ettin.evaluate.suites.suite import Facts, Grouped, NotRunError, Options, RunTask, Suite

RARELY = 50
"""results.json is put together from its parts again when that would take less than 1/50 of the time since."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One task of one suite on one model."""

    subject: Subject
    suite: Suite
    task: str
    place: tuple[int, int, int]
    """Of model, suite and task in the order of the command line."""


def chosen_tasks(suites: Sequence[Suite], names: Sequence[str]) -> dict[str, list[str]]:
    """Suite -> tasks to run; no names: all. Raises ConfigError for a name that no suite has."""
    known = {task for suite in suites for task in suite.tasks()}
    groups = {name: tasks for suite in suites if isinstance(suite, Grouped) for name, tasks in suite.groups.items()}
    for name in names:
        if name not in known and name not in groups:
            suite_names = ", ".join(suite.name for suite in suites)
            raise ConfigError(f"--tasks {name}: no task of {suite_names}" + suggest(name, sorted({*known, *groups})))
    names = [task for name in names for task in groups.get(name, [name])]
    return {suite.name: [task for task in suite.tasks() if not names or task in names] for suite in suites}


def evaluate_suites(
    subjects: Sequence[Subject],
    suites: Sequence[Suite],
    options: Options,
    output: Path,
    *,
    tasks: Sequence[str] = (),
    shard: Shard = ALONE,
    say: Callable[[str], None] = print,
) -> Facts:
    """The content of results.json in ``output``, after everything that this shard has to do.

    Raises ConfigError before any work when ``output`` holds results of other settings, and DataError at the end when
    a task that was asked for by name has no data.
    """
    session = Session(options=options, output=output, say=say)
    chosen = chosen_tasks(suites, tasks)
    suites = [suite.within(output, shard) if isinstance(suite, Divisible) else suite for suite in suites]
    every = [
        Unit(subject=subject, suite=suite, task=task, place=(i, j, list(suite.tasks()).index(task)))
        for i, subject in enumerate(subjects)
        for j, suite in enumerate(suites)
        for task in chosen[suite.name]
    ]
    mine = [unit for number, unit in enumerate(every) if isinstance(unit.suite, Divisible) or shard.takes(number)]
    for unit in mine:
        session.finished(unit)
    with session:
        session.run(mine)
    return session.closed(asked=bool(tasks))


@dataclass
class Session(AbstractContextManager["Session"]):
    """Units are run and their outcomes kept in ``output``; on leaving the context results.json holds them all."""

    options: Options
    output: Path
    say: Callable[[str], None] = print
    absent: list[str] = field(default_factory=list)
    """Tasks without data, each with its reason."""
    _data: dict[tuple[str, str], Facts | NotRunError] = field(default_factory=dict)
    _assembled: tuple[float, float] = (float("-inf"), 0.0)
    """When results.json was put together last, and the seconds that it took."""

    def __exit__(self, *_: object) -> None:
        results.assemble(self.output)

    def closed(self, *, asked: bool) -> Facts:
        """The content of results.json. Raises DataError where tasks that were ``asked`` for by name have no data."""
        if self.absent and asked:
            raise DataError(
                f"asked for by --tasks, but not run: {'; '.join(self.absent)}. "
                f"The rest is in {self.output / results.FILE}"
            )
        return results.read_results(self.output)

    def identity(self, unit: Unit) -> Facts:
        """What decides the outcome. Raises NotRunError, DataError."""
        facts: Facts = json.loads(
            json.dumps(
                {
                    "fingerprint": unit.subject.fingerprint,
                    "suite": unit.suite.name,
                    "version": unit.suite.version,
                    "protocol": unit.suite.protocol(unit.task, unit.subject),
                    "data": self._facts(unit),
                    "limit": self.options.limit,
                    "seeds": self.options.seeds,
                }
            )
        )  # as it is read back
        return facts

    def _facts(self, unit: Unit) -> Facts:
        """The suite's word about the data of a task, which is read and hashed once, not once a model."""
        key = (unit.suite.name, unit.task)
        if key not in self._data:
            try:
                self._data[key] = unit.suite.data(unit.task)
            except NotRunError as reason:
                self._data[key] = reason
        found = self._data[key]
        if isinstance(found, NotRunError):
            raise found
        return found

    def finished(self, unit: Unit) -> bool:
        """Whether an earlier session did this unit; raises ConfigError when it did so by other rules."""
        path = results.part_path(self.output, unit.subject.name, unit.suite.name, unit.task)
        if not path.exists():
            return False
        part = results.read_part(path)
        if not part.done:
            return False
        try:
            wanted = self.identity(unit)
        except NotRunError:
            return True
        differing = [name for name, value in wanted.items() if part.identity.get(name) != value]
        if differing:
            raise ConfigError(
                f"{path} holds {unit.task} of {unit.subject.name} with another {', '.join(differing)}; "
                "give another --output, or remove that file"
            )
        return True

    def settled(self, unit: Unit) -> bool:
        """Whether it is finished, or cannot run for the reason that an earlier session found. Raises as finished."""
        if self.finished(unit):
            return True
        path = results.part_path(self.output, unit.subject.name, unit.suite.name, unit.task)
        try:
            self.identity(unit)
        except NotRunError as reason:
            if path.exists() and results.read_part(path).result.get("reason") == str(reason):
                self._note(unit, reason)
                return True
        return False

    def run(self, units: Sequence[Unit]) -> None:
        """Do what is left of some units; each model is loaded once a suite, when it is needed."""
        for unit, run in self._with_models(units):
            if reason := self._run(unit, run):
                self._note(unit, reason)

    def _note(self, unit: Unit, reason: NotRunError) -> None:
        line = f"{unit.suite.name} {unit.task}: {reason}"
        if reason.absent and line not in self.absent:
            self.absent.append(line)

    def _with_models(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, Callable[[], RunTask]]]:
        """Units that are left, with the way to their loaded model."""
        with ExitStack() as stack:
            loaded: tuple[str, str] | None = None
            runner: list[RunTask] = []

            def run_of(unit: Unit) -> RunTask:
                nonlocal loaded
                wanted = (unit.subject.name, unit.suite.name)
                if loaded != wanted:
                    stack.close()
                    runner[:] = [stack.enter_context(unit.suite.opened(unit.subject))]
                    loaded = wanted
                return runner[0]

            for unit in units:
                if self.finished(unit):
                    self.say(f"{unit.subject.name}, {unit.suite.name} {unit.task}: there already")
                    continue
                yield unit, lambda unit=unit: run_of(unit)  # type: ignore[misc]

    def _run(self, unit: Unit, run: Callable[[], RunTask]) -> NotRunError | None:
        """Do one unit and keep its outcome; the reason when it could not run."""
        what: Facts = {}
        trouble = None
        start = time.perf_counter()
        try:
            what = self.identity(unit)
            measured = run()(unit.task)
            outcome = results.done(measured, time.perf_counter() - start)
            low, high = measured.interval or (measured.value, measured.value)
            line = f"{measured.metric} {measured.value:.4f} [{low:.4f}, {high:.4f}] of {measured.examples:,} examples"
        except NotRunError as reason:
            trouble, outcome, line = reason, results.not_run(str(reason)), f"not run: {reason}"
        self._keep(unit, what, outcome)
        self.say(f"{unit.subject.name}, {unit.suite.name} {unit.task}: {line}")
        return trouble

    def _keep(self, unit: Unit, what: Facts, outcome: Facts, **model: Any) -> None:
        """Write the unit's part; ``model``: facts of the model that are others than the subject says."""
        about = {
            "model": unit.subject.facts() | model, "environment": results.environment(),
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        }  # fmt: skip
        part = results.Part(
            model=unit.subject.name, suite=unit.suite.name, task=unit.task, place=unit.place, identity=what,
            about=about, result=outcome,
        )  # fmt: skip
        if part.done or not self.finished(unit):  # another process may have put a shared task together
            results.write_part(self.output, part)
        last, cost = self._assembled
        start = time.perf_counter()
        if start - last >= RARELY * cost:  # for whoever looks on, unless that would cost more than it is worth
            results.assemble(self.output)
            self._assembled = (time.perf_counter(), time.perf_counter() - start)

    def give_up(self, unit: Unit, reason: str) -> None:
        """Note why a unit cannot be run, unless it was before."""
        path = results.part_path(self.output, unit.subject.name, unit.suite.name, unit.task)
        if not path.exists() or not results.read_part(path).done:
            self._keep(unit, {}, results.not_run(reason), kind="-")
