"""What the numbers of a study allow to say about the paper's claims, in sentences; never more than the intervals do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from megatron_ettin.evaluate.stdlib.tasks import CONTINUATION, DOCSTRING, MODULE
from megatron_ettin.evaluate.suites.columns import Column, Section, sections


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number in a sentence, and what it is made of."""

    text: str
    title: str
    """Of its JSON."""
    data: dict[str, Any]


Sentence = Sequence[str | Figure]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What the paper finds: in tasks of one kind, one model is ahead of another."""

    kind: str
    ahead: str
    behind: str


CLAIMS = (
    Claim(kind="classification", ahead="encoder", behind="decoder"),
    Claim(kind="classification", ahead="encoder", behind="encoder-from-decoder"),
    Claim(kind="retrieval", ahead="encoder", behind="decoder"),
    Claim(kind="retrieval", ahead="encoder", behind="encoder-from-decoder"),
    Claim(kind="generation", ahead="decoder", behind="encoder"),
    Claim(kind="generation", ahead="decoder", behind="decoder-from-encoder"),
)
KINDS: Mapping[tuple[str, str], str] = {
    ("glue", ""): "classification",
    ("stdlib", MODULE): "classification",
    ("retrieval", ""): "retrieval",
    ("stdlib", DOCSTRING): "retrieval",
    ("generative", ""): "generation",
    ("stdlib", CONTINUATION): "generation",
}
"""(suite, task) -> kind; without a task: all of the suite's."""

AHEAD, BEHIND, OPEN = "ahead", "behind", "not told apart"

PAPER_TOKENS = 2e12
"""What each of the paper's models has read."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models in one task."""

    suite: str
    column: Column
    first: str
    second: str
    value: float
    """Of the first less that of the second, in the task's unit."""
    interval: tuple[float, float]

    @property
    def verdict(self) -> str:
        """Whether the first is AHEAD or BEHIND, or OPEN where the interval of the difference holds 0."""
        low, high = self.interval
        if low <= 0 <= high:
            return OPEN
        return AHEAD if (low > 0) == self.column.higher_is_better else BEHIND

    def figure(self) -> Figure:
        """The difference with its interval; shares in points of percent."""
        scale, digits = (100, 1) if self.column.scores[self.first].percent else (1, 3)
        low, high = (f"{scale * bound:+.{digits}f}" for bound in self.interval)
        scores = {
            name: {"value": score.value, "standard_error": score.standard_error}
            for name, score in self.column.scores.items()
            if name in (self.first, self.second)
        }
        data = {"difference": self.value, "interval": list(self.interval), "verdict": self.verdict, "scores": scores}
        title = f"{self.first} less {self.second} / {self.suite} / {self.column.task}"
        return Figure(text=f"{scale * self.value:+.{digits}f} [{low}, {high}]", title=title, data=data)


def conclusions(models: Mapping[str, Any], tokens: int) -> list[Sentence]:
    """Sentences about the claims, about guessing, and about what intervals do not cover.

    ``tokens``: what the member that read most has read.
    """
    found = list(sections(models))
    by_claim = {claim: list(comparisons(claim, found)) for claim in CLAIMS}
    said: list[Sentence] = [claim_sentence(claim, made) for claim, made in by_claim.items() if made]
    judged = sum(len(made) for made in by_claim.values())
    said += guessing(found)
    if judged:
        said.append([
            f"Differences judged: {judged}, each by an interval of 95 %; where there is none, one in twenty is told "
            "apart by chance."
        ])  # fmt: skip
        said.append([
            "Intervals cover the choice of the examples. Each model was trained once: another seed of its training can "
            "move a score by more."
        ])  # fmt: skip
    if tokens:
        said.append([
            f"A model here read up to {tokens:,} tokens, the paper's read {PAPER_TOKENS / 1e12:.0f} trillion: what is "
            "not told apart here may well be there, and the other way round."
        ])  # fmt: skip
    return said


def comparisons(claim: Claim, found: Sequence[Section]) -> Iterator[Comparison]:
    """The claim's two models in every task of its kind, where both have a score with an error."""
    for section in found:
        for column in section.columns:
            kind = KINDS.get((section.suite, column.task), KINDS.get((section.suite, "")))
            if kind != claim.kind or not column.rules or not {claim.ahead, claim.behind} <= column.scores.keys():
                continue
            difference = column.difference(claim.ahead, claim.behind)
            if difference is not None:
                yield Comparison(
                    suite=section.suite, column=column, first=claim.ahead, second=claim.behind, value=difference[0],
                    interval=difference[1],
                )  # fmt: skip


def claim_sentence(claim: Claim, made: Sequence[Comparison]) -> Sentence:
    """One claim of the paper against all of its tasks here."""
    says = f"{claim.kind.capitalize()}, {claim.ahead} against {claim.behind} (the paper: {claim.ahead} ahead)"
    words = {
        AHEAD: f"{claim.ahead} ahead, as in the paper, in",
        BEHIND: f"{claim.behind} ahead, unlike the paper, in",
        OPEN: "not told apart in",
    }
    sentence: list[str | Figure] = [f"{says}: "]
    groups = [(word, [one for one in made if one.verdict == verdict]) for verdict, word in words.items()]
    for number, (word, group) in enumerate((word, group) for word, group in groups if group):
        sentence.append(f"{'; ' if number else ''}{word} {len(group)} of {len(made)}: ")
        for place, one in enumerate(group):
            sentence += [f"{', ' if place else ''}{one.column.task} ", one.figure()]
    return [*sentence, "."]


def guessing(found: Sequence[Section]) -> Iterator[Sentence]:
    """Tasks in which models are not told apart from guessing."""
    for section in found:
        for column in section.columns:
            if column.chance is None:
                continue
            weak = [
                name for name, score in column.scores.items()
                if score.interval is not None and score.interval[0] <= column.chance <= score.interval[1]
            ]  # fmt: skip
            scale = 100 if any(score.percent for score in column.scores.values()) else 1
            guess = f"guessing ({scale * column.chance:.1f})"
            if weak and len(weak) == len(column.scores):
                yield [f"{column.task}: no model is told apart from {guess}; its order says nothing."]
            elif weak:
                yield [f"{column.task}: not told apart from {guess}: {', '.join(weak)}."]


def plain(sentence: Sentence) -> str:
    """A sentence as text."""
    return "".join(part if isinstance(part, str) else part.text for part in sentence)
