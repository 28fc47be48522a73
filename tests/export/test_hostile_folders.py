"""A folder from elsewhere is data: nothing in it runs, and what does not fit is refused with its name."""

import json
import os
import pickle
import stat
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_ettin.errors import CheckpointError, DataError
from megatron_ettin.evaluate.suites.subjects import opened_subjects
from megatron_ettin.export import Export, read_folder, write_folder
from tests.support.launch import run

WEIGHTS = "model.safetensors"
EMBEDDING = "model.embeddings.tok_embeddings.weight"


def edit_config(folder: Path, **changes: object) -> Path:
    path = folder / "config.json"
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in fields.items() if value is not ...}))
    return folder


def edit_weights(folder: Path, change) -> Path:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
    return folder


def refused(folder: Path, match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        read_folder(folder)


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/export-bomb-went-off"),))


def test_pickles_are_never_opened(make_folder, tmp_path):
    folder = make_folder()
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    refused(folder, "pytorch_model.bin, a pickle, which can run code")
    assert not Path("/tmp/export-bomb-went-off").exists()


def test_a_pickle_beside_safetensors_is_ignored(make_folder):
    folder = make_folder()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    read_folder(folder)
    assert not Path("/tmp/export-bomb-went-off").exists()


def test_code_in_the_config_is_refused(make_folder):
    refused(edit_config(make_folder(), auto_map={"AutoModel": "evil.Model"}), "never done")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"model_type": "bert"}, "model_type 'bert' cannot be read"),
        ({"hidden_size": 65}, "no multiple of 4 heads"),
        ({"hidden_size": -64}, "hidden_size=-64"),
        ({"hidden_size": True}, "hidden_size=True"),
        ({"hidden_size": "64"}, "hidden_size='64'"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers"),
        ({"num_hidden_layers": 4}, "layer_types is not"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"hidden_activation": "relu"}, "hidden_activation='relu'"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_scaling is not supported"),
        ({"layer_types": ["full_attention"] * 5}, "the only pattern"),
        ({"local_rope_theta": 9_999.0}, "contradict each other"),
        ({"rope_parameters": ..., "local_rope_theta": ...}, "are absent"),
        ({"local_attention": 1}, "local_attention=1"),
        ({"ettin_objective": "clm"}, "does not fit"),
        ({"ettin_objective": ["mlm"]}, "does not fit"),
        ({"rope_parameters": 3}, "rope_parameters"),
    ],
)  # fmt: skip
def test_a_config_that_means_another_model_is_refused(changes, match, make_folder):
    refused(edit_config(make_folder(), **changes), match)


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00\xff", "null"])
def test_a_damaged_config_is_an_error(text, make_folder):
    folder = make_folder()
    (folder / "config.json").write_text(text)
    refused(folder, "config.json")


def test_an_absent_folder_is_an_error(tmp_path):
    refused(tmp_path / "nowhere", "no such file")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.pop("head.dense.weight"), r"missing \['head.dense.weight'\]"),
        (lambda t: t.update(evil=torch.zeros(2)), r"not expected \['evil'\]"),
        (lambda t: t.update({EMBEDDING: t[EMBEDDING][:-1].clone()}), r"shape \(300, 64\), its config.json says"),
        (lambda t: t.update({EMBEDDING: t[EMBEDDING].double()}), "stored as F64"),
        (lambda t: t[EMBEDDING].view(-1)[7].fill_(float("nan")), "NaN or infinity"),
        (lambda t: t.update({"decoder.weight": torch.zeros(301, 64)}), "tied"),
        (lambda t: t.clear(), "missing"),
    ],
)
def test_tensors_that_do_not_fit_the_config_are_refused(change, match, make_folder):
    refused(edit_weights(make_folder(), change), match)


@pytest.mark.parametrize("cut", [0, 7, 100, -1])
def test_a_damaged_weight_file_is_an_error(cut, make_folder):
    folder = make_folder()
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:cut])
    refused(folder, "damaged or no safetensors")


def lying(header: dict, size: int) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(size)


def entry(shape, begin, end) -> dict:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "content",
    [
        lying({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, 12),
        lying({"a": entry([2], 0, 8), "b": entry([2], 0, 8)}, 8),
        lying({"a": entry([3], 0, 8)}, 8), lying({"a": entry([200], 0, 800)}, 8), lying({"a": entry([2], 8, 0)}, 8),
        lying({"a": entry([1 << 40, 1 << 40], 0, 8)}, 8), lying({"a": entry([-2], 0, 8)}, 8), b"\xff" * 7 + bytes(9),
    ],
    ids=["overlapping", "the same bytes", "larger shape", "beyond the end", "backwards", "overflow", "below 0", "size"],
)  # fmt: skip
def test_a_weight_file_whose_header_lies_is_an_error_with_its_name(content, make_folder):
    folder = make_folder()
    (folder / WEIGHTS).write_bytes(content)
    refused(folder, f"{WEIGHTS} is damaged or no safetensors file")
    with pytest.raises(CheckpointError, match=f"{WEIGHTS} is damaged"), opened_subjects({"m": str(folder)}):
        pass


