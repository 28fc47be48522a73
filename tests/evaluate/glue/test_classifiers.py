"""Our classifiers compute what transformers' classes compute: logits, gradients and whole steps."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from safetensors.torch import load_file, save_file

from megatron_ettin.errors import CheckpointError
from megatron_ettin.evaluate.glue.classifiers import PackedClassifier, PaddedClassifier
from megatron_ettin.evaluate.glue.settings import Setting
from megatron_ettin.evaluate.glue.tuning import batches, fine_tune, predict, rate_factor, training_loss
from megatron_ettin.evaluate.suites.tokenizers import tokenizer_of
from megatron_ettin.export.huggingface import objective_of, read_folder
from megatron_ettin.export.mapping import to_huggingface
from megatron_ettin.model.canonical import full_state
from tests.evaluate.glue.models import by_theirs, subject, texts, theirs, write_bert, write_gpt2

LOGITS = 1e-5
"""Of logits about 1: float32 in another order."""
GRADIENTS = 2e-5
"""Of a tensor's largest gradient: float32 in another order, through five layers both ways."""
WEIGHTS = 2e-2
"""In units of the rate after a few steps: Adam divides by gradients, so that rounding grows."""
OBJECTIVES = ("mlm", "mntp", "clm")


def ours(folder, read, classes=3, dropout=0.0, seed=7):
    return PackedClassifier.load(subject(folder), read, classes, seed, None, dropout)


def same_head(model, classifier):
    model.classifier.weight.data.copy_(classifier.classifier.weight)
    model.classifier.bias.data.copy_(classifier.classifier.bias)
    return model


@torch.no_grad()
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_packed_logits_are_those_of_transformers_classes_under_either_padding(objective, make_folder):
    folder, read = make_folder(objective), texts()
    classifier = ours(folder, read).eval()
    model = same_head(theirs(folder, 3), classifier)
    found = classifier.logits(read)
    assert found.std() > 0.3, "the logits differ enough to compare them"
    one_by_one = torch.cat([by_theirs(model, [text]) for text in read])
    torch.testing.assert_close(found, one_by_one, rtol=0, atol=LOGITS)
    torch.testing.assert_close(found, by_theirs(model, read), rtol=0, atol=LOGITS)
    left = by_theirs(model, read, side="left")
    if objective == "clm":
        torch.testing.assert_close(found, left, rtol=0, atol=LOGITS)
    else:
        assert (found - left).abs().max() > 0.1, "transformers' encoder reads [PAD] there; packed rows have none"


@torch.no_grad()
def test_the_head_is_taken_over_for_both_kinds(make_folder):
    """With transformers' own loader a decoder's head is random: the comparison would be unfair by a layer."""
    from transformers import AutoModelForSequenceClassification

    folder, read = make_folder("clm"), texts()
    classifier = ours(folder, read).eval()
    torch.manual_seed(0)
    untouched = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3).eval()
    untouched.classifier = torch.nn.Linear(64, 3)
    same_head(untouched, classifier)
    assert (classifier.logits(read) - by_theirs(untouched, read)).abs().max() > 0.1


@pytest.mark.parametrize("classes", [3, 1])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_packed_step_has_the_gradients_of_transformers_on_padded_rows(objective, classes, make_folder):
    folder, read = make_folder(objective), texts()
    classifier = ours(folder, read, classes)
    model = same_head(theirs(folder, classes), classifier)
    labels = np.arange(len(read)) % 3
    training_loss(classifier.train(), read, labels.astype(float), 0).backward()
    logits, targets = by_theirs(model.train(), read), torch.from_numpy(labels)
    if classes == 1:
        functional.mse_loss(logits[:, 0], targets.float()).backward()
    else:
        functional.cross_entropy(logits, targets).backward()
    config = read_folder(folder).config
    gradients = full_state([classifier.model], classifier.groups, "gradients")
    whole = torch.zeros(config.model.vocabulary, config.model.hidden)
    whole[classifier.used] = gradients["embedding.weight"]
    gradients |= {"embedding.weight": whole, "head.bias": torch.zeros(config.model.vocabulary)}
    named = to_huggingface(gradients, config.model, "decoder" if objective_of(config).causal else "encoder")
    named = {name.replace("lm_head.", "head."): tensor for name, tensor in named.items() if name != "decoder.bias"}
    named |= {
        "classifier.weight": classifier.classifier.weight.grad,
        "classifier.bias": classifier.classifier.bias.grad,
    }
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert named.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (named[name] - gradient).abs().max() <= GRADIENTS * gradient.abs().max() > 0, name


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_a_fine_tuning_ends_with_the_weights_of_a_plain_loop(objective, make_folder):
    """Adam written out, on transformers' padded rows with the whole vocabulary; all of its rows decay."""
    folder, read = make_folder(objective), texts()
    classifier = ours(folder, read)
    model = same_head(theirs(folder, 3), classifier).train()
    setting = Setting(rate=1e-3, decay=1e-2, batch=4, epochs=3)
    labels = (np.arange(len(read)) % 3).astype(float)
    moments = {name: [torch.zeros_like(p), torch.zeros_like(p)] for name, p in model.named_parameters()}
    for step, chosen in enumerate(batches(len(read), setting, 5)):
        model.zero_grad()
        functional.cross_entropy(
            by_theirs(model, [read[i] for i in chosen]), torch.tensor(labels[chosen]).long()
        ).backward()
        factor = rate_factor(step, 6)
        for name, p in model.named_parameters():
            first, second = moments[name]
            first.mul_(0.9).add_(0.1 * p.grad)
            second.mul_(0.98).add_(0.02 * p.grad**2)
            p.data.mul_(1 - (setting.decay * factor if p.ndim > 1 else 0))
            ways = (first / (1 - 0.9 ** (step + 1))) / ((second / (1 - 0.98 ** (step + 1))).sqrt() + 1e-6)
            p.data.sub_(setting.rate * factor * ways)
    tuned = fine_tune(classifier, read, labels, setting, 5)
    assert tuned.steps == 6 and math.isfinite(tuned.loss) and tuned.diverged_at is None
    config = read_folder(folder).config
    body = to_huggingface(classifier.body(tuned.kept), config.model, "decoder" if objective == "clm" else "encoder")
    found = {name.replace("lm_head.", "head."): tensor for name, tensor in body.items() if name != "decoder.bias"}
    for name, p in model.named_parameters():
        if not name.startswith("classifier."):
            assert (found[name] - p).abs().max() <= WEIGHTS * setting.rate, name
    unused = [i for i in range(config.model.vocabulary) if i not in classifier.used]
    start = read_folder(folder).tensors["embedding.weight"][unused]
    assert (classifier.body(tuned.kept)["embedding.weight"][unused] - start).abs().max() > 1e-3, "decay is not nothing"


