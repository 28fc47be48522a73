"""Tasks made from Python's library: always the same, well formed, and nothing of them in what models train on."""

from __future__ import annotations

import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from megatron_ettin.errors import DataError
from megatron_ettin.evaluate.stdlib import build as building
from megatron_ettin.evaluate.stdlib.build import build, read_manifest, texts_of
from megatron_ettin.evaluate.stdlib.functions import functions_of
from megatron_ettin.evaluate.stdlib.overlap import RUN, main, shared_texts, words_of
from megatron_ettin.evaluate.stdlib.tasks import CHOICES, CONTINUATION, DOCSTRING, MODULE
from tests.support.launch import environment

MODULES = 4
"""Enough for every rule; the suite itself keeps more."""

SOURCE = '''
class Shelf:
    @property
    def books(self):
        """All books.

        In no order."""
        found = list(self._books)
        found.extend(self._borrowed_books_of_everybody)
        found.sort(key=lambda book: book.title_without_article)
        return tuple(book for book in found if book.is_readable())

    def short(self):
        return 1
'''


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    """Tasks from the real library of this Python, with fewer modules."""
    patch = pytest.MonkeyPatch()
    patch.setattr(building, "MODULES", MODULES)
    folder = tmp_path_factory.mktemp("tasks")
    build(folder)
    patch.undo()
    return folder


@pytest.fixture(scope="module")
def text(tasks, root, tmp_path_factory) -> list[Path]:
    """Training text of the same library, as the quickstart collects it."""
    folder = tmp_path_factory.mktemp("text")
    command = [sys.executable, root / "tools" / "collect_local_text.py", folder, "--leave-out", tasks]
    subprocess.run([str(word) for word in command], check=True, capture_output=True, env=environment())
    return [folder / "prose.jsonl", folder / "code.jsonl"]


def rows(tasks: Path, task: str, split: str) -> list[dict]:
    return [json.loads(line) for line in (tasks / "stdlib" / task / f"{split}.jsonl").read_text().splitlines()]


def test_a_function_is_cut_out_of_its_file_without_docstring_and_decorators():
    (function,) = functions_of(SOURCE, "shelves")
    assert (function.module, function.name, function.docstring) == ("shelves", "Shelf.books", "All books.")
    assert function.code.startswith("def books(self):\n    found = list(") and "In no order" not in function.code
    assert functions_of("def broken(:", "m") == []


def test_tasks_are_whole_and_the_manifest_says_what_they_are_made_of(tasks):
    manifest = read_manifest(tasks)
    for name, facts in manifest["files"].items():
        content = (tasks / "stdlib" / name).read_bytes()
        assert (len(content.splitlines()), sha256(content).hexdigest()) == (facts["rows"], facts["sha256"]) and content
    assert len(manifest["left_out"]) == MODULES and len(manifest["modules"]) >= 2


def test_the_same_library_gives_the_same_tasks(tasks, tmp_path, monkeypatch):
    monkeypatch.setattr(building, "MODULES", MODULES)
    monkeypatch.setattr(building, "library_files", lambda root: reversed(list(original(root))))
    original = sys.modules["megatron_ettin.evaluate.stdlib.functions"].library_files
    build(tmp_path)
    assert read_manifest(tmp_path)["files"] == read_manifest(tasks)["files"]


def test_no_function_is_both_fitted_and_tested(tasks):
    train, test = ({row["text"] for row in rows(tasks, MODULE, split)} for split in ("train", "test"))
    assert not train & test
    labels = [{row["label"] for row in rows(tasks, MODULE, split)} for split in ("train", "test")]
    assert labels[0] == labels[1] == set(read_manifest(tasks)["modules"])


def test_the_first_rows_are_from_all_modules(tasks):
    first = [row["label"] for row in rows(tasks, MODULE, "test")[:40]]
    assert set(first) == set(read_manifest(tasks)["modules"])


def test_a_docstring_asks_for_one_function(tasks):
    names = [row["function"] for row in rows(tasks, DOCSTRING, "functions")]
    queries = rows(tasks, DOCSTRING, "test")
    assert all(names.count(query["function"]) == 1 for query in queries)
    assert len({query["text"] for query in queries}) == len(queries) > 20
    code = {row["function"]: row["text"] for row in rows(tasks, DOCSTRING, "functions")}
    assert not any(query["text"] in code[query["function"]] for query in queries), "the answer would hold the question"


def test_the_right_choice_goes_on_and_the_others_do_not(tasks):
    code = [row["text"] for row in rows(tasks, DOCSTRING, "functions")]
    found = rows(tasks, CONTINUATION, "test")
    assert len(found) > 20 and {row["label"] for row in found} == set(range(CHOICES))
    for row in found:
        assert len(set(row["choices"])) == CHOICES
        owners = [one for one in code if one.startswith(row["context"] + row["choices"][row["label"]])]
        assert owners
        wrong = [choice.strip() for number, choice in enumerate(row["choices"]) if number != row["label"]]
        assert not any(choice in map(str.strip, owners[0].split("\n")) for choice in wrong)


def test_no_text_of_a_task_is_in_the_collected_text(tasks, text, capsys):
    """Counted the other way round: a set of everything in the training text, asked for each run of the tasks."""
    seen = set()
    for path in text:
        for line in path.read_text().splitlines():
            words = words_of(json.loads(line)["text"])
            seen.update(" ".join(words[start : start + RUN]) for start in range(len(words)))
    runs = [words_of(one) for one in texts_of(tasks)]
    asked = {" ".join(words[start : start + RUN]) for words in runs for start in range(len(words) - RUN + 1)}
    assert len(asked) > 1_000 and not asked & seen
    assert main([str(tasks), *map(str, text)]) == 0
    assert capsys.readouterr().out.startswith("0 of ")


def test_a_task_that_is_in_the_training_text_is_found(tasks, text, tmp_path, capsys):
    planted = tmp_path / "text.jsonl"
    function = rows(tasks, MODULE, "test")[3]["text"]
    planted.write_text(text[0].read_text() + json.dumps({"text": f"As everybody knows, {function} does it."}) + "\n")
    assert main([str(tasks), str(planted)]) == 1
    shown = capsys.readouterr()
    assert not shown.out.startswith("0 of ") and "--leave-out" in shown.err


def test_runs_are_compared_whatever_stands_between_their_words():
    text = " ".join(f"word{i}" for i in range(RUN))
    assert shared_texts([text, "short"], [f"and {text.upper().replace(' ', ', ')} again"]) == {0}
    assert shared_texts([text], [text.replace("word5", "other"), text.rsplit(" ", 1)[0]]) == set()


def test_a_folder_without_tasks_is_told_how_to_make_them(tmp_path):
    with pytest.raises(DataError, match=r"no manifest of tasks .*evaluate\.stdlib\.build"):
        read_manifest(tmp_path)
