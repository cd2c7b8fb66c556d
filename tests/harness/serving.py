"""`edgecache serve` before an origin of one page: the state of its regional tier, and starts that are refused."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from harness.pop_process import DEADLINE, RunningPop

REAL = "edgecache.server.worker:Worker"
LOOK = 0.01  # seconds between looks of a server whether it should end; half a second by default


class Page(BaseHTTPRequestHandler):
    """An origin of one page, fresh for a minute."""

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(200)
        self.send_header("Cache-Control", "max-age=60")
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def running_page() -> Iterator[str]:
    """The URL of an origin that other processes can ask."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        serving = threading.Thread(target=server.serve_forever, args=(LOOK,))
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


def regional_state(pop: RunningPop, wanted: str) -> str:
    """What readiness says of the tier, once it says what is wanted or time is up."""
    until = time.monotonic() + DEADLINE
    while (state := json.loads(pop.admin("/readyz")[1])["parts"]["regional"]) != wanted and time.monotonic() < until:
        pass
    return str(state)


def get(port: int, target: str) -> tuple[int, str]:
    """Status and Cache-Status of a page."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)) as connection:
        connection.request("GET", target, headers={"Host": "site"})
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.getheader("Cache-Status", "")


def socket_of(worker: int) -> Path:
    """The socket of the embedded server that a worker uses."""
    environ = Path(f"/proc/{worker}/environ").read_bytes().split(b"\0")
    url = next(line for line in environ if line.startswith(b"EDGECACHE_REGIONAL=")).decode()
    return Path(url.partition("valkey+unix://")[2])


def refusal(**settings: str) -> tuple[int, str]:
    """Exit code and standard error of a start that ends by itself."""
    environ = {"PATH": os.environ["PATH"], "EDGECACHE_LISTEN": "127.0.0.1:0", "EDGECACHE_ADMIN_LISTEN": "127.0.0.1:0"}
    environ |= {f"EDGECACHE_{name.upper()}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "edgecache", "serve", "--demo"]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=DEADLINE, check=False)
    return ended.returncode, ended.stderr
