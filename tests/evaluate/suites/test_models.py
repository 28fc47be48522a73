"""A model whose weights are changed in place is the one that would have been loaded."""

import numpy as np
import pytest
import torch

from megatron_ettin.errors import CheckpointError
from megatron_ettin.evaluate.generative.engines import load_any, load_engine
from megatron_ettin.evaluate.suites.models import Models, copied
from megatron_ettin.evaluate.suites.subjects import subject_of

TEXTS = [np.array([258, 5, 6, 261, 9]), np.array([258, 7, 261])]
PLACES = [np.array([2, 3]), np.array([2])]


def subject(folder):
    return subject_of(folder.name, str(folder), folder, False)


@pytest.mark.parametrize("objective", ["mlm", "mntp", "clm"])
def test_an_engine_takes_the_weights_of_the_next_checkpoint(objective, make_folder):
    first, second = (make_folder(objective, seed=seed) for seed in (0, 1))
    models, engines = Models(), []
    for folder in (first, second, first):
        engine = models.engine(subject(folder))
        assert torch.equal(engine.logits(TEXTS, PLACES), load_engine(subject(folder)).logits(TEXTS, PLACES))
        engines.append(engine)
    assert engines[0] is engines[1]


def test_another_shape_is_another_engine(make_folder):
    models = Models()
    first, second = make_folder("mlm"), make_folder("mlm", layers=4)
    assert models.engine(subject(first)) is not models.engine(subject(second))
    assert torch.equal(
        models.engine(subject(first)).logits(TEXTS, PLACES), load_engine(subject(first)).logits(TEXTS, PLACES)
    )


def test_a_transformers_model_takes_the_weights_of_the_next_one(make_folder, tmp_path):
    from transformers import BertConfig, BertForMaskedLM

    ids = torch.tensor([[1, 5, 3]])
    kept, models = [], Models()
    config = BertConfig(
        vocab_size=301, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48
    )  # fmt: skip
    ours = make_folder("mlm")
    for seed in (0, 1):
        torch.manual_seed(seed)
        folder = tmp_path / f"bert-{seed}"
        BertForMaskedLM(config).save_pretrained(folder)
        (folder / "tokenizer.json").write_bytes((ours / "tokenizer.json").read_bytes())
        model = models.plain(subject(folder))
        kept.append(model)
        assert torch.equal(model(input_ids=ids).logits, load_any(subject(folder))(input_ids=ids).logits)
    assert kept[0] is kept[1], "its weights are copied, it is not loaded again"


def test_tensors_of_other_names_change_nothing():
    model = torch.nn.Linear(2, 2)
    before = model.weight.detach().clone()
    assert not copied({"weight": torch.zeros(2, 2), "other": torch.zeros(2)}, model)
    assert torch.equal(model.weight, before)
    assert copied({"weight": torch.zeros(2, 2), "bias": torch.ones(2), "buffer": torch.ones(1)}, model)
    assert not model.weight.any()


def test_weights_that_are_no_numbers_leave_no_half_model_behind(make_folder):
    from safetensors.torch import load_file, save_file

    good, bad = make_folder("mlm"), make_folder("mlm", seed=1)
    tensors = load_file(bad / "model.safetensors")
    tensors["model.final_norm.weight"][0] = torch.inf
    save_file(tensors, bad / "model.safetensors", metadata={"format": "pt"})
    models = Models()
    models.engine(subject(good))
    with pytest.raises(CheckpointError, match=r"tensor model.final_norm.weight .* holds NaN or infinity"):
        models.engine(subject(bad))
    expected = load_engine(subject(good)).logits(TEXTS, PLACES)
    assert torch.equal(models.engine(subject(good)).logits(TEXTS, PLACES), expected)


def test_folders_with_the_same_tokenizer_share_it(make_folder):
    models = Models()
    first, second = (models.tokenizer(subject(make_folder("mlm", seed=seed))) for seed in (0, 1))
    assert first is second
    assert models.tokenizer(subject(make_folder("clm"))) is not first, "another template"
