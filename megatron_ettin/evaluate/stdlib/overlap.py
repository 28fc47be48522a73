"""Whether texts of tasks occur elsewhere: ``python -m megatron_ettin.evaluate.stdlib.overlap TASKS TEXT.jsonl...``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from megatron_ettin.errors import EttinError
from megatron_ettin.evaluate.suites.local import read_rows

RUN = 13
"""Words in a row that two texts must share to count as overlapping, as GPT-3's authors counted it."""

Words = tuple[str, ...]


def words_of(text: str) -> Words:
    """Runs of letters, digits and underscores, in lower case."""
    return tuple(re.findall(r"\w+", text.lower()))


def runs_of(words: Words) -> Iterator[Words]:
    """Every RUN words in a row; a shorter text has none."""
    return (words[start : start + RUN] for start in range(len(words) - RUN + 1))


def shared_texts(texts: Sequence[str], others: Iterable[str]) -> set[int]:
    """Indices of the texts that share a run with any of the others. Memory: the runs of ``texts``."""
    owners: dict[Words, list[int]] = {}
    for number, text in enumerate(texts):
        for run in runs_of(words_of(text)):
            owners.setdefault(run, []).append(number)
    found: set[int] = set()
    for other in others:
        for run in runs_of(words_of(other)):
            found.update(owners.get(run, ()))
    return found


def main(arguments: Sequence[str]) -> int:
    """Compare the tasks in a folder with training text; status 1 when any of them occurs there."""
    from megatron_ettin.evaluate.stdlib.build import texts_of

    if len(arguments) < 2:
        print(f"error: give the folder of the tasks and at least one .jsonl file of text\n{__doc__}", file=sys.stderr)
        return 2
    tasks, *files = (Path(argument) for argument in arguments)
    try:
        texts = texts_of(tasks)
        others = (str(row["text"]) for path in files for row in read_rows(path, ("text",)))
        found = shared_texts(texts, others)
    except EttinError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    names = ", ".join(path.name for path in files)
    print(f"{len(found):,} of {len(texts):,} texts of the tasks share {RUN} words in a row with {names}")
    if found:
        first = texts[min(found)].splitlines()[0]
        print(f"error: such a text is {first!r}; train on text without it (collect_local_text.py --leave-out {tasks})",
              file=sys.stderr)  # fmt: skip
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
