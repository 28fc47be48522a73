"""An embedding folder has the form that sentence-transformers 5 and 6 read; a decoder's texts end in its end token."""

import json
from types import SimpleNamespace

import pytest
import torch

from megatron_ettin.errors import CheckpointError
from megatron_ettin.evaluate.retrieval.folder import ended, write_trained, write_untrained
from megatron_ettin.evaluate.suites.subjects import opened_subjects
from megatron_ettin.export.tokenizer_files import template

NAMES = {"[CLS]": "[CLS]", "[SEP]": "[SEP]"}


@pytest.fixture
def untrained(make_folder, tmp_path):
    def make(objective, pooling="mean", **changes):
        folder = tmp_path / f"embedding-{objective}"
        folder.mkdir()
        source = make_folder(objective, **changes)
        with opened_subjects({"m": str(source)}) as (subject,):
            write_untrained(folder, subject, pooling, 500)
        return source, folder

    return make


def read(path):
    return json.loads(path.read_text())


@pytest.mark.parametrize(("pooling", "switch"), [("mean", "mean_tokens"), ("lasttoken", "lasttoken"),
                                                 ("weightedmean", "weightedmean_tokens")])  # fmt: skip
def test_the_pooling_is_explicit_and_the_form_is_that_of_version_5(pooling, switch, untrained):
    _, folder = untrained("clm", pooling)
    modules = read(folder / "modules.json")
    assert [module["type"] for module in modules] == [
        "sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling",
    ]  # fmt: skip
    config = read(folder / modules[1]["path"] / "config.json")
    on = [name for name, value in config.items() if name.startswith("pooling_mode") and value]
    assert on == [f"pooling_mode_{switch}"] and config["word_embedding_dimension"] == 64
    assert read(folder / "sentence_bert_config.json")["max_seq_length"] == 500
    assert read(folder / "config_sentence_transformers.json")["prompts"] == {}


def test_a_decoders_texts_end_in_sep_and_its_own_folder_keeps_its_template(untrained):
    from transformers import AutoTokenizer

    source, folder = untrained("clm", "lasttoken")
    tokenizer, own = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(source)
    text = "a b"
    assert tokenizer(text)["input_ids"] == [*own(text)["input_ids"], tokenizer.sep_token_id]
    cut = tokenizer("a" * 900, truncation=True, max_length=20)["input_ids"]
    assert len(cut) == 20 and cut[-1] == tokenizer.sep_token_id, "a text that is cut has its end token too"
    assert own(text)["input_ids"][-1] != own.sep_token_id
    assert read(source / "tokenizer.json")["post_processor"]["single"][-1] == {"Sequence": {"id": "A", "type_id": 0}}
    assert tokenizer.pad_token == "[PAD]" and tokenizer.mask_token == "[MASK]"


def test_an_encoders_tokenizer_stays_as_it_is(untrained):
    source, folder = untrained("mlm")
    assert (folder / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    assert (folder / "tokenizer_config.json").read_bytes() == (source / "tokenizer_config.json").read_bytes()


def test_weights_are_linked_for_training_and_whole_after_it(untrained, tmp_path):
    from transformers import AutoModel

    source, folder = untrained("clm", "lasttoken")
    assert (folder / "model.safetensors").resolve() == (source / "model.safetensors").resolve()
    model = AutoModel.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    trained = tmp_path / "trained"
    trained.mkdir()
    write_trained(trained, folder, [SimpleNamespace(auto_model=model)])
    again = AutoModel.from_pretrained(trained, dtype=torch.float32)
    for (name, one), (_, other) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    fields, before = read(trained / "config.json"), read(source / "config.json")
    assert fields["architectures"] == ["ModernBertDecoderModel"] and fields["dtype"] == "float32"
    assert {name for name in before if before[name] != fields.get(name)} == {"architectures"}, "nothing else is lost"
    assert read(trained / "modules.json") == read(folder / "modules.json")
    assert not (trained / "model.safetensors").is_symlink()


def test_the_ended_template_of_ours_is_that_of_encoders():
    ids = {"[CLS]": 1, "[SEP]": 2}
    assert ended(template("decoder", ids, NAMES), [("[CLS]", 1)], ("[SEP]", 2)) == template("encoder", ids, NAMES)


def test_what_other_makers_processors_do_stays():
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    found = ended(byte_level, [], ("<|endoftext|>", 7))
    assert found["processors"][0] == byte_level
    single = found["processors"][1]["single"]
    assert single == [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}]


def test_a_tokenizer_without_an_end_token_is_refused(make_folder, tmp_path):
    source = make_folder("clm")
    path = source / "tokenizer_config.json"
    settings = {name: value for name, value in read(path).items() if name not in ("sep_token", "eos_token")}
    path.write_text(json.dumps(settings))
    (source / "special_tokens_map.json").unlink()
    (tmp_path / "out").mkdir()
    with (
        opened_subjects({"m": str(source)}) as (subject,),
        pytest.raises(CheckpointError, match="names no sep_token and no eos_token.*name it in tokenizer_config.json"),
    ):
        write_untrained(tmp_path / "out", subject, "lasttoken", 500)
