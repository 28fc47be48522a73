"""Scores are the libraries' own, undefined ones count as 0 and are said, and intervals cover examples and seeds."""

import numpy as np
import pytest
import torch

from megatron_ettin.evaluate.glue.classifiers import PackedClassifier
from megatron_ettin.evaluate.glue.reading import LONGEST, Reader
from megatron_ettin.evaluate.glue.scores import interval_of, measured, quick_score, score
from megatron_ettin.evaluate.glue.tasks import TASKS
from megatron_ettin.evaluate.glue.tuning import predict
from megatron_ettin.evaluate.suites.tokenizers import tokenizer_of
from tests.evaluate.glue import synthetic
from tests.evaluate.glue.models import subject, theirs

pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install -e .[eval-glue]")
pytest.importorskip("scipy", reason="scipy is not installed: pip install -e .[eval-glue]")

SAME = 1e-6


def array(*values):
    return np.array(values, dtype=float)


def test_scores_by_hand():
    assert score("accuracy", array(0, 1, 1, 2), array(0, 1, 0, 2)) == (0.75, True)
    assert score("f1", array(1, 1, 0, 0), array(1, 0, 1, 0)) == (0.5, True)
    assert score("matthews", array(1, 1, 0, 0), array(1, 1, 0, 1))[0] == pytest.approx(2 / 12**0.5)
    assert score("spearman", array(1, 2, 3, 9), array(0, 0.5, 4, 4.5)) == (pytest.approx(1.0), True)


@pytest.mark.parametrize("metric", ["accuracy", "matthews", "spearman"])
def test_samples_are_scored_as_the_whole_is(metric):
    random = np.random.default_rng(0)
    for examples in (1, 2, 3, 8, 60):
        predicted, labels = random.integers(0, 2, (2, examples)).astype(float)
        assert quick_score(metric, predicted, labels) == pytest.approx(score(metric, predicted, labels)[0], abs=1e-12)


@pytest.mark.parametrize("metric", ["spearman", "matthews"])
def test_the_correlation_of_constant_predictions_is_0_and_is_said(metric):
    assert score(metric, array(2, 2, 2), array(0, 1, 1)) == (0.0, False)
    task = TASKS["stsb" if metric == "spearman" else "cola"]
    found = measured(task, [{"validation": array(2, 2, 2)}], {"validation": array(0, 1, 1)}, {})
    assert found.value == 0 and found.details["undefined"] == "1 of 1 seeds predict a constant, which counts as 0"


def test_the_interval_is_that_of_examples_and_seeds():
    labels = np.zeros(400)
    right = (np.arange(400) >= 320).astype(float)
    error, (low, high) = interval_of("accuracy", [right], labels)
    assert error == pytest.approx((0.8 * 0.2 / 400) ** 0.5, rel=0.1), "the binomial one, for a single seed"
    assert low < 0.8 < high and high - low == pytest.approx(2 * 1.96 * error, rel=0.15)
    worse = (np.arange(400) >= 240).astype(float)
    assert interval_of("accuracy", [right, worse], labels)[0] > 1.5 * error, "seeds that differ make it wider"
    found = measured(TASKS["sst2"], [{"validation": right}, {"validation": worse}], {"validation": labels}, {})
    assert found.value == pytest.approx(0.7) and found.examples == 400
    assert found.others["standard deviation over seeds"] == pytest.approx(0.1 * 2**0.5)
    assert (found.others["lowest"], found.others["highest"]) == pytest.approx((0.6, 0.8))


def test_mnli_reports_both_validation_splits():
    splits = {"validation_matched": array(0, 1, 2, 2), "validation_mismatched": array(0, 0)}
    labels = {"validation_matched": array(0, 1, 2, 0), "validation_mismatched": array(0, 1)}
    found = measured(TASKS["mnli"], [splits], labels, {})
    assert found.value == 0.75 and found.others["accuracy validation_mismatched"] == 0.5


@pytest.mark.parametrize("name", ["mnli", "stsb", "cola"])
@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_a_fixed_model_has_the_scores_of_transformers_trainer(objective, name, make_folder, tmp_path):
    """Its own class, its own loop over padded rows, its own data loader; the metrics are the libraries' functions."""
    pytest.importorskip("accelerate", reason="accelerate is not installed: pip install -e .[eval-lm]")
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: pip install -e .[eval-glue]")
    from scipy.stats import spearmanr
    from sklearn.metrics import accuracy_score, matthews_corrcoef
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    task, local, folder = TASKS[name], synthetic.write(tmp_path / "data", [name], scored=40), make_folder(objective)
    one = subject(folder)
    examples = task.read(local, task.split, None)
    reader = Reader(tokenizer=tokenizer_of(one), model_longest=LONGEST, explicit=True)
    texts, _ = reader.read(examples)
    classifier = PackedClassifier.load(one, texts, task.classes, 3, None, 0.1).eval()
    with torch.no_grad():
        classifier.classifier.bias.sub_(classifier.logits(texts).median(0).values)  # every class is predicted
    predictions = {task.split: predict(classifier, texts)}
    found = measured(task, [predictions], {task.split: examples.labels_N}, {})

    model = theirs(folder, task.classes)
    with torch.no_grad():
        model.classifier.weight.copy_(classifier.classifier.weight)
        model.classifier.bias.copy_(classifier.classifier.bias)
    metric = {
        "accuracy": lambda chosen, labels: accuracy_score(labels, chosen.argmax(-1)),
        "matthews": lambda chosen, labels: matthews_corrcoef(labels, chosen.argmax(-1)),
        "spearman": lambda chosen, labels: spearmanr(chosen[:, 0], labels).statistic,
    }[task.metric]
    path = local / "glue" / name / f"{task.split}.jsonl.gz"
    rows = datasets.load_dataset("json", data_files=str(path), cache_dir=str(tmp_path / "cache"), split="train")
    encoder = tokenizer_of(subject(make_folder("mlm", name="encoder")))
    rows = rows.map(
        lambda row: encoder(*(row[column] for column in task.columns), truncation=True, max_length=LONGEST),
        remove_columns=[*task.columns, "idx"],
    )
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "trainer"),
        per_device_eval_batch_size=7,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=model, args=arguments, eval_dataset=rows, data_collator=DataCollatorWithPadding(encoder),
        compute_metrics=lambda given: {"score": metric(given.predictions, given.label_ids)},
    )  # fmt: skip
    assert found.value == pytest.approx(trainer.evaluate()["eval_score"], abs=SAME)
    assert len(np.unique(predictions[task.split])) > 1, "a constant would be equal anyway"
