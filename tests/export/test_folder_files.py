"""The files of an exported folder: configs that every transformers reads alike, tokenizers that load everywhere."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from megatron_ettin.export import parity, prediction_positions, read_folder
from megatron_ettin.export.huggingface import read_folder_config

TEXT = "Caf\u00e9 d\u00e9j\u00e0 vu: [MASK] \u4f60\u597d, 42!"

V4_PYTHON = "ETTIN_TRANSFORMERS4_PYTHON"
"""Environment variable: an interpreter whose transformers is 4.54 to 4.57."""

ROUNDING = 1e-5
"""Same arithmetic in another version of the library, relative to the largest logit; often it is zero."""


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text())


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_the_config_states_both_generations_of_fields(objective, make_folder):
    fields = read(make_folder(objective, rope_base_local=10_000.0), "config.json")
    assert (fields["global_rope_theta"], fields["local_rope_theta"]) == (160_000.0, 10_000.0)
    assert fields["rope_parameters"]["full_attention"]["rope_theta"] == 160_000.0
    assert fields["rope_parameters"]["sliding_attention"]["rope_theta"] == 10_000.0
    assert fields["global_attn_every_n_layers"] == 3
    assert fields["layer_types"] == [
        "full_attention",
        *["sliding_attention"] * 2,
        "full_attention",
        "sliding_attention",
    ]
    assert fields["dtype"] == fields["torch_dtype"] == "float32"
    assert fields["local_attention"] == 16
    assert fields.get("sliding_window") == (8 if objective == "clm" else None)


@pytest.mark.parametrize(("window", "expected"), [(63, 128), (64, 130)])
def test_a_decoder_window_is_exported_as_what_makes_it_exact(window, expected, make_folder):
    fields = read(make_folder("clm", causal_window=window), "config.json")
    assert fields["local_attention"] == expected


def test_only_safetensors_and_json_are_written(make_folder):
    names = {path.name for path in make_folder("mlm").iterdir()}
    assert names == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
        "README.md",
    }  # fmt: skip
    assert {path.name for path in make_folder("clm").iterdir()} == names | {"generation_config.json"}


@pytest.mark.parametrize(("objective", "ends"), [("mlm", True), ("mntp", True), ("clm", False)])
def test_tokenizers_load_and_end_encoder_texts_only(objective, ends, make_folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(make_folder(objective))
    ids = tokenizer(TEXT)["input_ids"]
    assert ids[0] == 258 and (ids[-1] == 259) == ends
    assert 261 in ids, "[MASK] is one token"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Caf\u00e9 d\u00e9j\u00e0 vu: \u4f60\u597d, 42!"
    pair = tokenizer("a", "b")["input_ids"]
    assert len(pair) == (5 if ends else 3)
    assert (tokenizer.pad_token_id, tokenizer.mask_token_id, tokenizer.model_max_length) == (260, 261, 500)


def test_the_real_tokenizer_is_exported_with_the_template_of_its_kind(shared, tmp_path):
    from transformers import AutoTokenizer

    from megatron_ettin.export.tokenizer_files import write_tokenizer

    sentence = "The capital of France is [MASK]."
    expected = [50281, 510, 5347, 273, 6181, 310, 50284, 15]
    for kind, other, end in (("encoder", "decoder", [50282]), ("decoder", "encoder", [])):
        folder = tmp_path / kind
        folder.mkdir()
        write_tokenizer(folder, shared / "tokenizers" / f"ettin_{other}_tokenizer.json", kind, 7999)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer(sentence)["input_ids"] == expected + end
        assert len(tokenizer) == 50_368
        own = read(folder, "tokenizer.json")
        theirs = json.loads((shared / "tokenizers" / f"ettin_{kind}_tokenizer.json").read_text())
        assert own == theirs


def test_a_released_decoder_config_is_read_as_transformers_reads_it(make_folder):
    """The fields of a published decoder: v4 names only, and leftovers of other models."""
    folder = make_folder("clm", causal_window=63, window=64)
    fields = read(folder, "config.json")
    for name in ("rope_parameters", "global_attn_every_n_layers", "dtype", "ettin_objective", "ettin_label_offset"):
        del fields[name]
    leftovers = {
        "causal_mask": True, "masked_prediction": False, "position_embedding_type": "sans_pos", "bos_token": "[CLS]",
        "eos_token": "[SEP]", "unk_token": "[UNK]", "layer_norm_eps": 1e-5,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "sliding_window": 64, "max_position_embeddings": 7999,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(fields | leftovers))
    config = read_folder_config(folder)
    assert (config.kind, config.objective, config.model.causal_window, config.model.window) == (
        "decoder",
        "clm",
        63,
        64,
    )
    assert (config.model.global_every, config.model.maximum_length) == (3, 7999)


def test_what_transformers_saves_can_be_read(make_folder, tmp_path):
    for objective in ("mlm", "clm"):
        folder = make_folder(objective)
        first = read_folder(folder)
        parity.load_transformers(folder, first.config).save_pretrained(tmp_path / f"saved-{objective}")
        again = read_folder(tmp_path / f"saved-{objective}")
        assert again.config.model.__dict__ | {"size": ""} == first.config.model.__dict__ | {"size": ""}
        assert all(torch.equal(again.tensors[name], tensor) for name, tensor in first.tensors.items())


def test_mntp_encoders_say_that_predictions_are_read_one_position_earlier(make_folder):
    from transformers import AutoConfig

    masks = torch.tensor([3, 9])
    for objective, shift in (("mlm", 0), ("mntp", -1), ("clm", -1)):
        folder = make_folder(objective)
        config = AutoConfig.from_pretrained(folder)
        assert prediction_positions(masks, config).tolist() == [3 + shift, 9 + shift]
    assert "read at position i - 1" in (make_folder("mntp") / "README.md").read_text()
    assert "i - 1" not in (make_folder("mlm") / "README.md").read_text()


V4_PROGRAM = """
import json, sys, torch, transformers
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer
assert transformers.__version__.startswith("4."), transformers.__version__
folder, text, out = sys.argv[1:]
loader = AutoModelForCausalLM if "clm" in folder else AutoModelForMaskedLM
model = loader.from_pretrained(folder, attn_implementation="eager").eval()
case = torch.load(out, weights_only=True)
with torch.no_grad():
    logits = model(input_ids=case["ids"], attention_mask=case["attended"]).logits
