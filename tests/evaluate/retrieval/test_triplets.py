"""Triplets are read from files or the hub, split as published, and bad ones are named."""

import numpy as np
import pytest

from megatron_ettin.errors import ConfigError, DataError
from megatron_ettin.evaluate.retrieval import triplets
from megatron_ettin.evaluate.retrieval.settings import ContrastSettings, most_triplets
from megatron_ettin.evaluate.retrieval.triplets import read_triplets, triplet_facts
from megatron_ettin.evaluate.suites.suite import NotRunError
from tests.evaluate.retrieval import synthetic
from tests.evaluate.retrieval.synthetic import TRIPLETS

pytest.importorskip("datasets", reason="datasets is not installed: pip install -e .[eval-lm]")


def write(folder, **files):
    for name, rows in files.items():
        synthetic.write_rows(folder / "retrieval" / "triplets" / f"{name}.jsonl.gz", rows)
    return folder


def test_all_files_are_joined_and_a_tenth_is_held_out(tmp_path):
    local = write(tmp_path, b=TRIPLETS[30:], a=TRIPLETS[:30])
    found = read_triplets(local, 1_000)
    places = np.random.default_rng(12).permutation(40)
    assert found.held_out.to_list() == [TRIPLETS[i] for i in places[:4]], "drawn by the published seed"
    assert found.train.to_list() == [TRIPLETS[i] for i in places[4:]]
    assert list(triplet_facts(local)) == ["a", "b"]
    limited = read_triplets(local, 3)
    assert limited.train.to_list() == found.train.to_list()[:3] and len(limited.held_out) == 3


def test_triplets_from_the_hub_are_the_published_set(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(path, config, split):
        asked.append((path, config, split))
        return datasets.Dataset.from_list([{**row, "other": 1} for row in TRIPLETS])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = read_triplets(None, 1_000)
    assert asked == [triplets.HUB] and found.train.column_names == ["query", "positive", "negative"]
    assert triplet_facts(None) == dict(zip(("hub", "config", "split"), triplets.HUB, strict=True))


def test_an_offline_hub_says_what_to_do(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def load_dataset(*_, **__):
        raise ConnectionError("Couldn't reach the hub\nmore")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match="cannot be fetched .*the hub.*--local FOLDER"):
        read_triplets(None, 9)


@pytest.mark.parametrize(
    ("row", "message"),
    [({"query": "a", "positive": "b"}, "words.jsonl.gz, row 2: no column negative"),
     ({"query": "a", "positive": " ", "negative": "c"}, "row 2: positive is ' ', and a triplet is three texts"),
     ({"query": 3, "positive": "b", "negative": "c"}, "row 2: query is 3")],
)  # fmt: skip
def test_a_bad_triplet_is_named(row, message, tmp_path):
    with pytest.raises(DataError, match=message):
        read_triplets(write(tmp_path, words=[TRIPLETS[0], row]), 9)


def test_no_triplets_are_a_reason_not_to_run(tmp_path):
    with pytest.raises(NotRunError, match="no triplets to train on"):
        triplet_facts(tmp_path)
    with pytest.raises(DataError, match="give at least two"):
        read_triplets(write(tmp_path, words=TRIPLETS[:1]), 9)


def test_the_published_settings_are_the_defaults():
    settings = ContrastSettings()
    assert settings.rates("one") == (3e-4,) and len(settings.rates("sweep")) > 1
    assert ContrastSettings(learning_rates=(1e-3, 1e-5)).rates("sweep") == (1e-5, 1e-3)
    assert settings.pooling_of(causal=False) == "mean" and settings.pooling_of(causal=True) == "lasttoken"
    assert ContrastSettings(pooling="weightedmean").pooling_of(causal=True) == "weightedmean"
    rules = settings.rules()
    assert (rules["scale"], rules["batch"], rules["epochs"], rules["warm_up"]) == (20.0, 1_024, 1, 0.05)
    assert "mini_batch" not in rules, "which decides memory, not the outcome"
    assert most_triplets("one", None) == 1_250_000 and most_triplets("quick", None) == 16_384
    assert most_triplets("quick", 5) == 5


@pytest.mark.parametrize("changes", [{"learning_rates": (0.0,)}, {"batch": 1}, {"epochs": 0}, {"mini_batch": 0}])
def test_settings_that_cannot_work_are_refused(changes):
    with pytest.raises(ConfigError, match=f"retrieval.{next(iter(changes))}="):
        ContrastSettings(**changes)
