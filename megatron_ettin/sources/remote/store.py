"""Hubs, buckets and web servers through fsspec: what lies there, how large it is, and its bytes."""

from __future__ import annotations

import base64
import functools
import importlib.util
import os
import re
import threading
from dataclasses import replace
from typing import Any

from megatron_ettin.errors import ConfigError, DataError
from megatron_ettin.sources.remote.address import REVISION, SCHEMES, WEB, RemoteFile, redacted, scheme_of
from megatron_ettin.sources.remote.retry import ShortAnswerError, retried

CONNECT_SECONDS, SILENT_SECONDS = 30, 60
"""Longest waits for a web server: for a connection, and for more of an answer."""
FOOTER_END_BYTES = 8
"""Length and magic behind the footer of a parquet file."""
FOOTERS_KEPT = 4
"""Of files that are cut: a footer is wanted for each cut and again for the bytes of the part."""
MD5 = re.compile(r"[0-9a-f]{32}")
DIRECTORY_BUCKET = "--x-s3"
"""End of the names of those buckets of S3 whose ETags are no checksums."""
HUB_PATH = re.compile(
    rf"(?P<kind>datasets|models|spaces)/(?P<name>[^/@]+/[^/@]+)(@(?P<revision>{REVISION}))?(?P<path>/.*)?"
)


def filesystem(address: str) -> Any:  # noqa: ANN401 - of fsspec
    """The file system of an address, with credentials from the environment. Raises ConfigError without its library."""
    scheme = scheme_of(address)
    module, extra, _ = SCHEMES[scheme]
    missing = next((name for name in ("fsspec", module) if importlib.util.find_spec(name) is None), None)
    if missing:
        raise ConfigError(
            f"{redacted(address)}: {missing} is not installed, which reads {scheme}://; run: pip install "
            f"'megatron-ettin[{extra}]'"
        )
    return opened(scheme)


@functools.lru_cache
def opened(scheme: str) -> Any:  # noqa: ANN401 - of fsspec
    """One file system for all threads, which share its connections and what it knows of folders."""
    import fsspec

    if scheme == "hf":
        return fsspec.filesystem("hf", endpoint=os.environ.get("HF_ENDPOINT"))
    if scheme in WEB:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS)
        client = {"timeout": timeout, "trust_env": True, "auto_decompress": False}
        return fsspec.filesystem(scheme, client_kwargs=client, headers={"Accept-Encoding": "identity"})
    return fsspec.filesystem(scheme)


def path_of(address: str) -> str:
    """The address as its file system names it."""
    return address if scheme_of(address) in WEB else address.partition("://")[2]


def pinned(address: str) -> tuple[str, str]:
    """An address of a hub with its branch or tag resolved, and the commit; any other as it is, and none."""
    found = HUB_PATH.fullmatch(path_of(address)) if scheme_of(address) == "hf" else None
    if scheme_of(address) == "hf" and found is None:
        raise ConfigError(f"{address}: write hf://datasets/OWNER/NAME/PATH, or NAME@REVISION")
    if found is None:
        return address, ""
    filesystem(address)
    from huggingface_hub import HfApi

    api, revision = HfApi(endpoint=os.environ.get("HF_ENDPOINT")), (found["revision"] or "").replace("%2F", "/")
    kind: Any = found["kind"].removesuffix("s")
    info: Any = retried(lambda: api.repo_info(found["name"], repo_type=kind, revision=revision or None), address)
    return f"hf://{found['kind']}/{found['name']}@{info.sha}{found['path'] or ''}", str(info.sha)


def shown_name(address: str, commit: str) -> str:
    """What manifests and messages call a file: its address without secrets and without the commit."""
    return redacted(address).replace(f"@{commit}", "", 1) if commit else redacted(address)


