"""Suites over the points of curves: one checkpoint after the other through one loaded model, shared by shards."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_ettin.errors import CheckpointError, ConfigError
from megatron_ettin.evaluate.dynamics.one_tokenizer import OneTokenizer
from megatron_ettin.evaluate.dynamics.points import Point
from megatron_ettin.evaluate.suites import results
from megatron_ettin.evaluate.suites.session import Session, Unit, chosen_tasks
from megatron_ettin.evaluate.suites.shard import ALONE, Divisible, Shard
from megatron_ettin.evaluate.suites.subjects import Subject
from megatron_ettin.evaluate.suites.suite import Facts, Options, Suite


def evaluate_points(
    points: Sequence[Point],
    suites: Sequence[Suite],
    options: Options,
    output: Path,
    *,
    mntp: Collection[str] = (),
    tasks: Sequence[str] = (),
    shard: Shard = ALONE,
    say: Callable[[str], None] = print,
) -> Facts:
    """The content of results.json in ``output``, after everything that this shard has to do.

    Units of work are tasks of points. Raises before any work for a second tokenizer (DataError) and for results of
    other settings (ConfigError). A checkpoint that cannot be evaluated is listed with its reason, the others are done,
    and CheckpointError at the end names it.
    """
    unknown = sorted(set(mntp) - {point.curve for point in points})
    if unknown:
        curves = dict.fromkeys(point.curve for point in points)
        raise ConfigError(f"--mntp names {', '.join(unknown)}, but the curves are called {', '.join(curves)}")
    tokenizer = OneTokenizer()
    tokenizer.require_stored(points)
    session = Session(options=options, output=output, say=say)
    chosen = chosen_tasks(suites, tasks)
    suites = [suite.within(output, shard) if isinstance(suite, Divisible) else suite for suite in suites]
    work = shared(points, suites, chosen, shard, session)
    left = [one for one in work if one.places and not one.finished()]
    if len(left) < len(work):
        say(f"{len(work) - len(left)} of {len(work)} checkpoints are there already, or of other shards")
    failed: list[str] = []
    with session:
        for one in left:
            try:
                with one.point.opened(mntp) as subject:
                    tokenizer.require(one.point, subject.folder)
                    session.run(one.units(subject))
            except CheckpointError as error:
                failed.append(f"{one.point.name}: {error}")
                say(f"{one.point.name}: not run: {error}")
                one.give_up(str(error))
    if failed:
        raise CheckpointError(
            f"{len(failed)} of {len(points)} checkpoints could not be evaluated: {'; '.join(failed)}. "
            f"The rest is in {output / results.FILE}"
        )
    return session.closed(asked=bool(tasks))


def shared(
    points: Sequence[Point], suites: Sequence[Suite], chosen: dict[str, list[str]], shard: Shard, session: Session
) -> list[Work]:
    """What this shard has to do on each point: a part without gaps of all tasks of all points, so that few points are
    opened by two shards, and a suite that answers all of its tasks at once does so once.
    """
    pairs = [
        (suite, task, number, list(suite.tasks()).index(task))
        for number, suite in enumerate(suites)
        for task in chosen[suite.name]
    ]
    units = len(points) * len(pairs)
    work = []
    for place, point in enumerate(points):
        mine = [
            pair
            for number, pair in enumerate(pairs, place * len(pairs))
            if isinstance(pair[0], Divisible) or shard.holds(number, units)
        ]
        places = [(suite, task, (place, number, at)) for suite, task, number, at in mine]
        work.append(Work(point=point, places=places, session=session))
    return work


@dataclass(frozen=True, kw_only=True)
class Work:
    """What this shard has to do on one point."""

    point: Point
    places: list[tuple[Suite, str, tuple[int, int, int]]]
    """Suite, task, and their place in tables."""
    session: Session

    def units(self, subject: Subject) -> list[Unit]:
        """The units with their model."""
        return [Unit(subject=subject, suite=suite, task=task, place=place) for suite, task, place in self.places]

    def finished(self) -> bool:
        """Whether an earlier session did all of it that can be done, told without opening the point.

        Raises ConfigError when it did so by other rules.
        """
        word = self.point.origin.known_by()
        for suite, task, _ in self.places:
            path = results.part_path(self.session.output, self.point.name, suite.name, task)
            about = results.read_part(path).about["model"] if path.exists() else {}
            if word and about.get("point", {}).get("known_by") == word:  # it is still the same model
                facts = {name: value for name, value in about.items() if name != "source"}
                subject = Subject(name=self.point.name, source=self.point.source, folder=Path(), **facts)
                settled = [self.session.settled(unit) for unit in self.units(subject)]  # of all: each may raise
                return all(settled)
        return False

    def give_up(self, reason: str) -> None:
        """Note for what is not done why it could not be."""
        subject = Subject(
            name=self.point.name, source=self.point.source, folder=Path(), kind="encoder", label_offset=0, ours=False,
            fingerprint="", point=self.point.facts() | {"known_by": ""},
        )  # fmt: skip
        for unit in self.units(subject):
            self.session.give_up(unit, reason)
