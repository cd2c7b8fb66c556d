"""What the image is: built twice from nothing and compared, its size, and how soon a container of it is ready.

make deploy-image; needs Python 3.11 and docker, nothing else.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TAGS = ("edgecache:twin-1", "edgecache:twin-2")
STARTS = 5
LOCKED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true")
ROLES = {"without a regional tier": "off", "with an embedded Valkey": "embedded"}


def main() -> int:
    """Print the facts; 1 if the two builds differ."""
    took = [_build(tag) for tag in TAGS]
    layers = [_inspect(tag)["RootFS"]["Layers"] for tag in TAGS]
    same = layers[0] == layers[1]
    whole = int(_inspect(TAGS[0])["Size"])
    own = whole - int(_inspect(_base())["Size"])
    print(f"build without a cache   {took[0]:.0f} s and {took[1]:.0f} s")
    print(f"the two builds          {'identical, layer by layer' if same else 'DIFFER'}")
    print(f"size                    {whole / 1e6:.0f} MB, {own / 1e6:.0f} MB of it beyond {_base()}")
    for words, regional in ROLES.items():
        starts = sorted(_start(regional) for _ in range(STARTS))
        print(f"start to ready          median {statistics.median(starts):.2f} s, slowest {starts[-1]:.2f} s, {words}")
    _docker("image", "rm", *TAGS)
    return 0 if same else 1


def _docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True, cwd=ROOT).stdout.strip()


def _inspect(image: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_docker("image", "inspect", image))[0]
    return found


def _base() -> str:
    line = next(one for one in (ROOT / "deploy/Dockerfile").read_text().splitlines() if one.startswith("ARG PYTHON_"))
    return line.partition("=")[2]


def _build(tag: str) -> float:
    began = time.monotonic()
    _docker("build", "-q", "--no-cache", "--network", "host", "-f", "deploy/Dockerfile", "-t", tag, ".")
    return time.monotonic() - began


def _start(regional: str) -> float:
    """Seconds from `docker run` to the first 200 of /readyz."""
    settings = {
        "EDGECACHE_ORIGIN": "http://origin.invalid",
        "EDGECACHE_ADMIN_LISTEN": "0.0.0.0:9900",
        "EDGECACHE_REGIONAL": regional,
        "EDGECACHE_WORKERS": "2",
    }
    told = [part for name, value in settings.items() for part in ("-e", f"{name}={value}")]
    began = time.monotonic()
    container = _docker("run", "-d", *LOCKED, *told, "-p", "127.0.0.1::9900", TAGS[0])
    try:
        port = _docker("port", container, "9900").rpartition(":")[2]
        while not _is_ready(f"http://127.0.0.1:{port}/readyz"):
            if time.monotonic() - began > 60:
                raise SystemExit(f"not ready within a minute: {_docker('logs', container)}")
            time.sleep(0.01)
        return time.monotonic() - began
    finally:
        _docker("rm", "-f", container)


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