def describe(address: str, commit: str = "", info: dict[str, Any] | None = None) -> RemoteFile:
    """A file by what a listing said of it, or by asking. Raises DataError, also for one whose size nobody says."""
    store = filesystem(address)
    found = info if info is not None else retried(lambda: dict(store.info(path_of(address))), address)
    name = shown_name(address, commit)
    if found.get("type") == "directory":
        raise DataError(f"{name}: a folder, not a file; name it with a / at its end")
    if found.get("size") is None:
        raise DataError(f"{name}: the server does not say how large it is; fetch it to a file, and name that")
    etag, checksum = _marks(address, found)
    return RemoteFile(
        address=address, name=name, size=int(found["size"]), etag=etag, checksum=checksum, revision=commit,
        ranges=bool(found.get("partial", True)),
    )  # fmt: skip


def described_again(remote: RemoteFile) -> RemoteFile:
    """The same file as its server describes it at this moment; what a commit holds never changes."""
    if remote.revision:
        return remote
    filesystem(remote.address).invalidate_cache()
    return replace(describe(remote.address), ranges=remote.ranges)


def _marks(address: str, found: dict[str, Any]) -> tuple[str, str]:
    """ETag and checksum in what a file system says of a file."""
    lfs: Any = found.get("lfs")
    if lfs:
        return lfs["sha256"], f"sha256:{lfs['sha256']}"
    if blob := found.get("blob_id"):
        return blob, f"git:{blob}"
    etag = str(found.get("ETag") or found.get("etag") or "").removeprefix("W/").strip('"')
    if md5 := found.get("md5Hash") or found.get("Content-MD5"):
        return etag or md5, f"md5:{base64.b64decode(md5).hex()}"
    if crc := found.get("crc32c"):
        return etag or crc, f"crc32c:{base64.b64decode(crc).hex()}"
    plain = scheme_of(address) == "s3" and MD5.fullmatch(etag) and DIRECTORY_BUCKET not in path_of(address)
    return etag or str(found.get("Last-Modified") or found.get("LastModified") or ""), f"md5:{etag}" if plain else ""


def etag_is_no_md5(remote: RemoteFile) -> bool:
    """Whether an object of S3 is encrypted in a way that makes its ETag something else than its md5."""
    if scheme_of(remote.address) != "s3":
        return False
    bucket, _, key = path_of(remote.address).partition("/")
    store = filesystem(remote.address)
    head = retried(lambda: dict(store.call_s3("head_object", Bucket=bucket, Key=key)), remote.address)
    return head.get("ServerSideEncryption", "AES256") != "AES256" or "SSECustomerAlgorithm" in head


def read_range(remote: RemoteFile, begin: int, end: int, stop: threading.Event | None = None) -> bytes:
    """The bytes [begin, end) of a file, asked for again as often as ``retried`` does. Raises DataError.

    Raises RangesError for a web server that gives no parts.
    """
    store, path = filesystem(remote.address), path_of(remote.address)

    def read() -> bytes:
        content: bytes
        if scheme_of(remote.address) not in (*WEB, "hf"):
            content = store.cat_file(path, start=begin, end=end)
        else:  # whose cat_file reads more than is asked for, or all
            with store.open(path, "rb", cache_type="none", size=remote.size) as stream:
                stream.seek(begin)
                try:
                    content = stream.read(end - begin)
                except ValueError as error:
                    raise RangesError(f"{remote.name}: gives no parts of a file") from error
        if len(content) != end - begin:
            raise ShortAnswerError(f"{len(content)} of {end - begin} bytes from byte {begin} on")
        return content

    return retried(read, remote.address, stop) if end > begin else b""


@functools.lru_cache(FOOTERS_KEPT)
def read_footer(remote: RemoteFile) -> bytes:
    """The end of a parquet file, which describes it. Raises DataError for a file that ends otherwise."""
    tail = read_range(remote, max(0, remote.size - FOOTER_END_BYTES), remote.size)
    length = int.from_bytes(tail[:4], "little") + FOOTER_END_BYTES
    if tail[4:] != b"PAR1" or length > remote.size:
        raise DataError(f"{remote.name}: not a readable parquet file (it has no footer); fetch it again")
    return read_range(remote, remote.size - length, remote.size)


class RangesError(DataError):
    """A web server that gives a file only as a whole."""
