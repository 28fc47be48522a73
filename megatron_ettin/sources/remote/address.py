"""Addresses of files elsewhere: which are read, what they need, and what of them may be shown."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from megatron_ettin.errors import ConfigError


class Scheme(NamedTuple):
    """How addresses of one kind are read."""

    module: str
    """The library that must be there."""
    extra: str
    """The extra of this package that brings it."""
    credentials: str
    """Where the library takes credentials from, none of which are ever given here."""


SCHEMES = {
    "hf": Scheme("huggingface_hub", "hf", "HF_TOKEN"),
    "s3": Scheme("s3fs", "s3", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (none: FSSPEC_S3_ANON=true)"),
    "gs": Scheme("gcsfs", "gs", "GOOGLE_APPLICATION_CREDENTIALS (none: FSSPEC_GS_TOKEN=anon)"),
    "https": Scheme("aiohttp", "https", "a netrc file, which NETRC names"),
    "http": Scheme("aiohttp", "https", "a netrc file, which NETRC names"),
}
INPUTS = "files, globs or folders, here or as hf://datasets/..., s3://, gs://, https://"
"""What commands take as text."""
WEB = ("https", "http")
REVISION = "refs/(?:convert|pr)/[^/]+|[^/]+"
"""Of a hub, behind ``@``: a branch, tag or commit, or one of the two kinds of references that have slashes."""
REMOTE = re.compile(rf"({'|'.join(SCHEMES)})://(?=.)", re.IGNORECASE)
ADDRESS = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<user>[^\s/?#'\"]*@)?(?P<place>[^\s?#'\"]*)(?P<query>[?#][^\s'\"]*)?",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file elsewhere, as its server describes it."""

    address: str = field(repr=False)
    """By which it is read; a signed one holds its signature, one of a hub its commit."""
    name: str
    """The address without secrets and without the commit."""
    size: int
    etag: str = ""
    """What the server calls this content: its ETag, its hash or the time of its last change; empty for none."""
    checksum: str = ""
    """``KIND:HEX`` of the content where the server gives one: md5, sha256, crc32c or git."""
    revision: str = ""
    """The commit of a hub."""
    ranges: bool = True
    """Whether the server gives parts of it."""

    def __str__(self) -> str:
        return self.name


def is_remote(item: object) -> bool:
    """Whether an input is an address of one of the schemes that are read."""
    return isinstance(item, str) and REMOTE.match(item) is not None


def scheme_of(address: str) -> str:
    """``https`` of ``https://...``."""
    return address.partition("://")[0].lower()


def redacted(text: str) -> str:
    """A text in which every address is without user, password and what follows ``?`` or ``#`` on the web.

    A signed address carries its signature there.
    """

    def shown(found: re.Match[str]) -> str:
        query = "" if found["scheme"].lower() in WEB else found["query"] or ""
        return f"{found['scheme']}://{found['place']}{query}"

    return ADDRESS.sub(shown, text)


def fixed_part(address: str) -> str:
    """What the names of all files of an address begin with: it as far as a glob, without the revision of a hub."""
    shown = re.sub(rf"^(hf://[^/]+/[^/]+/[^/@]+)@({REVISION})", r"\1", redacted(address))
    return re.split(r"[*\[]", shown)[0].rstrip("/")


def require_plain(address: str) -> None:
    """Raise ConfigError, which does not repeat them, for a user or password in an address, and for spaces in it."""
    if scheme_of(address) in WEB and re.search(r"[\s'\"]", address):
        shown = redacted(re.split(r"[\s'\"?#]", address)[0])
        raise ConfigError(f"{shown}...: has a space or a quote in it; write %20, %27 or %22")
    found = ADDRESS.match(address)
    if found and found["user"]:
        raise ConfigError(
            f"{redacted(address)}: was given with a user or password in it, which others would read in lists of "
            f"processes; leave it out, and give credentials by {SCHEMES[scheme_of(address)].credentials}"
        )
