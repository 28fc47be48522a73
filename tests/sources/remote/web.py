"""A web server of this machine that goes wrong in the ways that networks and servers do."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

Fault = str | int
"""drop: the connection breaks in the middle of the body; short: the body is shorter than asked for, and says so; a
number: the status of the answer."""


@dataclass
class Web:
    """What it offers, what goes wrong, and what it was asked."""

    files: dict[str, bytes]
    """By path: ``/text.jsonl``."""
    programs: dict[str, Callable[[str], bytes]] = field(default_factory=dict)
    """By path: what makes an answer from the query."""
    authorizations: set[str] = field(default_factory=set)
    """The Authorization headers of the requests for datasets, the paths of those without one."""
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    """By path: what happens to the next answers that have a body, one after the other."""
    ranges: bool = True
    etags: bool = True
    sizes: bool = True
    user: str = ""
    """The Authorization header that is wanted."""
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path with query, and range of each request."""
    sent: dict[str, int] = field(default_factory=dict)
    """Bytes of bodies sent, by path."""
    address: str = ""

    def got(self, path: str) -> list[str]:
        """The ranges of the GET requests for a path."""
        return [span for method, asked, span in self.requests if method == "GET" and asked.partition("?")[0] == path]


@contextlib.contextmanager
def serving(web: Web) -> Iterator[Web]:
    """Serve it on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def log_message(self, *_: object) -> None: ...

        def answer(self, with_body: bool) -> None:
            path = unquote(self.path.partition("?")[0])
            span = self.headers.get("Range", "")
            web.requests.append((self.command, self.path, span))
            if "/datasets/" in path:
                web.authorizations.add(self.headers.get("Authorization", self.path))
            fault = web.faults[path].pop(0) if with_body and web.faults.get(path) else None
            if web.user and self.headers.get("Authorization") != web.user:
                return self.tell(401, b"")
            if isinstance(fault, int):
                return self.tell(fault, b"an answer of the server")
            if path in web.programs:
                return self.tell(200, web.programs[path](self.path.partition("?")[2]))
            if path.endswith("/"):
                return self.tell(200, self.index(path).encode(), {"Content-Type": "text/html"})
            if path not in web.files and any(name.startswith(f"{path}/") for name in web.files):
                return self.tell(301, b"", {"Location": f"{self.path}/"})
            if path not in web.files:
                return self.tell(404, b"")
            content = web.files[path]
            headers = {"ETag": f'"{hashlib.md5(content).hexdigest()}"'} if web.etags else {}
            if not web.sizes:
                return self.stream(content if with_body else b"", headers)
            status = 200
            if web.ranges and (found := re.fullmatch(r"bytes=(\d+)-(\d+)", span)):
                first, last = int(found[1]), min(int(found[2]), len(content) - 1)
                headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
                content, status = content[first : last + 1], 206
            if not with_body:
                return self.tell(status, b"", headers, len(content))
            if fault == "short":
                return self.tell(status, content[: len(content) // 2], headers)
            if fault == "drop":
                self.tell(status, content[: len(content) // 2], headers, len(content))
                self.close_connection = True
                return None
            web.sent[path] = web.sent.get(path, 0) + len(content)
            return self.tell(status, content, headers)

        def index(self, folder: str) -> str:
            below = {name.removeprefix(folder) for name in web.files if name.startswith(folder)}
            names = {name.partition("/")[0] + "/" * ("/" in name) for name in below}
            links = "".join(f'<a href="{name}">{name}</a>\n' for name in sorted(names))
            return f'<html><a href="?C=N;O=D">by name</a><a href="../">up</a>{links}</html>'

        def stream(self, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(200)
            for name, value in {**headers, "Connection": "close"}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def tell(
            self, status: int, content: bytes, headers: dict[str, str] | None = None, length: int | None = None
        ) -> None:
            self.send_response(status)
            for name, value in {**(headers or {}), "Content-Length": str(length or len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    web.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
