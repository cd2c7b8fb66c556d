"""Compression of large bodies in a real process: the memory that it has resident stays within its budget."""

from __future__ import annotations

import base64
import random
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from harness.pop_process import RunningPop, running_pop

MIB = 1024 * 1024
LARGE = 10 * MIB - 64  # the most that is compressed is 10 MiB
BUDGET = 96 * MIB
OBJECTS, CLIENTS, ROUNDS = 40, 4, 2
MOST = 1.5  # times the budget, above what an idle worker has: what the allocator keeps is not counted
BODY = base64.b64encode(random.Random(3).randbytes(8 * MIB))[:LARGE]
SITES = """
[[sites]]
name = "a"
hosts = ["a.test"]
origin = "{origin}"
[[sites.rules]]
name = "coded"
compress = {{ codings = {codings} }}
"""


class Handler(BaseHTTPRequestHandler):
    """Answers with 10 MiB of text: with their length below /whole/, else in chunks."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """One of many texts."""
        body = memoryview(self.path.encode() + BODY)
        is_whole = self.path.startswith("/whole/")
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Cache-Control", "max-age=600")
        self.send_header(*(("Content-Length", str(len(body))) if is_whole else ("Transfer-Encoding", "chunked")))
        self.end_headers()
        for at in range(0, len(body), 256 * 1024):
            piece = body[at : at + 256 * 1024]
            self.wfile.write(piece if is_whole else b"%x\r\n%b\r\n" % (len(piece), piece))
        if not is_whole:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def texts() -> Iterator[str]:
    """The URL of an origin of large texts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def resident(pid: int, name: str) -> int:
    """Bytes that a process has resident now (VmRSS), or had at most (VmHWM)."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


def read(pop: RunningPop, target: str) -> bool:
    """Read one object as a client that accepts all codings; whether it came coded."""
    connection = HTTPConnection("127.0.0.1", pop.port, timeout=60)
    connection.request("GET", target, headers={"Host": "a.test", "Accept-Encoding": "gzip, zstd, br"})
    answer = connection.getresponse()
    size = 0
    while piece := answer.read(65536):
        size += len(piece)
    assert answer.status == 200
    assert size > LARGE // 2
    connection.close()
    return answer.getheader("Content-Encoding") is not None


@pytest.mark.slow
@pytest.mark.parametrize("codings", ['["br"]', '["zstd", "gzip", "br"]'])
@pytest.mark.parametrize("kind", ["whole", "streamed"])
def test_large_texts_are_compressed_within_the_budget(kind: str, codings: str) -> None:
    """Four times as many bytes as the budget has, read by several clients, and read again as they are compressed."""
    with (
        texts() as origin,
        running_pop(
            worker="edgecache.server.worker:Worker",
            memory=f"{BUDGET // MIB}MiB",
            max_object_memory="16MiB",
            sites=SITES.format(origin=origin, codings=codings),
            access_log="off",
        ) as pop,
    ):
        pid = pop.expect_worker()
        idle = resident(pid, "VmRSS")
        targets = [f"/{kind}/{number}" for number in range(OBJECTS) for _ in range(ROUNDS)]
        with ThreadPoolExecutor(CLIENTS) as clients:
            coded = sum(clients.map(lambda target: read(pop, target), targets))
        grown = resident(pid, "VmHWM") - idle
        made = re.findall(r'edgecache_compressions_total\{.*outcome="made".*\} (\d+)', pop.admin("/metrics")[1])
        assert sum(map(int, made)) > 0 or coded > 0
        assert grown <= MOST * BUDGET, f"{grown / BUDGET:.2f} of the budget"
