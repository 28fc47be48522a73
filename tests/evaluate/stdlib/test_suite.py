"""The suite reads models as a plain forward does, for all kinds, and its scores follow from that."""

import json

import numpy as np
import pytest
import torch

from megatron_ettin.errors import DataError
from megatron_ettin.evaluate.generative import reference
from megatron_ettin.evaluate.generative.engines import load_any
from megatron_ettin.evaluate.stdlib.choices import log_probabilities
from megatron_ettin.evaluate.stdlib.states import mean_states
from megatron_ettin.evaluate.stdlib.suite import StdlibSuite
from megatron_ettin.evaluate.suites.models import Models
from megatron_ettin.evaluate.suites.session import evaluate_suites
from megatron_ettin.evaluate.suites.subjects import opened_subjects
from megatron_ettin.evaluate.suites.suite import Options
from megatron_ettin.evaluate.suites.tokenizers import tokenizer_of
from tests.evaluate.batches import CLS, MASK, SEP

EQUAL = 1e-4
"""Sums of float32 in another order."""
OBJECTIVES = ("mlm", "clm", "mntp")
TEXTS = ["def a():\n    return 1", "x", "class B: pass" * 20]

NOUNS, VERBS = ("shelf", "lamp", "chair", "table", "door"), ("open", "paint", "sell", "move", "clean")
FUNCTIONS = [f"def {verb}_{noun}(it):\n    it.{verb}()\n    return {noun!r}" for verb in VERBS for noun in NOUNS]
ROWS = {
    "module_of_function/train": [{"text": text, "label": NOUNS[i % 5]} for i, text in enumerate(FUNCTIONS[:15])],
    "module_of_function/test": [{"text": text, "label": NOUNS[i % 5]} for i, text in enumerate(FUNCTIONS[15:])],
    "function_by_docstring/functions": [{"function": str(i), "text": text} for i, text in enumerate(FUNCTIONS)],
    "function_by_docstring/test": [{"function": str(i), "text": text[4:12]} for i, text in enumerate(FUNCTIONS[:9])],
    "right_continuation/test": [
        {"context": text.rsplit("\n", 1)[0], "choices": [f"\n    return {noun!r}" for noun in NOUNS[:4]], "label": i}
        for i, text in enumerate(FUNCTIONS[:4])
    ],
}  # fmt: skip


def write(folder, rows=ROWS):
    """Local tasks of the suite, small ones."""
    for name, lines in rows.items():
        path = folder / "stdlib" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def evaluated(folders, local, output, **options):
    chosen = Options(local=local, **options)
    with opened_subjects({name: str(folder) for name, folder in folders.items()}) as subjects:
        return evaluate_suites(subjects, [StdlibSuite(chosen)], chosen, output)["models"]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_states_are_the_mean_of_a_plain_forward(objective, make_folder):
    folder = make_folder(objective)
    with opened_subjects({"m": str(folder)}) as (subject,):
        found = mean_states(Models(), subject, TEXTS, "states")
        model, tokenizer = load_any(subject), tokenizer_of(subject)
        for text, state in zip(TEXTS, found, strict=True):
            ids = tokenizer.encode(text, add_special_tokens=False)
            row = torch.tensor([[CLS, *ids, *([] if subject.causal else [SEP])]])
            hidden = model.model(input_ids=row).last_hidden_state[0].mean(0)
            assert np.abs(state - hidden.detach().numpy()).max() < EQUAL


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_continuations_are_scored_as_the_literal_method_does(objective, make_folder):
    pairs = [("def f(x):", "\n    return x"), ("def f(x):", "\n    pass"), ("y" * 600, " = 3"), ("", "import os")]
    with opened_subjects({"m": str(make_folder(objective))}) as (subject,):
        found = log_probabilities(Models(), subject, pairs)
        model, tokenizer = load_any(subject), tokenizer_of(subject)
        for (context, end), value in zip(pairs, found, strict=True):
            before, after = (tokenizer.encode(text, add_special_tokens=False) for text in (context, end))
            room = 500 - len(after) - (1 if subject.causal else 5)
            before = [CLS, *before[-room:]]
            if subject.causal:
                row = torch.tensor([[*before, *after]])
                log_p = model(input_ids=row).logits[0].log_softmax(-1)
                expected = sum(log_p[len(before) + i - 1, token].item() for i, token in enumerate(after))
            else:
                expected, _ = reference.score(
                    model, before, after, mask=MASK, separator=SEP, offset=subject.label_offset
                )
            assert value == pytest.approx(expected, abs=EQUAL)


