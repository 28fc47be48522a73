"""Held-out losses as tasks are those of the plain evaluation."""

import json

import pytest

from megatron_ettin.config.recipes import recipe
from megatron_ettin.errors import CheckpointError, DataError
from megatron_ettin.evaluate import losses as plain
from megatron_ettin.evaluate.scorer import load_scorer
from megatron_ettin.evaluate.suites import losses
from megatron_ettin.evaluate.suites.losses import HeldOutSettings, LossesSuite
from megatron_ettin.evaluate.suites.session import evaluate_suites
from megatron_ettin.evaluate.suites.subjects import opened_subjects
from megatron_ettin.evaluate.suites.suite import Options
from tests.evaluate.test_losses import text  # noqa: F401 - a fixture


@pytest.fixture
def suite(text, tokenizer_json, monkeypatch):  # noqa: F811
    monkeypatch.setattr(losses, "held_out_text", lambda run, rows, sample: (text, tokenizer_json))
    return LossesSuite(HeldOutSettings(run=recipe("tiny", "mlm", "pretrain"), rows=1, sample=9))


def test_a_text_longer_than_the_model_is_a_reason_not_to_run(suite, make_folder, tmp_path):
    with opened_subjects({"short": str(make_folder("mlm", maximum_length=10))}) as subjects:
        found = evaluate_suites(subjects, [suite], Options(), tmp_path / "out")["models"]["short"]["suites"]["losses"]
    assert "pieces of 16 tokens, and short takes 10; give --row-length 10" in found["masked"]["reason"]


def test_weights_that_are_no_numbers_are_refused_by_name(suite, make_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = make_folder("clm")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.norm.weight"][1] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with (
        opened_subjects({"broken": str(folder)}) as subjects,
        pytest.raises(CheckpointError, match="tensor lm_head.norm.weight of .*model.safetensors holds NaN"),
    ):
        evaluate_suites(subjects, [suite], Options(), tmp_path / "out")


def test_another_tokenizer_than_the_texts_is_refused_by_name(suite, make_folder, tmp_path):
    folder = make_folder("mlm")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["normalizer"] = None
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with (
        opened_subjects({"other": str(folder)}) as subjects,
        pytest.raises(DataError, match="other .* has another tokenizer than the text"),
    ):
        evaluate_suites(subjects, [suite], Options(), tmp_path / "out")


def test_tasks_are_the_questions_that_each_kind_answers(suite, text, make_folder, tmp_path):  # noqa: F811
    folders = {"encoder": make_folder("mlm"), "decoder": make_folder("clm"), "crossed": make_folder("mntp")}
    with opened_subjects({name: str(folder) for name, folder in folders.items()}) as subjects:
        models = evaluate_suites(subjects, [suite], Options(), tmp_path / "out")["models"]
    for name, folder in folders.items():
        scorer = load_scorer(folder)
        expected = plain.losses(text, scorer.objective, scorer.answer, name)
        found = models[name]["suites"]["losses"]
        for task, question in losses.TASKS.items():
            if question not in expected:
                assert found[task]["status"] == "not run" and "a pass a token" in found[task]["reason"]
                continue
            assert found[task]["value"] == pytest.approx(expected[question].nats_per_token)
            assert found[task]["standard_error"] == pytest.approx(expected[question].standard_error)
            assert found[task]["examples"] == expected[question].tokens
            assert found[task]["higher_is_better"] is False
