"""Each kind of model is recognised, and what no suite can use is refused with its remedy."""

import json
import shutil

import pytest

from megatron_ettin.errors import CheckpointError, ConfigError
from megatron_ettin.evaluate.suites.subjects import fetched, opened_subjects


def opened(folder, **options):
    with opened_subjects({"m": str(folder)}, **options) as subjects:
        return subjects[0]


def change(folder, **fields):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    for name, value in fields.items():
        if value is None:
            content.pop(name)
        else:
            content[name] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("objective", "stage", "kind", "offset"),
    [("mlm", "pretrain", "encoder", 0), ("clm", "pretrain", "decoder", -1),
     ("mntp", "cross", "encoder-from-decoder", -1), ("clm", "cross", "decoder-from-encoder", -1)],
)  # fmt: skip
def test_the_four_kinds(objective, stage, kind, offset, make_folder):
    folder = make_folder(objective)
    (folder / "training.json").write_text(json.dumps({"run": {"stage": stage}}))
    found = opened(folder)
    assert (found.kind, found.label_offset, found.ours) == (kind, offset, True)
    assert found.causal == (objective == "clm")


def test_folders_of_other_makers_say_by_their_class_what_they_are(make_folder):
    folder = make_folder("mlm")
    change(folder, architectures=["BertForMaskedLM"], model_type="bert", ettin_objective=None, ettin_label_offset=None)
    found = opened(folder)
    assert (found.kind, found.ours) == ("encoder", False)
    assert opened(folder, mntp=("m",)).kind == "encoder-from-decoder"
    change(folder, architectures=["GPT2LMHeadModel"], model_type="gpt2")
    assert opened(folder).kind == "decoder"


def test_a_model_without_a_language_model_head_is_refused(make_folder):
    folder = make_folder("mlm")
    change(folder, architectures=["ModernBertForSequenceClassification"])
    with pytest.raises(CheckpointError, match="has no such head: give the model that it was made from"):
        opened(folder)


def test_an_export_without_tokenizer_is_refused(make_folder):
    folder = make_folder("mlm")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="has no tokenizer .*copy the files"):
        opened(folder)


def test_a_folder_without_weights_is_refused(make_folder):
    folder = make_folder("mlm")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no .safetensors weights; pickles .* are never opened"):
        opened(folder)


def test_a_published_encoder_from_a_decoder_must_be_named_as_one(make_folder):
    folder = make_folder("mlm", name="ettin-enc-from-dec-17m")
    change(folder, ettin_objective=None, ettin_label_offset=None)
    with pytest.raises(ConfigError, match="one position earlier.*--mntp m"):
        opened(folder)
    assert opened(folder, mntp=("m",)).label_offset == -1


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_mntp_is_refused_where_the_folder_says_otherwise(objective, make_folder):
    with pytest.raises(ConfigError, match="--mntp m"):
        opened(make_folder(objective), mntp=("m",))


def test_mntp_names_a_model(make_folder):
    with pytest.raises(ConfigError, match="--mntp names x, but the models are called m"):
        opened(make_folder("mlm"), mntp=("x",))


def test_the_fingerprint_changes_with_any_byte(make_folder, tmp_path):
    folder = make_folder("mlm")
    other = shutil.copytree(folder, tmp_path / "other")
    assert opened(folder).fingerprint == opened(other).fingerprint
    change(other, norm_eps=1e-6)
    assert opened(folder).fingerprint != opened(other).fingerprint


def test_an_offline_hub_says_what_to_do(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="someone/model is no folder here, and the hub does not give it"):
        fetched("someone/model")
    assert fetched("no-hub-name") == "no-hub-name"
