"""A Next.js site, built and served by Next.js itself: pages that are revalidated, one for users, an image, drafts."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import zlib
from pathlib import Path
from typing import NamedTuple

from loadtests.correctness.real_sites.environment import node_packages
from loadtests.lab.processes import Missing, Process, last_line

HOST = "app.example.org"
APP = Path(__file__).parent / "next_app"
PACKAGES = ("next@16", "react@19", "react-dom@19")
POSTS = 40
BUILD_SECONDS = 300


class NextSite(NamedTuple):
    """A site that can be started, and what there is to ask for."""

    about: str
    server: Process
    targets: list[str]


def site(folder: Path, environments: Path, port: int) -> NextSite:
    """A built site that listens on `port`."""
    root, news = environments / "nextjs", folder / "news"
    node = node_packages(root, *PACKAGES)
    shutil.copytree(APP, root, dirs_exist_ok=True)
    news.mkdir(parents=True, exist_ok=True)
    (root / "public").mkdir(exist_ok=True)
    (root / "public" / "picture.png").write_bytes(picture(640, 400))
    program = str(root / "node_modules" / "next" / "dist" / "bin" / "next")
    environment = {"NEXT_TELEMETRY_DISABLED": "1", "NEWS_FOLDER": str(news), "NODE_ENV": "production"}
    _build([node, program, "build"], root, environment)
    serve = [node, program, "start", str(root), "-H", "127.0.0.1", "-p", str(port)]
    server = Process("next", serve, port, "/posts/post-0", folder, environment, status=499)
    version = json.loads((root / "node_modules" / "next" / "package.json").read_text())["version"]
    return NextSite(f"Next.js {version}, {POSTS} posts", server, [f"/posts/post-{number}" for number in range(POSTS)])


def _build(command: list[str], root: Path, environment: dict[str, str]) -> None:
    shutil.rmtree(root / ".next", ignore_errors=True)  # what an earlier site has revalidated lies there too
    try:
        done = subprocess.run(
            command,
            cwd=root,
            env={**os.environ, **environment},
            capture_output=True,
            check=False,
            timeout=BUILD_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise Missing(f"Next.js did not build its site in {BUILD_SECONDS} s") from error
    if done.returncode:
        raise Missing(f"Next.js cannot build its site: {last_line(done.stderr) or last_line(done.stdout)}")


def picture(width: int, height: int) -> bytes:
    """A PNG."""
    rows = (b"\0" + bytes(value % 256 for x in range(width) for value in (x, y, x * y)) for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