def test_a_fine_tuning_is_a_function_of_its_seed_and_learns(make_folder):
    folder = make_folder("mlm")
    read = [{"input_ids": [258, 100 + i % 3, 40 + i % 7, 50 + i % 5, 259]} for i in range(48)]
    labels = np.array([i % 3 for i in range(48)], dtype=float)
    setting = Setting(rate=1e-3, decay=1e-6, batch=8, epochs=4)
    found = []
    for seed in (1, 1, 2):
        classifier = ours(folder, read, dropout=0.1, seed=seed)
        tuned = fine_tune(classifier, read, labels, setting, seed)
        found.append((tuned.loss, predict(classifier, read)))
    assert found[0][0] == found[1][0] != found[2][0]
    assert all((predicted == labels).mean() > 0.9 for _, predicted in found)


def test_a_rate_that_is_too_high_ends_a_fine_tuning_and_is_said(make_folder):
    read = texts()
    classifier = ours(make_folder("mlm"), read)
    classifier.classifier.weight.data.fill_(float("inf"))
    tuned = fine_tune(classifier, read, np.zeros(len(read)), Setting(rate=1, decay=0, batch=2, epochs=1), 0)
    assert tuned.diverged_at == 0


def test_ids_beyond_the_model_are_refused(make_folder):
    with pytest.raises(CheckpointError, match="gives id 301, and its config.json says 301 ids"):
        ours(make_folder("mlm"), [{"input_ids": [258, 301, 259]}])


@pytest.mark.parametrize("other", [False, True])
def test_weights_that_are_no_numbers_are_refused_by_name(other, make_folder):
    folder = make_folder("mlm")
    folder = write_bert(folder) if other else folder
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith(("0.attn.Wo.weight", "0.output.dense.weight")))
    tensors[name][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"tensor {name} of .* holds NaN or infinity"):
        one = subject(folder)
        if other:
            PaddedClassifier.load(one, tokenizer_of(one), 2, 0, None)
        ours(folder, texts())


@pytest.mark.parametrize("make_other", [write_bert, write_gpt2])
def test_models_of_other_makers_are_read_as_their_class_reads_single_texts(make_other, make_folder):
    folder, read = make_other(make_folder("mlm" if make_other is write_bert else "clm")), texts()
    one = subject(folder)
    classifier = PaddedClassifier.load(one, tokenizer_of(one), 3, 7, None).eval()
    again = PaddedClassifier.load(one, tokenizer_of(one), 3, 7, None)
    assert torch.equal(classifier.logits(read), again.eval().logits(read)), "a new head is a function of the seed"
    with torch.no_grad():
        alone = torch.cat([classifier.model(input_ids=torch.tensor([text["input_ids"]])).logits for text in read])
        torch.testing.assert_close(classifier.logits(read), alone, rtol=0, atol=LOGITS)
    losses = []
    for _ in range(2):
        random = torch.get_rng_state()
        classifier = PaddedClassifier.load(one, tokenizer_of(one), 3, 7, None)
        setting = Setting(rate=1e-3, decay=1e-6, batch=3, epochs=2)
        losses.append(fine_tune(classifier, read, np.arange(len(read)) % 3.0, setting, 3).loss)
        assert torch.equal(random, torch.get_rng_state()), "the process's random numbers are left alone"
    assert losses[0] == losses[1], "dropout is a function of the seed"
