"""Run tasks of suites on models, keep each outcome as it comes, and go on where an earlier session ended."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from megatron_ettin.errors import ConfigError, DataError, suggest
from megatron_ettin.evaluate.suites import results
from megatron_ettin.evaluate.suites.subjects import Subject
from megatron_ettin.evaluate.suites.suite import Facts, NotRunError, Options, RunTask, Suite


@dataclass(frozen=True)
class Shard:
    """One of several processes that share the work through one output folder."""

    index: int = 1
    """From 1."""
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From ``i/n``; raises ConfigError."""
        index, mark, count = text.partition("/")
        if not (mark and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise ConfigError(f"--shard {text}: give i/n with 1 <= i <= n, for example 2/8")
        return cls(int(index), int(count))

    def takes(self, number: int) -> bool:
        """Whether this process does unit ``number``."""
        return number % self.count == self.index - 1


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
    for name in names:
        if name not in known:
            suite_names = ", ".join(suite.name for suite in suites)
            raise ConfigError(f"--tasks {name}: no task of {suite_names}" + suggest(name, sorted(known)))
    return {suite.name: [task for task in suite.tasks() if not names or task in names] for suite in suites}


def evaluate_suites(
    subjects: Sequence[Subject],
    suites: Sequence[Suite],
    options: Options,
    output: Path,
    *,
    tasks: Sequence[str] = (),
    shard: Shard = Shard(),
    say: Callable[[str], None] = print,
) -> Facts:
    """The content of results.json in ``output``, after everything that this shard has to do.

    Raises ConfigError before any work when ``output`` holds results of other settings, and DataError at the end when
    a task that was asked for by name has no data.
    """
    chosen = chosen_tasks(suites, tasks)
    every = [
        Unit(subject=subject, suite=suite, task=task, place=(i, j, list(suite.tasks()).index(task)))
        for i, subject in enumerate(subjects)
        for j, suite in enumerate(suites)
        for task in chosen[suite.name]
    ]
    mine = [unit for number, unit in enumerate(every) if shard.takes(number)]
    for unit in mine:
        _finished(unit, options, output)
    absent = []
    for unit, run in _with_models(mine, options, output, say):
        reason = _run(unit, run, options, output, say)
        if reason is not None and reason.absent and tasks:
            absent.append(f"{unit.suite.name} {unit.task}: {reason}")
    content = results.assemble(output)
    if absent:
        reasons = "; ".join(absent)
        raise DataError(f"asked for by --tasks, but not run: {reasons}. The rest is in {output / results.FILE}")
    return content


def identity(unit: Unit, options: Options) -> Facts:
    """What decides the outcome. Raises NotRunError, DataError."""
    facts: Facts = json.loads(
        json.dumps(
            {
                "fingerprint": unit.subject.fingerprint,
                "suite": unit.suite.name,
                "version": unit.suite.version,
                "protocol": unit.suite.protocol(unit.task, unit.subject),
                "data": unit.suite.data(unit.task),
                "limit": options.limit,
                "seeds": options.seeds,
            }
        )
    )  # as it is read back
    return facts


def _finished(unit: Unit, options: Options, output: Path) -> bool:
    """Whether an earlier session did this unit; raises ConfigError when it did so by other rules."""
    path = results.part_path(output, unit.subject.name, unit.suite.name, unit.task)
    if not path.exists():
        return False
    part = results.read_part(path)
    if not part.done:
        return False
    try:
        wanted = identity(unit, options)
    except NotRunError:
        return True
    differing = [name for name, value in wanted.items() if part.identity.get(name) != value]
    if differing:
        raise ConfigError(
            f"{path} holds {unit.task} of {unit.subject.name} with another {', '.join(differing)}; "
            "give another --output, or remove that file"
        )
    return True


def _with_models(
    units: Sequence[Unit], options: Options, output: Path, say: Callable[[str], None]
) -> Iterator[tuple[Unit, Callable[[], RunTask]]]:
    """Units that are left, with the way to their loaded model: each is loaded once a suite, when it is needed."""
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
            if _finished(unit, options, output):
                say(f"{unit.subject.name}, {unit.suite.name} {unit.task}: there already")
                continue
            yield unit, lambda unit=unit: run_of(unit)  # type: ignore[misc]


def _run(
    unit: Unit, run: Callable[[], RunTask], options: Options, output: Path, say: Callable[[str], None]
) -> NotRunError | None:
    """Do one unit and keep its outcome; the reason when it could not run."""
    what: Facts = {}
    trouble = None
    start = time.perf_counter()
    try:
        what = identity(unit, options)
        measured = run()(unit.task)
        outcome = results.done(measured, time.perf_counter() - start)
        low, high = measured.interval or (measured.value, measured.value)
        line = f"{measured.metric} {measured.value:.4f} [{low:.4f}, {high:.4f}] of {measured.examples:,} examples"
    except NotRunError as reason:
        trouble, outcome, line = reason, results.not_run(str(reason)), f"not run: {reason}"
    about = {"model": unit.subject.facts(), "environment": results.environment(), "command": results.command()}
    part = results.Part(
        model=unit.subject.name, suite=unit.suite.name, task=unit.task, place=unit.place, identity=what, about=about,
        result=outcome,
    )  # fmt: skip
    results.write_part(output, part)
    results.assemble(output)
    say(f"{unit.subject.name}, {unit.suite.name} {unit.task}: {line}")
    return trouble
