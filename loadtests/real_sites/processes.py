"""Processes of the check: started in the background, waited for, ended by their id."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass


@dataclass
class Started:
    """One process that we started."""

    process: subprocess.Popen[bytes]

    def end(self) -> None:
        """SIGTERM, and SIGKILL after ten seconds."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def start(command: list[str], **environment: str) -> Started:
    """Start `command` with `environment` added to ours, its output thrown away."""
    quiet = subprocess.DEVNULL
    return Started(subprocess.Popen(command, env={**os.environ, **environment}, stdout=quiet, stderr=quiet))


def wait_until_served(port: int, target: str, started: Started, seconds: float = 30) -> None:
    """Return when the port answers; raises `TimeoutError`, or `RuntimeError` if the process has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if started.process.poll() is not None:
            raise RuntimeError(f"{started.process.args!r} ended with {started.process.returncode}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}{target}", timeout=5).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(f"nothing answers on port {port}")


def edgecache_before(port: int) -> tuple[Started, int, int]:
    """An edgecache in front of a port: the process, its port, and its admin port."""
    listen, admin = free_port(), free_port()
    settings = {
        "EDGECACHE_ORIGIN": f"http://127.0.0.1:{port}",
        "EDGECACHE_LISTEN": f"127.0.0.1:{listen}",
        "EDGECACHE_ADMIN_LISTEN": f"127.0.0.1:{admin}",
        "EDGECACHE_WORKERS": "1",
        "EDGECACHE_MEMORY": "1GiB",
        "EDGECACHE_ACCESS_LOG": "off",
    }
    started = start([sys.executable, "-m", "edgecache", "serve"], **settings)
    wait_until_served(admin, "/readyz", started)
    return started, listen, admin
