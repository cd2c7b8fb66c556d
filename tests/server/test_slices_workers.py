"""Slices and the machine's store: workers share them, and each is asked of the origin once."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any, Final

import pytest
from harness.pop_process import running_pop
from harness.serving import LOOK

WORKER: Final = "edgecache.server.worker:Worker"
TOKEN: Final = "a-token-that-may-purge"
SLICE: Final = 128 * 1024
CONTENT: Final = [Random(seed).randbytes(9 * SLICE + 77) for seed in range(2)]


class Films:
    """An origin of one film, by ranges; it counts what it is asked for."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.version = 0
        films = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def do_GET(self) -> None:
                content, etag = CONTENT[films.version], f'"{films.version}"'
                wanted = self.headers.get("Range", "")
                films.asked[wanted] += 1
                match = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted)
                first, end = (int(match[1]), min(int(match[2]) + 1, len(content))) if match else (0, len(content))
                self.send_response(206 if match else 200)
                fields = {"Cache-Control": "max-age=600", "ETag": etag, "Content-Length": str(end - first)}
                if match:
                    fields["Content-Range"] = f"bytes {first}-{end - 1}/{len(content)}"
                for name, value in fields.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content[first:end])

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (its name)
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(LOOK,), daemon=True).start()


@pytest.fixture
def films() -> Iterator[Films]:
    """One of its own for each test."""
    running = Films()
    yield running
    running.server.shutdown()
    running.server.server_close()


def ask(port: int, span: tuple[int, int] | None) -> tuple[bytes, str]:
    """A range, or the whole, on a connection of its own: body and Cache-Status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    fields = {} if span is None else {"Range": f"bytes={span[0]}-{span[1] - 1}"}
    connection.request("GET", "/film", headers={"Host": "site", **fields})
    response = connection.getresponse()
    answer = response.read(), response.headers.get("Cache-Status", "")
    connection.close()
    return answer


def viewed(port: int, content: bytes, seed: int) -> set[str]:
    """Many viewers at once, of wholes and of ranges, each byte compared; how they were answered."""
    chance = Random(seed)
    firsts = [chance.randrange(len(content) - 1) for _ in range(40)]
    spans = [None, None, *((first, min(len(content), first + chance.randrange(1, 2 * SLICE))) for first in firsts)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda span: ask(port, span), spans))
    for span, (body, _) in zip(spans, answers, strict=True):
        assert body == (content if span is None else content[span[0] : span[1]])
    return {re.sub(r"ttl=\d+", "ttl=", said) for _, said in answers}


@pytest.mark.slow
def test_workers_ask_for_each_slice_once(films: Films) -> None:
    """Of many viewers on two workers, and after a purge again: every slice costs the origin one request in all."""
    settings = {"store": "memory", "store_size": "64MiB", "memory": "80MiB", "workers": 2, "slice_size": "128KiB"}
    given = {"access_log": "off", "admin_token": TOKEN, "drain_grace": "1s", **settings}
    with running_pop(worker=WORKER, origin=films.url, **given) as pop:
        for _ in range(2):
            pop.expect_worker()
        cold, warm = viewed(pop.port, CONTENT[0], 1), viewed(pop.port, CONTENT[0], 2)
        first = Counter(films.asked)
        films.version = 1
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", pop.admin_port, timeout=30)) as admin:
            what = json.dumps({"urls": ["http://site/film"]})
            admin.request("POST", "/purges", what, {"Authorization": f"Bearer {TOKEN}"})
            with admin.getresponse() as answer:
                assert answer.status == 201
        viewed(pop.port, CONTENT[1], 3)

    slices = {f"bytes={number * SLICE}-{(number + 1) * SLICE - 1}" for number in range(10)}
    assert set(first) == slices
    assert max(first.values()) == 1, first
    assert films.asked == Counter(dict.fromkeys(slices, 2))
    assert any("hit" in said for said in warm), (cold, warm)
