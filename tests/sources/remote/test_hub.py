"""Text of the hub becomes the corpus that the same files on the disk give, and stays that of one commit."""

import pytest

from megatron_ettin.corpus.build import build_corpus
from megatron_ettin.corpus.places import Places
from megatron_ettin.errors import ConfigError, DataError
from megatron_ettin.sources.files import find_inputs
from megatron_ettin.sources.remote import retry, store, transfer
from tests.corpus.conftest import tokenizer  # noqa: F401 - a fixture
from tests.sources.remote.hub import offer
from tests.sources.remote.test_web import lines, names, on_disk, same
from tests.sources.remote.web import Web, serving

FILES = {"data/b/2.jsonl": lines(20, 2), "data/a.jsonl": lines(20, 1), "data/tiny.jsonl": b'{"text": "x"}\n',
         "README.md": b"beside data", ".gitattributes": b""}  # fmt: skip
DATA = "hf://datasets/me/data"
TOKEN = "hf_of-the-test"


@pytest.fixture
def hub(monkeypatch):
    """A hub with one dataset; the client takes address and token from the environment."""
    with serving(Web({})) as web:
        monkeypatch.setenv("HF_ENDPOINT", web.address)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(transfer, "PART_BYTES", 1000)
        monkeypatch.setattr(retry, "FIRST_DELAY", 0.001)
        store.opened.cache_clear()
        offer(web, "me/data", FILES)
        yield web


def test_a_dataset_gives_the_corpus_of_the_disk(tmp_path, hub, tokenizer, capfd):  # noqa: F811
    local = build_corpus(on_disk(Web(FILES), tmp_path / "disk"), tmp_path / "a", tokenizer)
    fetched = build_corpus("hf://datasets/me/data", tmp_path / "b", tokenizer)
    assert same(fetched, local)
    sources = fetched.manifests[0].sources
    assert [source.path for source in sources] == [f"{DATA}/data/{name}.jsonl" for name in ("a", "tiny", "b/2")]
    assert {source.revision for source in sources} == {offer(hub, "me/data", FILES)}
    assert str(Places(fetched.corpus).of(0)) == "hf://datasets/me/data/data/a.jsonl, line 1"
    assert hub.authorizations == {f"Bearer {TOKEN}"}
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("b*") if path.is_file())
    assert TOKEN not in "".join(capfd.readouterr()) and TOKEN.encode() not in written


def test_globs_folders_and_revisions_name_files_of_the_hub(hub):
    offer(hub, "me/data", {"data/other.jsonl": b"{}"}, "v2")
    assert names(find_inputs([f"{DATA}/data/*.jsonl"])) == [f"{DATA}/data/a.jsonl", f"{DATA}/data/tiny.jsonl"]
    assert names(find_inputs([f"{DATA}/data/b"])) == [f"{DATA}/data/b/2.jsonl"]
    assert names(find_inputs([f"{DATA}@v2/data/other.jsonl"])) == [f"{DATA}/data/other.jsonl"]
    offer(hub, "me/data", {"data/0000.jsonl": b"{}"}, "refs/convert/parquet")
    assert names(find_inputs([f"{DATA}@refs/convert/parquet/"])) == [f"{DATA}/data/0000.jsonl"]
    for address, said in ((f"{DATA}/none.jsonl", "no such file"), ("hf://datasets/me/none", "no such file")):
        with pytest.raises(DataError, match=f"hf://datasets/me/.*{said}.*HF_TOKEN"):
            find_inputs([address])
    with pytest.raises(ConfigError, match="write hf://datasets/OWNER/NAME"):
        find_inputs(["hf://data"])


def test_a_branch_that_moves_is_not_mixed_into_a_build(tmp_path, hub, tokenizer, monkeypatch):  # noqa: F811
    build = ["hf://datasets/me/data/data"], tmp_path / "b", tokenizer
    path = f"/datasets/me/data/resolve/{offer(hub, 'me/data', FILES)}/data/b/2.jsonl"
    hub.faults[path] = [404] * 9
    with pytest.raises(DataError, match=r"hf://datasets/me/data@\w+/data/b/2.jsonl: no such file"):
        build_corpus(*build)
    offer(hub, "me/data", FILES | {"new.jsonl": b"{}"})
    report = build_corpus(*build)
    assert report.corpus.documents, "the files are the same though the branch moved"
    assert hub.sent[path.replace("b/2", "a")] == len(FILES["data/a.jsonl"])
