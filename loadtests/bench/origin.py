"""The origin of the benchmark: nginx with fixed answers on the load's core, or a tiny server of our own."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from loadtests.bench.heads import ETAG
from loadtests.bench.processes import LOAD_CORE, probe, server
from loadtests.lab.processes import free_port

BODY = ("<p>The quick brown fox jumps over the lazy dog, as it did on every page before.</p>\n" * 16)[:1024]
BIG_BYTES = 10 * 1024 * 1024
MEDIUM_BYTES = 100 * 1024
LAST_MODIFIED = "Wed, 13 Mar 2024 16:21:14 GMT"

NGINX = """\
daemon off; user root; worker_processes 1; pid {directory}/pid; error_log {directory}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; tcp_nopush on; default_type text/html;
  keepalive_timeout 600s; keepalive_requests 1000000000;
  client_body_temp_path {directory}/t1; proxy_temp_path {directory}/t2; fastcgi_temp_path {directory}/t3;
  uwsgi_temp_path {directory}/t4; scgi_temp_path {directory}/t5;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location /o/ {{
      add_header Cache-Control max-age=3600; add_header ETag '{etag}';
      add_header Last-Modified "{last_modified}"; return 200 "{body}";
    }}
    location /p/ {{ add_header Cache-Control no-store; return 200 "{body}"; }}
    location = /medium {{
      root {directory}; default_type application/octet-stream; add_header Cache-Control max-age=3600;
    }}
    location = /big {{
      root {directory}; default_type application/octet-stream; add_header Cache-Control max-age=3600;
    }}
    location = /count {{ stub_status; }}
    location = /ready {{ add_header Cache-Control no-store; return 200 "ready"; }}
  }}
}}
"""


class Origin:
    """The origin while it runs; it counts what it is asked."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._own = 0

    def asked(self) -> int:
        """How many requests it has answered so far, leaving out this question itself."""
        self._own += 1
        words = probe(self.port, "GET", "/count").body.split()
        return int(words[words.index(b"requests") + 3]) - self._own


@contextlib.contextmanager
def origin(directory: Path) -> Iterator[Origin]:
    """Start the origin on the load's core."""
    directory.mkdir(parents=True)
    port = free_port()
    (directory / "big").write_bytes(os.urandom(BIG_BYTES // 64) * 64)
    (directory / "medium").write_bytes(os.urandom(MEDIUM_BYTES))
    if shutil.which("nginx"):
        config = directory / "nginx.conf"
        config.write_text(
            NGINX.format(directory=directory, port=port, etag=ETAG, last_modified=LAST_MODIFIED, body=BODY)
        )
        argv = ["nginx", "-p", str(directory), "-c", str(config)]
    else:
        program = Path(__file__).with_name("tiny_origin.py")
        argv = [sys.executable, str(program), str(port), str(directory / "big")]
    with server(argv, port, directory, core=LOAD_CORE):
        yield Origin(port)
