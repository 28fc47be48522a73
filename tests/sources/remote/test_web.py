"""Text on a web server becomes the corpus that the same files on the disk give, whatever the network does."""

import gzip
import json
import threading
import time
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_ettin.adapt.text import refuse_other_text
from megatron_ettin.cli import main
from megatron_ettin.corpus.build import BuildOptions, build_corpus
from megatron_ettin.corpus.build.feed import Feeder
from megatron_ettin.corpus.build.join import join_corpora
from megatron_ettin.corpus.places import Places
from megatron_ettin.errors import ConfigError, DataError
from megatron_ettin.sources.files import find_inputs
from megatron_ettin.sources.remote import retry, staging, transfer
from tests.corpus.conftest import make_texts, tokenizer  # noqa: F401 - a fixture
from tests.sources.mds_writer import encode_shard
from tests.sources.remote.web import Web, serving

PART = 1000
"""Bytes of a part in these tests, so that a small file has many."""
SECRET = "X-Sig=c0ffee"


def lines(count, seed=0):
    return "".join(json.dumps({"text": text}) + "\n" for text in make_texts(count, seed)).encode()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Small parts and short waits."""
    monkeypatch.setattr(transfer, "PART_BYTES", PART)
    monkeypatch.setattr(transfer, "LINE_STEP", 64)
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(staging, "POLL_SECONDS", 0.01)


@pytest.fixture
def web():
    with serving(Web({"/text.jsonl": lines(40)})) as served:
        yield served


def on_disk(web, folder):
    """The files of the server, in a folder."""
    for path, content in web.files.items():
        (folder / path.strip("/")).parent.mkdir(parents=True, exist_ok=True)
        (folder / path.strip("/")).write_bytes(content)
    return folder


def same(report, other):
    return report.corpus.fingerprint == other.corpus.fingerprint


def names(found):
    return [str(path) for path, _, _ in found.files]


def test_every_kind_of_file_gives_the_corpus_of_the_disk(tmp_path, web, tokenizer):  # noqa: F811
    texts = make_texts(30, 5)
    pq.write_table(pa.table({"text": texts}), tmp_path / "rows.parquet", row_group_size=7)
    (tmp_path / "shard.00000.mds").write_bytes(encode_shard([{"text": text} for text in texts], {"text": "str"}))
    with pa.ipc.new_file(tmp_path / "rows.arrow", pa.schema([("text", pa.string())])) as writer:
        writer.write_table(pa.table({"text": texts}))
    web.files |= {
        "/y.csv.gz": gzip.compress(b"text,id\nthe sea,1\n\"was, dark\",2\n"),
        "/z/a.arrow": (tmp_path / "rows.arrow").read_bytes(), "/some text.jsonl.gz": gzip.compress(lines(30, 1)),
        "/z/rows.parquet": (tmp_path / "rows.parquet").read_bytes(),
        "/z/m/shard.00000.mds": (tmp_path / "shard.00000.mds").read_bytes(),
        "/z/m/index.json": json.dumps({"shards": [{"raw_data": {"basename": "shard.00000.mds"}}]}).encode(),
        "/z/.hidden.jsonl": b"no JSON", "/notes.txt": b"beside data", "/z/m/stray.jsonl": b"no JSON",
    }  # fmt: skip
    (tmp_path / "disk").mkdir()
    local = build_corpus(on_disk(web, tmp_path / "disk"), tmp_path / "a", tokenizer)
    fetched = build_corpus(f"{web.address}/", tmp_path / "b", tokenizer)
    assert same(fetched, local)
    place = Places(fetched.corpus).of(fetched.corpus.documents - 1)
    assert str(place) == f"{web.address}/z/m/shard.00000.mds, sample {len(texts) - 1}"
    by_name = {source.path: source for source in fetched.manifests[0].sources}
    there = by_name[f"{web.address}/text.jsonl"]
    assert there.file_bytes == len(web.files["/text.jsonl"]) and there.etag
    assert {reason: len(paths) for reason, paths in fetched.left_out.items()} == {
        reason: len(paths) for reason, paths in local.left_out.items()
    }
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_globs_and_folders_are_listed_in_the_order_of_a_disk(tmp_path, web):
    web.files |= {f"/d/{name}": b"{}" for name in ("b/2.jsonl", "a.jsonl", "b/1.jsonl", "c.jsonl", "c.csv.bak")}
    folder = [name.removeprefix(f"{web.address}/d/") for name in names(find_inputs([f"{web.address}/d/"]))]
    on_disk(web, tmp_path)
    assert folder == [str(path.relative_to(tmp_path / "d")) for path, _, _ in find_inputs([tmp_path / "d"]).files]
    assert names(find_inputs([f"{web.address}/d/*.jsonl"])) == [f"{web.address}/d/{n}.jsonl" for n in "ac"]
    twice = find_inputs([f"{web.address}/d/a.jsonl", f"{web.address}/d/*.jsonl"])
    assert len(twice.files) == 2 and sum(map(len, twice.left_out.values())) == 1


def test_descriptions_of_saved_datasets_are_no_text(web):
    web.files = {f"/s/{name}": b"{}" for name in ("data-0.arrow", "state.json", "dataset_info.json", "a.jsonl")}
    found = find_inputs([f"{web.address}/s/"])
    assert f"{web.address}/s/a.jsonl" in names(found) and not any(name.endswith(".json") for name in names(found))
    assert len(found.left_out["describes a dataset"]) == 2


@pytest.mark.parametrize("fault", ["drop", "short", 503])
def test_what_passes_is_tried_again_from_where_it_was(tmp_path, web, tokenizer, fault, capfd):  # noqa: F811
    web.faults["/text.jsonl"] = [fault] * 5
    report = build_corpus(f"{web.address}/text.jsonl", tmp_path / "b", tokenizer)
    assert same(report, build_corpus(on_disk(web, tmp_path) / "text.jsonl", tmp_path / "a", tokenizer))
    assert web.sent["/text.jsonl"] == len(web.files["/text.jsonl"]), "no part came twice"
    assert f"{web.address}/text.jsonl: " in capfd.readouterr().err


REFUSALS = [(403, "may not be read (status 403)"), (404, "no such file"), (410, "refuses (status 410)")]


@pytest.mark.parametrize(("status", "said"), REFUSALS)
def test_what_does_not_pass_is_told_at_once(tmp_path, web, tokenizer, status, said):  # noqa: F811
    web.faults["/text.jsonl"] = [status] * 50
    with pytest.raises(DataError, match="text.jsonl: ") as error:
        build_corpus(f"{web.address}/text.jsonl?{SECRET}", tmp_path / "b", tokenizer)
    assert said in str(error.value) and SECRET not in str(error.value)
    assert len(web.got("/text.jsonl")) <= transfer.PARTS_AT_ONCE
    web.faults.clear()
    assert build_corpus(f"{web.address}/text.jsonl", tmp_path / "b", tokenizer).corpus.documents


@pytest.mark.parametrize(("status", "passes"), [(408, True), (429, True), (500, True), (502, True), (400, False),
                                                (401, False), (403, False), (404, False), (410, False)])  # fmt: skip
def test_which_answers_are_tried_again(status, passes):
    error = OSError("an answer")
    error.status = status
    for seen in (error, FileNotFoundError("hides it")):
        seen.__cause__ = None if seen is error else error
        assert (retry.lasting(seen, "https://example.org/a") is None) == passes


def test_a_missing_file_is_named_before_anything_is_written(tmp_path, web, tokenizer):  # noqa: F811
    with pytest.raises(DataError, match=r"/none\.jsonl: no such file"):
        build_corpus(f"{web.address}/none.jsonl", tmp_path / "b", tokenizer)
    with pytest.raises(DataError, match="no input file there"):
        build_corpus(f"{web.address}/none/", tmp_path / "b", tokenizer)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_stays_broken_ends_the_build_and_the_rest_is_fetched_later(tmp_path, web, tokenizer):  # noqa: F811
    content = web.files["/text.jsonl"]
    full = build_corpus(on_disk(web, tmp_path) / "text.jsonl", tmp_path / "a", tokenizer)
    answers = len(content) // PART // 2
    broken = Broken(web, "/text.jsonl", answers)
    with broken, pytest.raises(DataError, match=rf"tried {retry.TRIES} times"):
        build_corpus(f"{web.address}/text.jsonl", tmp_path / "b", tokenizer)
    before = web.sent["/text.jsonl"]
    assert 0 < before < len(content)
    report = build_corpus(f"{web.address}/text.jsonl", tmp_path / "b", tokenizer)
    assert same(report, full)
    # parts that were under way beside the one that failed come again
    assert web.sent["/text.jsonl"] <= len(content) + transfer.PARTS_AT_ONCE * PART


class Broken:
    """A server that answers for some parts of a file and then no more."""

    def __init__(self, web, path, answers):
        self.web, self.path, self.answers = web, path, answers

    def __enter__(self):
        self.web.faults[self.path] = [None] * self.answers + [503] * 10_000

    def __exit__(self, *_):
        self.web.faults.clear()


def test_a_resumed_build_fetches_nothing_twice(tmp_path, web, tokenizer, monkeypatch):  # noqa: F811
    web.files |= {f"/d/{n}.jsonl": lines(30, n) for n in range(6)}
    build = [f"{web.address}/d/"], tmp_path / "b", tokenizer
    ends, original = iter(range(100)), Feeder.end_source

    def stop_at_fourth(self, *given):
        original(self, *given)
        if next(ends) == 3:
            self.settle()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Feeder, "end_source", stop_at_fourth)
        with pytest.raises(KeyboardInterrupt):
            build_corpus(*build)
    report = build_corpus(*build)
    assert report.resumed_documents
    assert web.sent == {path: len(content) for path, content in web.files.items() if path.startswith("/d/")}
    assert same(report, build_corpus(on_disk(web, tmp_path / "disk") / "d", tmp_path / "a", tokenizer))


def test_a_file_that_changes_between_two_starts_is_not_mixed(tmp_path, web, tokenizer):  # noqa: F811
    with Broken(web, "/text.jsonl", 3), pytest.raises(DataError):
        build_corpus(f"{web.address}/text.jsonl", tmp_path / "b", tokenizer)
    web.files["/text.jsonl"] = lines(40, 9)
    with pytest.raises(DataError, match="other input files"):
        build_corpus(f"{web.address}/text.jsonl", tmp_path / "b", tokenizer)
    report = build_corpus(f"{web.address}/text.jsonl", tmp_path / "b", tokenizer, BuildOptions(restart=True))
    assert same(report, build_corpus(on_disk(web, tmp_path) / "text.jsonl", tmp_path / "a", tokenizer))


def test_a_file_that_changes_while_it_is_fetched_makes_no_corpus(tmp_path, web, tokenizer):  # noqa: F811
    class Changing(dict):
        """Another text from the fourth answer on."""

        def __getitem__(self, path):
            asked = len(web.got("/text.jsonl"))
            return super().__getitem__(path).swapcase() if asked > 3 else super().__getitem__(path)

    web.files = Changing(web.files)
    with pytest.raises(DataError, match="changed while it was fetched"):
        build_corpus(f"{web.address}/text.jsonl", tmp_path / "b", tokenizer)
    assert not (tmp_path / "b.json").exists()


@pytest.mark.parametrize("kind", ["text.jsonl", "rows.parquet", "one.jsonl.gz"])
def test_shards_are_those_of_the_disk_and_fetch_what_they_need(tmp_path, web, tokenizer, kind):  # noqa: F811
    texts = make_texts(120, 5)
    pq.write_table(pa.table({"text": texts}), tmp_path / "rows.parquet", row_group_size=7)
    web.files |= {"/rows.parquet": (tmp_path / "rows.parquet").read_bytes(), "/one.jsonl.gz": gzip.compress(lines(40))}
    web.files["/text.jsonl"] = lines(60)
    size, footer = len(web.files[f"/{kind}"]), pq.read_metadata(tmp_path / "rows.parquet").serialized_size
    local = build_corpus(on_disk(web, tmp_path) / kind, tmp_path / "a", tokenizer)
    parts = []
    for index in range(3):
        report = build_corpus(f"{web.address}/{kind}", tmp_path / "b", tokenizer, BuildOptions(shard=(index, 3)))
        parts += report.prefixes
        share = {"text.jsonl": size // 3, "rows.parquet": size // 3 + 2 * footer}.get(kind, size)
        assert web.sent.pop(f"/{kind}", 0) <= share + 3 * PART
    joined = join_corpora(parts, tmp_path / "joined")
    assert joined.fingerprint == local.corpus.fingerprint


def test_the_next_file_is_fetched_while_the_present_one_is_tokenized(tmp_path, web, tokenizer, monkeypatch):  # noqa: F811
    web.files |= {f"/d/{n}.jsonl": lines(10, n) for n in range(3)}
    original, ahead = Feeder.end_source, []

    def look(self, number, *given):
        limit = time.monotonic() + 10
        while number == 0 and not (staged := list(tmp_path.glob(".b.incomplete/fetched-*[!t]"))[2:]):
            assert time.monotonic() < limit, "the second and third file are not staged while the first is at work"
            time.sleep(0.01)
        ahead.extend(staged if number == 0 else ())
        original(self, number, *given)

    monkeypatch.setattr(Feeder, "end_source", look)
    build_corpus(f"{web.address}/d/", tmp_path / "b", tokenizer)
    assert ahead


def test_staged_bytes_are_bounded(tmp_path, web, tokenizer, monkeypatch):  # noqa: F811
    web.files |= {f"/d/{n}.jsonl": lines(20, n) for n in range(6)}
    largest = max(len(content) for path, content in web.files.items() if path.startswith("/d/"))
    seen = []
    original = staging.Stager._take

    def watched(self):
        source = original(self)
        seen.append(sum(path.stat().st_size for path in tmp_path.glob(".b.incomplete/fetched-*")))
        return source

    monkeypatch.setattr(staging.Stager, "_take", watched)
    space = int(2.2 * largest)
    build_corpus(f"{web.address}/d/", tmp_path / "b", tokenizer, BuildOptions(maximum_staged_bytes=space))
    assert len(seen) >= 6 and max(seen) <= space
    seen.clear()
    build_corpus(f"{web.address}/d/", tmp_path / "c", tokenizer, BuildOptions(maximum_staged_bytes=1))
    assert sorted(tmp_path.glob("?.bin"))[0].read_bytes() == sorted(tmp_path.glob("?.bin"))[1].read_bytes()


def test_servers_without_ranges_are_read_from_front_to_back(tmp_path, web, tokenizer, capfd):  # noqa: F811
    web.ranges = False
    web.faults["/text.jsonl"] = [None] * transfer.PARTS_AT_ONCE + ["drop"]
    report = build_corpus(f"{web.address}/text.jsonl", tmp_path / "b", tokenizer)
    assert same(report, build_corpus(on_disk(web, tmp_path) / "text.jsonl", tmp_path / "a", tokenizer))


def test_a_server_that_does_not_say_the_size_is_refused(tmp_path, web, tokenizer):  # noqa: F811
    web.sizes = False
    with pytest.raises(DataError, match="does not say how large it is"):
        build_corpus(f"{web.address}/text.jsonl", tmp_path / "b", tokenizer)


def test_secrets_of_addresses_stay_out_of_messages_manifests_and_files(tmp_path, web, tokenizer, capfd, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="user or password") as error:
        find_inputs(["https://me:hunter2@example.org/text.jsonl"])
    assert "hunter2" not in str(error.value)
    with pytest.raises(ConfigError, match="write %20") as error:
        find_inputs([f"https://me:hunter2@example.org/some text.jsonl?{SECRET}"])
    assert "hunter2" not in str(error.value) and SECRET not in str(error.value)
    web.faults["/text.jsonl"] = ["drop", 503]
    address = f"{web.address}/text.jsonl?{SECRET}"
    seen = []
    monkeypatch.setattr(staging.Stager, "__exit__", lambda *_: seen.extend(tmp_path.rglob("*")))
    command = ["prepare", "--input", address, "--output-prefix", "b", "--tokenizer-model", str(tokenizer)]
    assert main(command) == 0
    printed = capfd.readouterr()
    written = b"".join(path.read_bytes() for path in {*seen, *tmp_path.rglob("*")} if path.is_file())
    assert SECRET in web.requests[0][1] and f"{web.address}/text.jsonl".encode() in written
    assert SECRET not in printed.out + printed.err and SECRET.encode() not in written
    assert all(SECRET not in path.name for path in seen)


def test_another_signature_goes_on_with_what_was_fetched(tmp_path, web, tokenizer):  # noqa: F811
    with Broken(web, "/text.jsonl", 6), pytest.raises(DataError):
        build_corpus(f"{web.address}/text.jsonl?{SECRET}", tmp_path / "b", tokenizer)
    build_corpus(f"{web.address}/text.jsonl?X-Sig=new", tmp_path / "b", tokenizer)
    assert web.sent["/text.jsonl"] <= len(web.files["/text.jsonl"]) + transfer.PARTS_AT_ONCE * PART


def test_credentials_come_from_the_netrc_file_that_the_environment_names(tmp_path, web, tokenizer, monkeypatch):  # noqa: F811
    web.user = "Basic bWU6aHVudGVyMg=="
    with pytest.raises(DataError, match="may not be read .*NETRC"):
        find_inputs([f"{web.address}/text.jsonl"])
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password hunter2\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    report = build_corpus(f"{web.address}/text.jsonl", tmp_path / "b", tokenizer)
    assert report.corpus.documents


def test_a_bad_line_is_told_by_its_address(tmp_path, web, tokenizer):  # noqa: F811
    web.files["/text.jsonl"] += b"{no JSON}\n"
    with pytest.raises(DataError, match=rf"{web.address}/text.jsonl: line \d+, byte \d+: invalid_json"):
        build_corpus(f"{web.address}/text.jsonl", tmp_path / "b", tokenizer)
    web.files |= {"/cut.jsonl.gz": gzip.compress(lines(5)), "/bad.parquet": b"PAR1 no parquet"}
    for name in ("cut.jsonl.gz", "bad.parquet"):
        web.files[f"/{name}"] = web.files[f"/{name}"][:-9]
        with pytest.raises(DataError, match=f"{web.address}/{name}"):
            build_corpus(f"{web.address}/{name}", tmp_path / name, tokenizer)


def test_a_tokenizer_is_learned_from_text_elsewhere(tmp_path, web):
    web.files["/late.jsonl"] = b"no JSON at all"
    given = ["--input", f"{web.address}/text.jsonl", f"{web.address}/late.jsonl", "--characters", "1000"]
    assert main(["tokenizer", "train", *given, "--output", str(tmp_path / "tok"), "--vocabulary", "400"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["tok"]


def test_an_adaptation_knows_its_text_elsewhere_without_asking_for_it(tmp_path, web, tokenizer):  # noqa: F811
    web.files |= {"/d/a.jsonl": lines(5)}
    options = BuildOptions()
    build_corpus(f"{web.address}/d/", tmp_path / "b", tokenizer, options)
    asked = len(web.requests)
    for item in (f"{web.address}/d/", f"{web.address}/d/*.jsonl?{SECRET}"):
        refuse_other_text(tmp_path / "b", [item], options)
    with pytest.raises(ConfigError, match=rf"was prepared without {web.address}/e; name the same text"):
        refuse_other_text(tmp_path / "b", [f"{web.address}/d/", f"{web.address}/e/"], options)
    assert len(web.requests) == asked


def test_a_missing_library_is_one_line_with_its_pip_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "s3fs" else object())
    with pytest.raises(ConfigError, match=r"s3fs is not installed.*pip install 'megatron-ettin\[s3\]'"):
        find_inputs(["s3://bucket/text.jsonl"])


class Resetting:
    """Every try meets a connection that is reset."""

    def __iter__(self):
        return self

    def __next__(self):
        raise OSError("connection reset")


def test_waits_grow_and_are_bounded(monkeypatch):
    waits = []
    stop = threading.Event()
    monkeypatch.setattr(stop, "wait", lambda delay: waits.append(delay) and False)
    monkeypatch.setattr(retry, "FIRST_DELAY", 1.0)
    with pytest.raises(DataError, match="tried"):
        retry.retried(partial(next, iter(Resetting())), "https://example.org/a", stop)
    limits = [min(2.0**n, retry.LONGEST_DELAY) for n in range(retry.TRIES - 1)]
    assert len(waits) == len(limits)
    assert all(limit / 2 <= wait <= limit for wait, limit in zip(waits, limits, strict=True))