def test_every_kind_gets_every_score_with_interval_and_chance(make_folder, tmp_path):
    folders = {objective: make_folder(objective) for objective in OBJECTIVES}
    models = evaluated(folders, write(tmp_path / "data"), tmp_path / "out")
    for model in models.values():
        found = model["suites"]["stdlib"]
        examples = {task: result["examples"] for task, result in found.items()}
        assert examples == {"module_of_function": 10, "function_by_docstring": 9, "right_continuation": 4}
        for result in found.values():
            low, high = result["interval"]
            assert 0 <= low <= result["value"] <= high <= 1 and 0 < result["details"]["chance"] < 1
    rules = {json.dumps(model["suites"]["stdlib"]["right_continuation"]["identity"]["protocol"]["rules"])
             for model in models.values()}  # fmt: skip
    assert len(rules) == 1, "all kinds stand in one column"


def test_a_probe_finds_what_is_written_in_every_text(make_folder, tmp_path):
    """Random weights keep letters apart: the noun of a function is in the mean of its states."""
    models = evaluated({"m": make_folder("mlm")}, write(tmp_path / "data"), tmp_path / "out")
    assert models["m"]["suites"]["stdlib"]["module_of_function"]["value"] >= 0.8


def test_the_limit_cuts_what_is_scored_and_not_what_is_searched(make_folder, tmp_path):
    models = evaluated({"m": make_folder("clm")}, write(tmp_path / "data"), tmp_path / "out", limit=3)
    found = models["m"]["suites"]["stdlib"]
    assert {result["examples"] for result in found.values()} == {3}
    assert found["function_by_docstring"]["details"]["functions"] == 25
    assert found["module_of_function"]["details"]["fitted"] == 15


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [("module_of_function/test", {"text": "x", "label": "sofa"}, "label 'sofa' is in no row of train"),
     ("function_by_docstring/test", {"text": "x", "function": "99"}, "row 1: no function '99'"),
     ("right_continuation/test", {"context": "x", "choices": ["y"], "label": 0}, "row 1: a row has 4 choices"),
     ("right_continuation/test", {"context": "x"}, "row 1: no column choices, label")],
)  # fmt: skip
def test_bad_rows_are_named(name, row, message, make_folder, tmp_path):
    with pytest.raises(DataError, match=message):
        evaluated({"m": make_folder("clm")}, write(tmp_path / "data", ROWS | {name: [row]}), tmp_path / "out")


def test_a_task_whose_file_is_absent_does_not_run(make_folder, tmp_path):
    rows = {name: lines for name, lines in ROWS.items() if not name.startswith("right")}
    found = evaluated({"m": make_folder("clm")}, write(tmp_path / "data", rows), tmp_path / "out")["m"]["suites"]
    assert found["stdlib"]["right_continuation"]["status"] == "not run"
    assert found["stdlib"]["module_of_function"]["status"] == "done"


def test_without_local_tasks_they_are_made_once_from_the_library(monkeypatch, tmp_path):
    from megatron_ettin.evaluate.stdlib import build as building

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(building, "MODULES", 4)
    first = StdlibSuite(Options(local=tmp_path)).data("right_continuation")
    monkeypatch.setattr(building, "library_files", lambda root: pytest.fail("made a second time"))
    assert StdlibSuite(Options()).data("right_continuation") == first
