"""Text in buckets becomes the corpus that the same files on the disk give."""

import base64
import hashlib
import io
import sys
from pathlib import PurePosixPath

import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from megatron_ettin import _native
from megatron_ettin.corpus.build import build_corpus
from megatron_ettin.errors import DataError
from megatron_ettin.sources.files import find_inputs
from megatron_ettin.sources.remote import retry, store, transfer
from tests.corpus.conftest import tokenizer  # noqa: F401 - a fixture
from tests.sources.remote.test_web import lines, names, on_disk, same
from tests.sources.remote.web import Web, serving

FILES = {"/bucket/d/b/2.jsonl": lines(20, 2), "/bucket/d/a.jsonl": lines(20, 1), "/bucket/d/.x.jsonl": b"",
         "/bucket/d/notes.md": b"beside data"}  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Small parts and short waits."""
    monkeypatch.setattr(transfer, "PART_BYTES", 1000)
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.001)


@pytest.fixture
def bucket(monkeypatch):
    """A stand-in for gs:// with the same interface as gcsfs, in memory, with the checksums that it gives."""
    class Bucket(MemoryFileSystem):
        protocol = "gs"
        store, pseudo_dirs, crc_only = {}, [""], False

        def info(self, path, **given):
            found = super().info(path, **given)
            if found["type"] == "file":
                content = self.store[found["name"]].getvalue()
                if not self.crc_only:
                    found["md5Hash"] = base64.b64encode(hashlib.md5(content).digest()).decode()
                found["crc32c"] = base64.b64encode(_native.crc32c(content, 0).to_bytes(4, "big")).decode()
                found["etag"] = "a name for the content"
            return found

        def find(self, path, detail=False, **given):
            return {name.removeprefix("/"): self.info(name) for name in super().find(path)}

        def glob(self, path, detail=False, **given):
            return {name: info for name, info in self.find("bucket").items() if PurePosixPath(name).match(path)}

    for path, content in FILES.items():
        Bucket.store[path] = MemoryFile(None, path, content)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: io)
    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "gs", Bucket)
    Bucket.clear_instance_cache()
    store.opened.cache_clear()
    return Bucket


def test_a_bucket_gives_the_corpus_of_the_disk(tmp_path, bucket, tokenizer):  # noqa: F811
    local = build_corpus(on_disk(Web(FILES), tmp_path) / "bucket", tmp_path / "a", tokenizer)
    fetched = build_corpus("gs://bucket/d", tmp_path / "b", tokenizer)
    assert same(fetched, local)
    assert [source.path for source in fetched.manifests[0].sources] == ["gs://bucket/d/a.jsonl", "gs://bucket/d/b/2.jsonl"]
    assert [source.etag for source in fetched.manifests[0].sources] == ["a name for the content"] * 2
    assert names(find_inputs(["gs://bucket/d/*.jsonl"])) == ["gs://bucket/d/a.jsonl"]
    assert names(find_inputs(["gs://bucket/d/?.jsonl"])) == ["gs://bucket/d/a.jsonl"]
    bucket.store["/bucket/.cache/x.jsonl"] = MemoryFile(None, "/bucket/.cache/x.jsonl", b"{}")
    assert names(find_inputs(["gs://bucket/.cache"])) == ["gs://bucket/.cache/x.jsonl"], "hidden, but named"


@pytest.mark.parametrize("crc_only", [False, True])
def test_bytes_that_are_not_those_of_the_checksum_are_fetched_again_and_then_refused(
    tmp_path, bucket, tokenizer, monkeypatch, crc_only  # noqa: F811
):
    original, bad = bucket.cat_file, iter([True, False])
    bucket.crc_only = crc_only

    def flipped(self, path, start=None, end=None, **given):
        content = original(self, path, start, end, **given)
        return content.swapcase() if start == 0 and next(bad) else content

    monkeypatch.setattr(bucket, "cat_file", flipped)
    report = build_corpus("gs://bucket/d/a.jsonl", tmp_path / "b", tokenizer)
    bad = iter([True] * 9)
    with pytest.raises(DataError, match=r"gs://bucket/d/a.jsonl: its bytes have the (md5|crc32c) \w+, and the server"):
        build_corpus("gs://bucket/d/a.jsonl", tmp_path / "c", tokenizer)
    on_disk(Web(FILES), tmp_path)
    assert same(report, build_corpus(tmp_path / "bucket/d/a.jsonl", tmp_path / "a", tokenizer))
    assert not (tmp_path / "c.json").exists()


S3_KEYS = {"AWS_ACCESS_KEY_ID": "key-of-the-test", "AWS_SECRET_ACCESS_KEY": "secret-of-the-test"}


