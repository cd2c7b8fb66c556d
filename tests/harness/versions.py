"""Origins whose page says its version: in a thread for POPs in processes, and as replies of an origin double."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from harness.origin import ReceivedRequest, Reply
from harness.serving import LOOK

DEADLINE = 20.0
FRESH = ("Cache-Control", "max-age=60")


class VersionedOrigin(ThreadingHTTPServer):
    """Its one page says its version. A PUT waits for leave before it changes it, and before it is answered."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.version = 1
        self.arrived, self.may_change, self.changed, self.may_answer = (threading.Event() for _ in range(4))

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """One connection of a POP."""

    protocol_version = "HTTP/1.1"
    server: VersionedOrigin

    def do_GET(self) -> None:
        """The page, or 304."""
        etag = f'"{self.server.version}"'
        fresh = self.headers.get("If-None-Match") == etag
        self._answer(304 if fresh else 200, b"" if fresh else b"v%d" % self.server.version, etag)

    def do_PUT(self) -> None:
        """A new version, in its time."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.arrived.set()
        self.server.may_change.wait(DEADLINE)
        self.server.version += 1
        self.server.changed.set()
        self.server.may_answer.wait(DEADLINE)
        self._answer(200, b"written", '"x"')

    def _answer(self, status: int, content: bytes, etag: str) -> None:
        try:
            self.send_response(status)
            self.send_header("Cache-Control", "max-age=600")
            self.send_header("ETag", etag)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            pass

    def log_message(self, *words: Any) -> None:
        """Say nothing."""


@contextmanager
def running_versions() -> Iterator[VersionedOrigin]:
    """The origin, in a thread of its own."""
    with VersionedOrigin() as server:
        thread = threading.Thread(target=server.serve_forever, args=(LOOK,), daemon=True)
        thread.start()
        yield server
        for event in (server.may_change, server.may_answer):
            event.set()
        server.shutdown()
        thread.join()


class VersionedPage:
    """A page that says its version."""

    version = 1

    def reply(self, request: ReceivedRequest) -> Reply:
        """The page, or that it has not changed."""
        etag = f'"{self.version}"'
        if request.get("If-None-Match") == etag:
            return Reply(304, fields=[FRESH, ("ETag", etag)])
        return Reply(fields=[FRESH, ("ETag", etag)], body=b"v%d" % self.version)


def ask(port: int, method: str, target: str, body: bytes = b"", **fields: str) -> tuple[int, bytes]:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, target, body, {"Host": "site", **fields})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
