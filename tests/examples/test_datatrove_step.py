"""examples/datatrove_step.py: tasks of a datatrove pipeline write shards that join to the corpus of all documents."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from megatron_ettin.cli import main
from megatron_ettin.corpus.build import BuildOptions, build_corpus
from megatron_ettin.corpus.places import Places
from megatron_ettin.corpus.reader import open_corpus
from megatron_ettin.errors import DataError
from tests.corpus.conftest import texts, tokenizer  # noqa: F401 - fixtures

TASKS = 3
SCRIPT = "examples/datatrove_step.py"


class PipelineStep:
    """What the step uses of datatrove's base class."""

    def __init__(self) -> None:
        self.stats: dict[str, int] = {}

    def stat_update(self, name: str, value: int = 1, unit: str | None = None) -> None:
        self.stats[name] = self.stats.get(name, 0) + value

    def track_time(self, unit: str) -> nullcontext[None]:
        return nullcontext()


@pytest.fixture
def example(root: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example as a module, on a stand-in for datatrove."""
    stand_in = ModuleType("datatrove.pipeline.base")
    stand_in.PipelineStep = PipelineStep  # type: ignore[attr-defined]
    for name in ("datatrove", "datatrove.pipeline"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    spec = importlib.util.spec_from_file_location("datatrove_step", root / SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def documents(texts: list[str], rank: int):  # noqa: F811
    """Those of one task, as datatrove deals out files: every third."""
    for text in texts[rank::TASKS]:
        yield SimpleNamespace(text=text)


def whole(folder: Path, texts: list[str], tokenizer: Path):  # noqa: F811
    """The corpus of all documents in the order of the tasks, by `ettin prepare`."""
    ordered = [document.text for rank in range(TASKS) for document in documents(texts, rank)]
    (folder / "all.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in ordered))
    return build_corpus(folder / "all.jsonl", folder / "whole", tokenizer).corpus


def test_tasks_write_shards_that_join_to_the_corpus_of_all_documents(tmp_path, example, texts, tokenizer, capsys):  # noqa: F811
    prefix = tmp_path / "web"
    for rank in range(TASKS):
        step = example.WriteCorpus(str(prefix), str(tokenizer))
        assert step.run(documents(texts, rank), rank, TASKS) is None
        manifest = open_corpus(tmp_path / f"web-{rank:05d}-of-{TASKS:05d}").manifest
        assert step.stats == {"documents": len(texts[rank::TASKS]), "tokens": manifest.tokens}
    assert main(["corpus", "status", str(prefix)]) == 0
    assert main(["corpus", "join", str(prefix)]) == 0
    joined = open_corpus(prefix)
    assert joined.fingerprint == whole(tmp_path, texts, tokenizer).fingerprint
    assert main(["corpus", "verify", str(prefix)]) == 0
    capsys.readouterr()
    first = len(texts[0::TASKS])
    assert str(Places(joined).of(first + 4)) == f"datatrove, task 1 of {TASKS}, document 4"


def test_a_task_that_failed_leaves_no_shard_and_starts_again(tmp_path, example, texts, tokenizer):  # noqa: F811
    def broken():
        yield from documents(texts, 1)
        raise OSError("the bucket has gone")

    step = example.WriteCorpus(str(tmp_path / "web"), str(tokenizer), BuildOptions(threads=2, append_eod=True))
    with pytest.raises(DataError, match="the bucket has gone"):
        step.run(broken(), 1, TASKS)
    assert not list(tmp_path.glob("web-*.json"))
    made = []
    for _ in range(2):  # the second time as if the marker of a finished task were lost
        step.run(documents(texts, 1), 1, TASKS)
        made.append([(path.name, path.read_bytes()) for path in sorted(tmp_path.glob("web-*"))])
    assert made[0] == made[1] and len(made[0]) >= 3
    assert not list(tmp_path.glob(".web-*"))


def test_a_text_that_cannot_be_encoded_fails_its_task_by_number(tmp_path, example, tokenizer):  # noqa: F811
    given = [SimpleNamespace(text=text) for text in ("good", "a lone \ud800 surrogate", "more")]
    step = example.WriteCorpus(str(tmp_path / "web"), str(tokenizer))
    with pytest.raises(DataError, match="datatrove, task 0 of 1: document 1: invalid_utf8.*Nothing is kept"):
        step.run(iter(given), 0, 1)
    step.options = replace(step.options, on_error="skip")
    step.run(iter(given), 0, 1)
    assert open_corpus(tmp_path / "web-00000-of-00001").manifest.rejected == {"invalid_utf8": 1}


def test_a_missing_shard_is_told_when_they_are_joined(tmp_path, example, texts, tokenizer):  # noqa: F811
    for rank in (0, 2):
        example.WriteCorpus(str(tmp_path / "web"), str(tokenizer)).run(documents(texts, rank), rank, TASKS)
    assert main(["corpus", "join", str(tmp_path / "web")]) == 2
    assert not (tmp_path / "web.json").exists()


def python_with_datatrove() -> str:
    """ETTIN_DATATROVE_PYTHON, or this Python where it has datatrove."""
    named = os.environ.get("ETTIN_DATATROVE_PYTHON", "")
    if not named and importlib.util.find_spec("datatrove") is None:
        pytest.skip("no datatrove; ETTIN_DATATROVE_PYTHON may name a Python that has it")
    return named or sys.executable


def test_the_local_executor_of_datatrove_goes_on_and_gives_the_same_corpus(tmp_path, root, texts, tokenizer):  # noqa: F811
    python, text = python_with_datatrove(), tmp_path / "text"
    text.mkdir()
    for rank in range(TASKS):
        lines = (json.dumps({"text": document.text}) + "\n" for document in documents([t for t in texts if t], rank))
        (text / f"{rank}.jsonl").write_text("".join(lines))
    command = [python, SCRIPT, text, tmp_path / "web", tokenizer, "--tasks", str(TASKS), "--logs", tmp_path / "logs"]
    environment, completed = os.environ | {"PYTHONPATH": str(root)}, tmp_path / "logs" / "completions"
    obstacle = tmp_path / f"web-00001-of-{TASKS:05d}.bin"
    obstacle.mkdir()  # the second task cannot write its shard
    first = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert first.returncode != 0 and "DataError" in first.stderr, first.stderr[-3000:]
    assert [path.name for path in completed.iterdir()] == ["00000"]
    obstacle.rmdir()
    finished = tmp_path / f"web-00000-of-{TASKS:05d}.json"
    before = finished.stat().st_mtime_ns
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert finished.stat().st_mtime_ns == before  # a task with a marker is not repeated
    assert sorted(path.name for path in completed.iterdir()) == ["00000", "00001", "00002"]
    assert main(["corpus", "join", str(tmp_path / "web")]) == 0
    expected = whole(tmp_path, [t for t in texts if t], tokenizer)
    assert open_corpus(tmp_path / "web").fingerprint == expected.fingerprint