@pytest.fixture
def broken_s3(monkeypatch):
    """As much of S3 as reading one object takes, with all that may go wrong on the way."""
    s3fs = pytest.importorskip("s3fs")
    with serving(Web({"/bucket/text.jsonl": lines(40)})) as web:
        for name, value in {**S3_KEYS, "AWS_ENDPOINT_URL": web.address, "AWS_DEFAULT_REGION": "us-east-1"}.items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        store.opened.cache_clear()
        yield web


@pytest.mark.parametrize("fault", ["drop", "short", 503])
def test_what_passes_at_s3_is_tried_again(tmp_path, broken_s3, tokenizer, fault):  # noqa: F811
    web = broken_s3
    web.faults["/bucket/text.jsonl"] = [fault] * 5
    report = build_corpus("s3://bucket/text.jsonl", tmp_path / "b", tokenizer)
    assert same(report, build_corpus(on_disk(web, tmp_path) / "bucket/text.jsonl", tmp_path / "a", tokenizer))
    assert web.sent["/bucket/text.jsonl"] == len(web.files["/bucket/text.jsonl"]), "no part came twice"


def test_a_bucket_that_refuses_is_told(tmp_path, broken_s3, tokenizer):  # noqa: F811
    broken_s3.faults["/bucket/text.jsonl"] = [403] * 99
    with pytest.raises(DataError, match=r"s3://bucket/text.jsonl: may not be read.*AWS_ACCESS_KEY_ID") as error:
        build_corpus("s3://bucket/text.jsonl", tmp_path / "b", tokenizer)
    assert not any(secret in str(error.value) for secret in S3_KEYS.values())


@pytest.fixture
def s3(monkeypatch):
    """moto's server of S3 with the files in it."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    for name, value in S3_KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    import boto3
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    store.opened.cache_clear()
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    for path, content in FILES.items():
        client.put_object(Bucket="bucket", Key=path.removeprefix("/bucket/"), Body=content)
    yield client
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()
    store.opened.cache_clear()


def test_s3_gives_the_corpus_of_the_disk(tmp_path, s3, tokenizer, capfd):  # noqa: F811
    local = build_corpus(on_disk(Web(FILES), tmp_path) / "bucket", tmp_path / "a", tokenizer)
    for item in ("s3://bucket/d", "s3://bucket/d/", "s3://bucket/d/**/*.jsonl"):
        assert names(find_inputs([item])) == ["s3://bucket/d/a.jsonl", "s3://bucket/d/b/2.jsonl"], item
    fetched = build_corpus("s3://bucket/d", tmp_path / "b", tokenizer)
    assert same(fetched, local)
    first = fetched.manifests[0].sources[0]
    assert (first.path, first.etag) == ("s3://bucket/d/a.jsonl", hashlib.md5(FILES["/bucket/d/a.jsonl"]).hexdigest())
    printed = "".join(capfd.readouterr())
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("b*") if path.is_file())
    assert not any(secret in printed or secret.encode() in written for secret in S3_KEYS.values())


def test_s3_refusals_are_told(s3, tmp_path, tokenizer, monkeypatch):  # noqa: F811
    for address in ("s3://bucket/none.jsonl", "s3://nobody/text.jsonl"):
        with pytest.raises(DataError, match=f"{address}: no such file or folder"):
            find_inputs([address])
    import s3fs

    for name in S3_KEYS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    store.opened.cache_clear()
    with pytest.raises(DataError, match="may not be read.*AWS_ACCESS_KEY_ID"):
        find_inputs(["s3://bucket/d/a.jsonl"])


def test_etags_of_s3_that_are_no_md5_do_not_refuse_a_file(s3, tmp_path, tokenizer):  # noqa: F811
    upload = s3.create_multipart_upload(Bucket="bucket", Key="parts.jsonl")["UploadId"]
    content = lines(20)
    part = s3.upload_part(Bucket="bucket", Key="parts.jsonl", UploadId=upload, PartNumber=1, Body=content)
    parts = {"Parts": [{"ETag": part["ETag"], "PartNumber": 1}]}
    s3.complete_multipart_upload(Bucket="bucket", Key="parts.jsonl", UploadId=upload, MultipartUpload=parts)
    assert "-1" in store.describe("s3://bucket/parts.jsonl").etag
    report = build_corpus("s3://bucket/parts.jsonl", tmp_path / "b", tokenizer)
    (tmp_path / "text.jsonl").write_bytes(content)
    assert same(report, build_corpus(tmp_path / "text.jsonl", tmp_path / "a", tokenizer))
