"""Models of the hub, by its HTTP interface: revisions, tokens, the cache, and one line for what it does not give."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.adapt.stand_in_hub import TOKEN, Hub, serving
from tests.adapt.starts import SHAPES, write_start
from tests.support.launch import run

NAME = "answerdotai/ModernBERT-base"
PROGRAM = """
import json, sys
from megatron_ettin.errors import EttinError
from megatron_ettin.adapt.start import read_start
for name in sys.argv[1:]:
    try:
        print(json.dumps(read_start(name).to_dict()))
    except EttinError as error:
        print(json.dumps({"error": str(error)}))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("hub")
    models = {}
    for revision, layers in (("main", 1), ("ext50854", 4)):
        models[revision] = write_start(folder / revision, SHAPES["ModernBERT-base"], num_hidden_layers=layers)
    (models["main"] / "pytorch_model.bin").write_bytes(b"a pickle that nobody fetches")
    only_pickle = folder / "pickle"
    write_start(only_pickle, SHAPES["ModernBERT-base"], num_hidden_layers=1)
    (only_pickle / "model.safetensors").rename(only_pickle / "pytorch_model.bin")
    known = {NAME: models, "jhu-clsp/ettin-encoder-17m": models, "me/private": models, "me/gated": models}
    made = Hub(models=known | {"me/pickle": {"main": only_pickle}}, private={"me/private"}, gated={"me/gated"})
    with serving(made):
        yield made


def asked(hub: Hub, cache: Path, *names: str, **variables: str) -> list[dict]:
    """What ``read_start`` says of each name, in a process of its own."""
    extra = {"HF_ENDPOINT": hub.address, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_PROGRESS_BARS": "1"} | variables
    output = run([sys.executable, "-c", PROGRAM, *names], extra=extra).stdout
    return [json.loads(line) for line in output.splitlines()]


def test_a_hub_name_is_read_at_its_revision_without_its_pickles(hub, tmp_path):
    hub.requests.clear()
    final, stable = asked(hub, tmp_path, NAME, "jhu-clsp/ettin-encoder-17m@ext50854")
    assert final["model"]["layers"] == 1 and final["commit"] == hub.commit(NAME, "main")
    assert stable["model"]["layers"] == 4 and stable["model"]["size"] == "ettin-encoder-17m"
    assert final["model"]["size"] == "ModernBERT-base" and final["peak_rate"] == 8e-4
    assert "before its learning rate fell" in final["hint"] and stable["hint"] == ""
    assert hub.requests and not any(path.endswith(".bin") for _, path, _ in hub.requests)


def test_a_second_time_offline_takes_what_the_cache_holds(hub, tmp_path):
    (first,) = asked(hub, tmp_path, NAME)
    hub.requests.clear()
    again, unknown = asked(hub, tmp_path, NAME, "me/unknown", HF_HUB_OFFLINE="1")
    assert again == first and hub.requests == []
    assert "check the network and HF_HUB_OFFLINE, or give a folder" in unknown["error"]


def test_the_token_is_sent_and_opens_what_is_private(hub, tmp_path):
    (refused,) = asked(hub, tmp_path, "me/private", HF_TOKEN="hf_another")
    assert "it has no such model, or not for this token: check the name, or set HF_TOKEN" in refused["error"]
    hub.requests.clear()
    (opened,) = asked(hub, tmp_path, "me/private", HF_TOKEN=TOKEN)
    assert opened["model"]["layers"] == 1
    assert {header for _, path, header in hub.requests if "me/private" in path} == {f"Bearer {TOKEN}"}


def test_what_the_hub_does_not_give_is_one_line_with_the_remedy(hub, tmp_path):
    names = ("me/unknown", f"{NAME}@v9", "me/gated", "me/pickle")
    messages = [answer["error"] for answer in asked(hub, tmp_path, *names)]
    wanted = ("no such model", "it has no such revision", "accept them on its page and set HF_TOKEN", "safetensors")
    for name, message, part in zip(names, messages, wanted, strict=True):
        assert part in message and "\n" not in message, (name, message)


def test_a_hub_that_does_not_answer_is_one_line(tmp_path):
    (answer,) = asked(Hub(models={}, address="http://127.0.0.1:9"), tmp_path, NAME)
    assert "is no folder here, and the hub does not give it" in answer["error"] and "\n" not in answer["error"]


def test_models_of_the_hub_are_merged_and_keep_their_commit(hub, tmp_path):
    """By name and by revision, from the cache the second time; another model's name is refused in a line."""
    extra = {"HF_ENDPOINT": hub.address, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-m", "megatron_ettin", "merge-weights", f"{NAME}@main", NAME, "--output"]
    run([*command, str(tmp_path / "out")], extra=extra)
    merged = json.loads((tmp_path / "out" / "merge.json").read_text())["models"]
    assert [model["model"] for model in merged] == [f"{NAME}@main", NAME]
    assert {model["commit"] for model in merged} == {hub.commit(NAME, "main")}
    source = next((tmp_path / "cache").glob("models--answerdotai*/snapshots/*/model.safetensors"))
    before, after = load_file(source), load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
