"""The published mixtures come whole or in part, verified, and go on after any interruption."""

import json

import pytest
import zstandard

from megatron_ettin.cli import main
from megatron_ettin.corpus.build import build_corpus
from megatron_ettin.errors import ConfigError, DataError
from megatron_ettin.sources.remote import retry, store, transfer
from megatron_ettin.sources.remote.mixtures import REPOSITORIES, chosen, fetch_mixture
from tests.corpus.conftest import make_texts, tokenizer  # noqa: F401 - a fixture
from tests.sources.mds_writer import encode_shard
from tests.sources.remote.hub import offer
from tests.sources.remote.web import Web, serving

NAME = REPOSITORIES["decay"]
SHARDS = {"arxiv": 4, "books": 40, "code/part_1": 2, "code/part_2": 2}


def published(seed=0):
    """A dataset as it is published: folders of packed MDS shards, each with an index, and a card."""
    files = {"README.md": b"a card", ".gitattributes": b""}
    for folder, count in SHARDS.items():
        entries = []
        for number in range(count):
            texts = make_texts(3, number + seed)
            raw = encode_shard([{"text": text} for text in texts], {"text": "str"})
            names = f"shard.{number:05d}.mds", f"shard.{number:05d}.mds.zstd"
            files[f"{folder}/{names[1]}"] = zstandard.compress(raw)
            data = {"raw_data": {"basename": names[0]}, "zip_data": {"basename": names[1]}}
            entries.append(data | {"column_names": ["text"], "column_encodings": ["str"], "samples": len(texts)})
        files[f"{folder}/index.json"] = json.dumps({"version": 2, "shards": entries}).encode()
    return files


@pytest.fixture
def hub(monkeypatch):
    with serving(Web({})) as web:
        monkeypatch.setenv("HF_ENDPOINT", web.address)
        monkeypatch.setattr(retry, "FIRST_DELAY", 0.001)
        monkeypatch.setattr(transfer, "PART_BYTES", 500)
        store.opened.cache_clear()
        yield web


def fetch(folder, fraction=1.0, revision=""):
    return fetch_mixture("decay", folder, fraction, revision, "a test")


def shards(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("shard.*"))


def test_a_fraction_has_evenly_spaced_shards_of_every_source(tmp_path, hub, tokenizer, capsys):  # noqa: F811
    files = published()
    commit = offer(hub, NAME, files)
    folder = tmp_path / "decay"
    assert main(["fetch", "--mixture", "decay", "--output", str(folder), "--fraction", "0.1"]) == 0
    books = [f"books/shard.{n:05d}.mds.zstd" for n in (5, 15, 25, 35)]
    assert shards(folder) == ["arxiv/shard.00002.mds.zstd", *books, "code/part_2/shard.00000.mds.zstd"]
    assert all((folder / path).read_bytes() == files[path] for path in shards(folder))
    printed = capsys.readouterr().out
    assert f"at {commit}" in printed and "books: 4 shards" in printed and "text (str)" in printed
    record = json.loads((folder / ".fetched.json").read_bytes())
    assert {file["path"] for file in record["files"]} == {*shards(folder)}
    assert all(file["checksum"].startswith(("sha256:", "git:")) for file in record["files"])
    corpus = build_corpus(folder, tmp_path / "corpus", tokenizer).corpus
    documents = sum(len(make_texts(3, n)) for n in (2, 5, 15, 25, 35, 0))
    assert corpus.documents == documents


def test_the_whole_is_every_shard_and_what_is_there_is_not_fetched_again(tmp_path, hub):
    files = published()
    offer(hub, NAME, files)
    fetch(tmp_path / "all")
    assert shards(tmp_path / "all") == sorted(path for path in files if "shard." in path)
    before = dict(hub.sent)
    fetch(tmp_path / "all")
    again = {path for path in hub.sent if hub.sent[path] != before.get(path)}
    assert all(path.endswith("index.json") for path in again)
    assert json.loads((tmp_path / "all/books/index.json").read_bytes())["shards"] == json.loads(
        files["books/index.json"]
    )["shards"]


def test_an_interrupted_fetch_goes_on_with_the_same_commit(tmp_path, hub):
    files = published()
    commit = offer(hub, NAME, files)
    hub.faults[f"/datasets/{NAME}/resolve/{commit}/books/shard.00007.mds.zstd"] = [None, 404]
    with pytest.raises(DataError, match=r"books/shard.00007.mds.zstd: no such file"):
        fetch(tmp_path / "decay")
    assert 0 < len(shards(tmp_path / "decay")) < 48 and not (tmp_path / "decay/.fetched.json").exists()
    offer(hub, NAME, published(seed=99))
    found = fetch(tmp_path / "decay")
    assert found.plan.commit == commit
    assert all((tmp_path / "decay" / file.path).read_bytes() == files[file.path] for file in found.files)
    for path in shards(tmp_path / "decay"):
        sent = hub.sent[f"/datasets/{NAME}/resolve/{commit}/{path}"]
        assert sent <= len(files[path]) + transfer.PARTS_AT_ONCE * transfer.PART_BYTES


def test_a_shard_whose_bytes_are_not_those_of_its_hash_is_refused(tmp_path, hub):
    commit = offer(hub, NAME, published())
    path = f"/datasets/{NAME}/resolve/{commit}/arxiv/shard.00001.mds.zstd"
    hub.files[path] = hub.files[path][:-1] + b"?"
    with pytest.raises(DataError, match=r"arxiv/shard.00001.mds.zstd: its bytes have the sha256 \w+, and the server"):
        fetch(tmp_path / "decay")
    assert not (tmp_path / "decay/arxiv/shard.00001.mds.zstd").exists()


def test_what_cannot_be_fetched_is_told_in_one_line(tmp_path, hub, monkeypatch, capsys):
    with pytest.raises(DataError, match=f"{NAME}.*no such file or folder"):
        fetch(tmp_path / "none")
    offer(hub, NAME, published())
    for fraction in (0.0, 1.5, float("nan")):
        with pytest.raises(ConfigError, match="above 0 and at most 1"):
            fetch(tmp_path / "fraction", fraction)
    with pytest.raises(DataError, match="leads out of the dataset"):
        offer(hub, NAME, {"a/../../shard.00000.mds": b""})
        fetch(tmp_path / "hostile")
    offer(hub, NAME, published())
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files"):
        fetch(tmp_path / "full")
    fetch(tmp_path / "tenth", 0.1)
    with pytest.raises(ConfigError, match="is for --mixture decay --fraction 0.1; go on with these"):
        fetch(tmp_path / "tenth", 0.2)
    with pytest.raises(DataError, match="@v9"):
        fetch(tmp_path / "revision", 0.1, "v9")
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(ConfigError, match="make room, or ask for a smaller --fraction"):
        fetch(tmp_path / "small")


@pytest.mark.parametrize("count", [1, 2, 7, 1000])
@pytest.mark.parametrize("fraction", [1e-4, 0.3, 0.999, 1.0])
def test_chosen_shards_are_different_and_as_many_as_the_fraction_says(count, fraction):
    picked = chosen([str(number) for number in range(count)], fraction)
    assert len(set(picked)) == len(picked) == max(1, round(count * fraction))
    assert picked == sorted(picked, key=int)
