"""A stand-in for the hub's HTTP interface, on this machine: models as folders, revisions, a private and a gated one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TOKEN = "hf_of-the-test"


@dataclass
class Hub:
    """What it offers, and what it was asked."""

    models: dict[str, dict[str, Path]]
    """OWNER/NAME -> revision -> folder."""
    private: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and the Authorization header of each request."""
    address: str = ""

    def commit(self, name: str, revision: str) -> str:
        """The commit of a revision, which may itself be a commit; empty for none."""
        commits = {known: hashlib.sha1(f"{name} {known}".encode()).hexdigest() for known in self.models[name]}
        return commits.get(revision, revision if revision in commits.values() else "")

    def folder(self, name: str, commit: str) -> Path:
        """The files of a commit."""
        return next(path for known, path in self.models[name].items() if self.commit(name, known) == commit)


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve it on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def log_message(self, *_: object) -> None: ...

        def answer(self, with_body: bool) -> None:
            path = self.path.partition("?")[0]
            hub.requests.append((self.command, path, self.headers.get("Authorization", "")))
            words = path.strip("/").split("/")
            api = words[:2] == ["api", "models"]
            owner, repository, kind, revision, *rest = [*(words[2:] if api else words), *[""] * 5][:5] + words[
                (7 if api else 5) :
            ]
            name = f"{owner}/{repository}"
            if name not in hub.models or (name in hub.private and TOKEN not in self.headers.get("Authorization", "")):
                return self.refuse(401 if name in hub.private else 404, "RepoNotFound")
            commit = hub.commit(name, revision or "main")
            if not commit:
                return self.refuse(404, "RevisionNotFound")
            if api:
                return self.tell(name, commit, kind)
            file = hub.folder(name, commit).joinpath(*[part for part in rest if part])
            if name in hub.gated:
                return self.refuse(403, "GatedRepo")
            if not file.is_file():
                return self.refuse(404, "EntryNotFound")
            content = file.read_bytes()
            etag = hashlib.sha256(content).hexdigest()
            return self.send(200, content if with_body else b"", len(content), {"X-Repo-Commit": commit, "ETag": etag})

        def tell(self, name: str, commit: str, kind: str) -> None:
            files = sorted(path.name for path in hub.folder(name, commit).iterdir() if path.is_file())
            if kind == "tree":
                sizes = [(file, (hub.folder(name, commit) / file).stat().st_size) for file in files]
                found: object = [{"type": "file", "path": file, "size": size, "oid": "0" * 40} for file, size in sizes]
            else:
                found = {"id": name, "sha": commit, "private": False, "siblings": [{"rfilename": f} for f in files]}
            content = json.dumps(found).encode()
            self.send(200, content, len(content), {"Content-Type": "application/json"})

        def refuse(self, status: int, code: str) -> None:
            self.send(status, b"", 0, {"X-Error-Code": code, "X-Error-Message": code})

        def send(self, status: int, content: bytes, length: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(length)}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
