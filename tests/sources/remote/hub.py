"""The hub's interface for datasets on a web server of this machine."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from urllib.parse import parse_qs

from tests.sources.remote.web import Web

LARGE = 200
"""Bytes from which on a file is one of git LFS, whose sha256 the hub tells."""


def offer(web: Web, name: str, files: dict[str, bytes], revision: str = "main") -> str:
    """Offer files as a commit of a dataset, under a revision; returns the commit."""
    told = json.dumps([[path, hashlib.sha1(content).hexdigest()] for path, content in sorted(files.items())])
    commit = hashlib.sha1(told.encode()).hexdigest()
    about = json.dumps({"id": name, "sha": commit, "private": False, "siblings": []}).encode()
    for asked in (revision, commit):
        web.programs[f"/api/datasets/{name}/revision/{asked}"] = lambda query: about
    if revision == "main":
        web.programs[f"/api/datasets/{name}"] = lambda query: about
    folders = {path.rpartition("/")[0] for path in files} | {""}
    folders |= {folder[:at] for folder in folders for at, letter in enumerate(folder) if letter == "/"}
    for folder in folders:
        path = f"/api/datasets/{name}/tree/{commit}" + (f"/{folder}" if folder else "")
        web.programs[path] = partial(tree, files, f"{folder}/" if folder else "")
    for path, content in files.items():
        web.files[f"/datasets/{name}/resolve/{commit}/{path}"] = content
    return commit


def tree(files: dict[str, bytes], folder: str, query: str) -> bytes:
    """What lies in a folder, or below it, as the hub lists it."""
    recursive = parse_qs(query).get("recursive", ["false"])[0].lower() == "true"
    entries = {}
    for path, content in files.items():
        below = path.removeprefix(folder)
        if not path.startswith(folder):
            continue
        for at, letter in enumerate(below):
            if letter == "/":
                sub = folder + below[:at]
                entries[sub] = {"type": "directory", "path": sub, "size": 0, "oid": "0" * 40}
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entries[path] = {"type": "file", "path": path, "size": len(content), "oid": blob}
        if len(content) >= LARGE:
            lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
            entries[path]["lfs"] = lfs
    return json.dumps([e for path, e in entries.items() if recursive or "/" not in path.removeprefix(folder)]).encode()
