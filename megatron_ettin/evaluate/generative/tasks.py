"""The tasks of the suite: lm-eval's name, the published metric, and the local folder that stands in for the hub."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ettin.errors import DataError
from megatron_ettin.evaluate.suites.local import file_facts, read_rows, split_file

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task of lm-eval, as the paper's tables show it."""

    name: str
    """In lm-eval."""
    metric: str
    """The published metric, as lm-eval spells it: name,filter."""
    split: str
    """What is scored."""
    harness_folder: str
    """Of its task file, below lm-eval's tasks."""
    columns: tuple[str, ...]
    """What the task file reads of a row."""
    folder: str = ""
    """Of local data, below ``generative``; empty: as the name."""
    label: str = ""
    """Column of the right answer among the choices; empty where it is no choice."""
    classes: Callable[[Row], Iterable[object]] = lambda row: ()
    """The values that it may have in a row."""
    shots: int = 0
    few_shot_split: str = ""
    """Where examples for the prompt come from; its rows have the same columns."""

    def files(self, local: Path) -> dict[str, Path]:
        """Split -> file. Raises NotRunError."""
        folder = local / "generative" / (self.folder or self.name)
        splits = [split for split in (self.few_shot_split, self.split) if split]
        return {split: split_file(folder, split) for split in splits}

    def checked(self, local: Path) -> dict[str, Any]:
        """Facts of the files, every row of which has the columns and a right answer. Raises NotRunError, DataError."""
        files = self.files(local)
        for path in files.values():
            for number, row in enumerate(read_rows(path, self.columns), 1):
                if self.label:
                    self._require_class(path, number, row)
        return file_facts(files)

    def _require_class(self, path: Path, number: int, row: Row) -> None:
        try:
            classes = [str(value) for value in self.classes(row)]
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{path}, row {number}: its choices are not laid out as the hub's ({error!r}); write them as there"
            ) from error
        if str(row[self.label]).lstrip() not in classes:
            raise DataError(
                f"{path}, row {number}: {self.label} is {row[self.label]!r}; it is one of {', '.join(classes)}"
            )

    def override(self, local: Path, cache: str) -> dict[str, Any]:
        """The registered task with its data replaced: prompts and metrics stay. Only a group may hold it."""
        files = self.files(local)
        form = "parquet" if files[self.split].suffix == ".parquet" else "json"
        absent = {f"{name}_split": None for name in ("training", "validation", "test") if ROLES[name] not in files}
        return {
            "task": self.name,
            "dataset_path": form,
            "dataset_name": None,
            "dataset_kwargs": {"data_files": {split: str(path) for split, path in files.items()}, "cache_dir": cache},
            **absent,
        }


def _places(column: str) -> Callable[[Row], Iterable[object]]:
    """Places in a list of choices, from 0."""
    return lambda row: range(len(row[column]))


ROLES = {"training": "train", "validation": "validation", "test": "test"}

_CHOICES = ("question", "choices", "answerKey")
_MMLU = ("question", "choices", "answer")

TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task(name="arc_challenge", metric="acc_norm,none", split="test", harness_folder="arc", columns=_CHOICES,
             label="answerKey", classes=lambda row: row["choices"]["label"]),
        Task(name="hellaswag", metric="acc_norm,none", split="validation", harness_folder="hellaswag",
             columns=("activity_label", "ctx_a", "ctx_b", "endings", "label"), label="label",
             classes=_places("endings")),
        Task(name="lambada_openai", metric="acc,none", split="test", harness_folder="lambada", columns=("text",)),
        Task(name="openbookqa", metric="acc_norm,none", split="test", harness_folder="openbookqa",
             columns=("question_stem", "choices", "answerKey"), label="answerKey",
             classes=lambda row: row["choices"]["label"]),
        Task(name="piqa", metric="acc_norm,none", split="validation", harness_folder="piqa",
             columns=("goal", "sol1", "sol2", "label"), label="label", classes=lambda row: (0, 1)),
        Task(name="sciq", metric="acc_norm,none", split="test", harness_folder="sciq",
             columns=("support", "question", "distractor1", "distractor2", "distractor3", "correct_answer")),
        Task(name="social_iqa", metric="acc,none", split="validation", harness_folder="siqa",
             columns=("context", "question", "answerA", "answerB", "answerC", "label"), label="label",
             classes=lambda row: (1, 2, 3)),
        Task(name="triviaqa", metric="exact_match,remove_whitespace", split="validation", harness_folder="triviaqa",
             columns=("question", "answer")),
        Task(name="winogrande", metric="acc,none", split="validation", harness_folder="winogrande",
             folder="winogrande_xl", columns=("sentence", "option1", "option2", "answer"), label="answer",
             classes=lambda row: (1, 2)),
        Task(name="wsc273", metric="acc,none", split="test", harness_folder="wsc273",
             columns=("text", "pronoun", "pronoun_loc", "quote", "quote_loc", "options", "label"), label="label",
             classes=_places("options")),
        Task(name="gsm8k", metric="exact_match,strict-match", split="test", harness_folder="gsm8k",
             columns=("question", "answer"), shots=5, few_shot_split="train"),
        Task(name="mmlu_college_computer_science", metric="acc,none", split="test", harness_folder="mmlu/default",
             columns=_MMLU, label="answer", classes=_places("choices"), folder="mmlu/college_computer_science",
             few_shot_split="dev"),
        Task(name="mmlu_high_school_computer_science", metric="acc,none", split="test", harness_folder="mmlu/default",
             columns=_MMLU, label="answer", classes=_places("choices"), folder="mmlu/high_school_computer_science",
             few_shot_split="dev"),
    )
}  # fmt: skip
"""In the order of the paper's table, then the two that it reports for its largest model."""
