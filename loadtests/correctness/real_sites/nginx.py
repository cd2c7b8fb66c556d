"""nginx with the files of /usr/share/doc, as Debian installs both."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from loadtests.correctness.real_sites.crawls import spread
from loadtests.correctness.real_sites.data import DOCS, documents
from loadtests.correctness.real_sites.site import Page, Site
from loadtests.lab.processes import Missing, Process, free_port

HOST = "docs.test"
MIME_TYPES = Path("/etc/nginx/mime.types")
CONFIGURATION = """
{user}
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    include {types};
    access_log off;
    sendfile on;
    gzip on;
    gzip_vary on;
    gzip_proxied any;
    gzip_types text/plain text/css application/javascript image/svg+xml;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        server_name {host};
        root {docs};
        autoindex on;
        location /hour/ {{
            alias {docs}/;
            expires 1h;
        }}
    }}
}}
"""
SUB_RESOURCE = re.compile(r'<(?:img|script|link rel="stylesheet")[^>]* (?:src|href)="([^"#?:]+)"', re.IGNORECASE)
TITLE = re.compile(r"<title>([^<&]{8,})</title>")
LONGEST_PAGE = 200_000
COLD_SIZES = range(3_000, 400_000)
MOST_COLD = 60
HERDS = 5


def site(folder: Path, _: Path, count: int) -> Site:
    """nginx, ready to be started with at least `count` targets."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None or not MIME_TYPES.exists():
        raise Missing("nginx is not installed (Debian: apt-get install nginx-light)")
    every = documents()
    if len(every) < 100:
        raise Missing(f"{DOCS} holds {len(every)} files, 100 are needed")
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    user = "user root;" if os.geteuid() == 0 else ""  # else its workers could not enter our temporary directory
    text = CONFIGURATION.format(folder=folder, port=port, host=HOST, docs=DOCS, types=MIME_TYPES, user=user)
    (folder / "nginx.conf").write_text(text)
    chosen = spread(every, max(1, count * 65 // 100))
    untouched = [path for path in every if path not in set(chosen) and path.stat().st_size in COLD_SIZES]
    version = subprocess.run([program, "-v"], capture_output=True, check=False).stderr.decode().strip()
    return Site(
        name="nginx",
        host=HOST,
        about=f"{version}; {len(every)} files of {DOCS}; autoindex, gzip, no Cache-Control, /hour/ with expires 1h",
        server=Process("nginx", [program, "-c", f"{folder}/nginx.conf", "-e", "stderr"], port, "/", folder, status=499),
        targets=list(targets(every, chosen, count)),
        page=page(every),
        untouched=[target(path) for path in spread(untouched, MOST_COLD)],
        herds=[target(path, "/hour/") for path in sorted(every, key=_size)[-HERDS:]],
    )


def _size(path: Path) -> int:
    return path.stat().st_size


def target(path: Path, prefix: str = "/") -> str:
    """The request target of a path below /usr/share/doc."""
    return prefix + quote(str(path.relative_to(DOCS)))


def targets(every: list[Path], chosen: list[Path], count: int) -> Iterator[str]:
    """Files, listings, directories without their slash, an hour's freshness, and what is not there."""
    yield "/"
    yield from (target(path) for path in chosen)
    folders = sorted({path.parent for path in every} - {DOCS})
    yield from (target(folder) + "/" for folder in spread(folders, max(1, count * 15 // 100)))
    yield from (target(folder) for folder in spread(folders, max(1, count * 6 // 100)))
    smaller = sorted(set(every) - set(sorted(every, key=_size)[-HERDS:]))
    yield from (target(path, "/hour/") for path in spread(smaller[1:], max(1, count * 30 // 100)))
    yield from (f"/not-there/{number}.html" for number in range(max(1, count * 3 // 100)))


def page(every: list[Path]) -> Page:
    """The HTML document with the most style sheets, scripts and images, all of them there; else the list of all."""
    best, title = "/", "Index of /"
    loads: list[str] = []
    for path in every:
        if path.suffix != ".html" or path.stat().st_size > LONGEST_PAGE:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        named = TITLE.search(text)
        parts = {(path.parent / name).resolve() for name in SUB_RESOURCE.findall(text)}
        present = [part for part in parts if part.is_file() and part.is_relative_to(DOCS)]
        if named and len(loads) < len(present) == len(parts):
            best, loads, title = target(path), [target(part) for part in present], " ".join(named[1].split())
    return Page(best, [title], sorted(loads))
