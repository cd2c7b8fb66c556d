"""`edgecache healthcheck`: readiness of the POP on this machine, as a command for orchestrators.

It runs every few seconds beside a busy POP, so it reads one setting and imports next to nothing.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Mapping
from typing import Final

from edgecache.config.sources import Source
from edgecache.semantics.errors import BAD_CONFIGURATION, ConfigError

VARIABLE: Final = "EDGECACHE_ADMIN_LISTEN"
DEFAULT_ADMIN: Final = "127.0.0.1:9900"
TIMEOUT: Final = 4.0  # seconds for each step
LONGEST: Final = 1024 * 1024  # bytes of an answer
ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # wildcard address → address to connect to


def run(path: str, environ: Mapping[str, str]) -> int:
    """Print the state of the POP of this environment and of the configuration file at `path`; the exit code."""
    try:
        host, port = admin_address(Source(environ, path).read(secrets=()))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return BAD_CONFIGURATION
    ready, words = ask(host, port)
    print(words)
    return 0 if ready else 1


def admin_address(environ: Mapping[str, str]) -> tuple[str, int]:
    """Address of the admin listener; raises ConfigError."""
    text = environ.get(VARIABLE, "").strip() or DEFAULT_ADMIN
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isdecimal() and int(port) < 65536):
        raise ConfigError(VARIABLE, f"{json.dumps(text[:80])} is not host:port")
    host = host.removeprefix("[").removesuffix("]")
    return ANY.get(host, host), int(port)


def ask(host: str, port: int) -> tuple[bool, str]:
    """Whether `/readyz` on the admin listener says ready, and its state in words."""
    host_field = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    request = f"GET /readyz HTTP/1.0\r\nHost: {host_field}\r\nConnection: close\r\n\r\n"
    try:
        head, _, body = _exchange(host, port, request.encode()).partition(b"\r\n\r\n")
        ready = head.split(maxsplit=2)[1] == b"200"
        return ready, str(json.loads(body)["state"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        problem = str(error) if isinstance(error, OSError) and str(error) else "it does not speak as a POP does"
        return False, f"{host_field} does not tell: {problem}"


def _exchange(host: str, port: int, request: bytes) -> bytes:
    """The complete response to `request`."""
    answer = b""
    with socket.create_connection((host, port), TIMEOUT) as connection:
        connection.sendall(request)
        while len(answer) < LONGEST and (more := connection.recv(65536)):
            answer += more
    return answer