torch.save({"logits": logits, "text": torch.tensor(AutoTokenizer.from_pretrained(folder)(text)["input_ids"])}, out)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "local"), [("mlm", 160_000.0), ("mlm", 10_000.0), ("clm", 160_000.0)])
def test_transformers_4_computes_the_same_logits_and_ids(objective, local, make_folder, tmp_path):
    python = os.environ.get(V4_PYTHON)
    if not python:
        pytest.skip(f"{V4_PYTHON} does not name an interpreter with transformers 4.54 to 4.57")
    from transformers import AutoTokenizer

    folder = make_folder(objective, rope_base_local=local, window=64, causal_window=63)
    model = parity.load_transformers(folder, read_folder_config(folder))
    ids = torch.randint(301, (2, 200), generator=torch.Generator().manual_seed(1))
    attended = torch.ones_like(ids)
    attended[1, 90:] = 0
    exchange = tmp_path / "exchange.pt"
    torch.save({"ids": ids, "attended": attended}, exchange)
    subprocess.run([python, "-c", V4_PROGRAM, folder, TEXT, exchange], check=True)
    theirs = torch.load(exchange, weights_only=True)
    with torch.no_grad():
        ours = model(input_ids=ids, attention_mask=attended).logits
    difference = (ours - theirs["logits"])[attended.bool()].abs().max()
    assert difference <= ROUNDING * ours.abs().max()
    assert theirs["text"].tolist() == AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"]
