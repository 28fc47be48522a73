"""Folders and canonical tensors are two forms of the same numbers, bit for bit, in both directions."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.config.weights import shapes
from megatron_ettin.export import Export, read_canonical, read_folder, write_folder
from megatron_ettin.export.mapping import from_huggingface, huggingface_shapes, to_huggingface
from tests.export.conftest import VOCABULARY, small_model


def equal(left: dict, right: dict) -> bool:
    return list(left) == list(right) and all(
        left[k].dtype == right[k].dtype and torch.equal(left[k].view(torch.int32), right[k].view(torch.int32))
        for k in left
    )


@pytest.mark.parametrize("objective", ["mlm", "clm", "mntp"])
def test_a_model_written_and_read_again_is_bitwise_the_same(objective, make_folder, make_export):
    model, tensors = read_canonical(make_folder(objective))
    assert equal(tensors, make_export(objective).tensors)
    expected = small_model(window=8, causal_window=7, size=model.size)
    assert model.__dict__ == expected.__dict__


@pytest.mark.parametrize("objective", ["mlm", "clm", "mntp"])
def test_a_folder_read_and_written_again_has_the_same_files(objective, make_folder, tokenizer_json, tmp_path):
    first, second = make_folder(objective, name="same"), tmp_path / "again" / "same"
    second.mkdir(parents=True)
    read = read_folder(first)
    again = Export(
        model=read.config.model,
        objective=OBJECTIVES[read.config.objective],
        tensors=read.tensors,
        tokenizer_json=first / "tokenizer.json",
    )
    write_folder(second, again)
    assert sorted(path.name for path in first.iterdir()) == sorted(path.name for path in second.iterdir())
    for path in first.iterdir():
        same = path.read_bytes() == (second / path.name).read_bytes()
        assert same or path.name == "README.md", path.name  # the card names the shape; the folder's name is used


def test_bfloat16_folders_round_trip_bitwise(make_folder):
    folder = make_folder("clm", dtype="bfloat16")
    read = read_folder(folder)
    assert read.dtype == "bfloat16"
    stored = load_file(folder / "model.safetensors")
    again = to_huggingface(read.tensors, read.config.model, "decoder")
    assert all(torch.equal(again[name].bfloat16().view(torch.int16), t.view(torch.int16)) for name, t in stored.items())


def test_an_encoder_and_a_decoder_folder_of_the_same_weights_convert_into_each_other(make_folder):
    assert equal(read_folder(make_folder("mlm")).tensors, read_folder(make_folder("clm")).tensors)


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_the_table_names_every_tensor_of_transformers_and_no_other(kind, make_folder):
    """What transformers itself would save from the folder's model."""
    from megatron_ettin.export import parity

    folder = make_folder("mlm" if kind == "encoder" else "clm")
    config = read_folder(folder).config
    theirs = parity.load_transformers(folder, config).state_dict()
    theirs.pop("decoder.weight")
    assert {name: tuple(t.shape) for name, t in theirs.items()} == huggingface_shapes(config.model, kind)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_file_is_the_one_that_safetensors_writes(dtype, make_folder, tmp_path):
    path = make_folder("clm", dtype=dtype) / "model.safetensors"
    save_file(load_file(path), tmp_path / "theirs", {"format": "pt"})
    assert path.read_bytes() == (tmp_path / "theirs").read_bytes()


def test_the_vocabulary_is_exact(make_folder):
    stored = load_file(make_folder("mlm") / "model.safetensors")
    assert stored["model.embeddings.tok_embeddings.weight"].shape[0] == VOCABULARY == len(stored["decoder.bias"])
    assert "decoder.weight" not in stored


def test_a_sharded_folder_is_read(make_folder):
    folder = make_folder("clm")
    whole = load_file(folder / "model.safetensors")
    names = list(whole)
    shards = {"model-1.safetensors": names[:7], "model-2.safetensors": names[7:]}
    for file, part in shards.items():
        save_file({name: whole[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    before = read_folder(folder).tensors
    (folder / "model.safetensors").unlink()
    assert equal(read_folder(folder).tensors, before)


def test_a_stored_copy_of_the_tied_projection_is_accepted(make_folder):
    folder = make_folder("mlm")
    tensors = load_file(folder / "model.safetensors")
    before = read_folder(folder).tensors
    save_file(tensors | {"decoder.weight": tensors["model.embeddings.tok_embeddings.weight"].clone()},
              folder / "model.safetensors")  # fmt: skip
    assert equal(read_folder(folder).tensors, before)


def test_queries_keys_and_values_are_rows_in_this_order(make_export):
    export = make_export("clm")
    names = to_huggingface(export.tensors, export.model, "decoder")
    parts = [names[f"model.layers.2.attn.{part}_proj.weight"] for part in "qkv"]
    assert torch.equal(torch.cat(parts), export.tensors["layers.2.qkv.weight"])
    assert list(from_huggingface(names, export.model, "decoder")) == list(shapes(export.model))