def special(path: Path, kind: str) -> None:
    path.unlink(missing_ok=True)
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    else:
        os.mknod(path, stat.S_IFSOCK | 0o600)


@pytest.mark.parametrize("kind", ["a pipe", "a device", "a socket"])
@pytest.mark.parametrize("name", ["config.json", WEIGHTS, "tokenizer.json", "model-00001-of-00002.safetensors"])
def test_pipes_devices_and_sockets_are_refused_by_name(kind, name, make_folder):
    folder = make_folder()
    special(folder / name, kind)
    refused(folder, f"{name} is {kind}; only files are read")
    with pytest.raises(CheckpointError, match=f"{name} is {kind}"), opened_subjects({"m": str(folder)}):
        pass


@pytest.mark.parametrize(
    "command",
    [
        ["convert", "FOLDER", "TARGET"], ["evaluate", "FOLDER", "--out", "TARGET"],
        ["check", "tiny", "mlm", "pretrain", "--init-from", "FOLDER"],
    ],
    ids=lambda command: command[0],
)  # fmt: skip
def test_commands_do_not_wait_for_a_pipe(command, make_folder, tmp_path):
    folder = make_folder()
    special(folder / "tokenizer.json", "a pipe")
    places = {"FOLDER": str(folder), "TARGET": str(tmp_path / "made")}
    words = [places.get(word, word) for word in command]
    ended = run([sys.executable, "-m", "megatron_ettin", *words], status=None, timeout=60)
    said = ended.stdout + ended.stderr
    assert ended.returncode == 2 and "tokenizer.json" in said and "a pipe" in said and "Traceback" not in said, said


@pytest.mark.parametrize(
    ("index", "match"),
    [
        ({"weight_map": {"a": "../other/model.safetensors"}}, "only .safetensors files beside it"),
        ({"weight_map": {"a": "shard.bin"}}, "only .safetensors files beside it"),
        ({"weight_map": {"a": 3}}, "only .safetensors files beside it"),
        ({"weight_map": {"a": "absent.safetensors"}}, "incomplete"),
        ({"weights": {}}, "no index"),
        ([], "no index"),
    ],
)
def test_an_index_that_leads_elsewhere_is_refused(index, match, make_folder):
    folder = make_folder()
    (folder / WEIGHTS).unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, match)


def test_a_tensor_in_two_shards_is_refused(make_folder):
    folder = make_folder()
    (folder / WEIGHTS).rename(folder / "a.safetensors")
    (folder / "b.safetensors").write_bytes((folder / "a.safetensors").read_bytes())
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}})
    )
    refused(folder, "stored twice")


def test_a_folder_without_weights_is_an_error(make_folder):
    folder = make_folder()
    (folder / WEIGHTS).unlink()
    refused(folder, "neither")


def test_an_export_needs_every_tensor_and_a_tokenizer_that_fits(make_export, tmp_path):
    export = make_export()
    fields = {key: getattr(export, key) for key in ("model", "objective", "tokenizer_json")}
    tensors = dict(export.tensors)
    bias = tensors.pop("head.bias")
    with pytest.raises(CheckpointError, match=r"missing head.bias"):
        write_folder(tmp_path, Export(tensors=tensors, **fields))
    padded = tensors | {"head.bias": torch.cat([bias, torch.zeros(3)])}
    with pytest.raises(CheckpointError, match=r"head.bias .* has shape \(304,\), its config says \(301,\)"):
        write_folder(tmp_path, Export(tensors=padded, **fields))


def test_a_tokenizer_with_more_ids_than_the_model_or_without_specials_is_refused(make_export, tmp_path):
    with pytest.raises(DataError, match="ids up to 300, the model a vocabulary of 290"):
        write_folder(tmp_path, make_export(vocabulary=290))
    (tmp_path / "bare.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}, "added_tokens": []}))
    export = make_export()
    bare = Export(
        model=export.model, objective=export.objective, tensors=export.tensors, tokenizer_json=tmp_path / "bare.json"
    )
    with pytest.raises(DataError, match=r"no token \[CLS\]"):
        write_folder(tmp_path, bare)
