"""The services: nginx with the files of /usr/share/doc, and Datasette with a database made of them."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from loadtests.real_sites.processes import Started, free_port, start, wait_until_served

DOCS = Path("/usr/share/doc")
NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.err;
events {{ worker_connections 512; }}
http {{
  include /etc/nginx/mime.types; access_log off; sendfile on; keepalive_timeout 65;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{
    listen 127.0.0.1:{port}; root /usr/share; autoindex on; absolute_redirect off;
    location /doc/lib {{ expires 1h; }}
  }}
}}
"""


class Missing(Exception):
    """A service cannot be had on this machine; the text says what is missing."""


@dataclass
class Service:
    """A running service: where it is, the targets to ask for, and what its pages must hold in a browser."""

    name: str
    port: int
    targets: list[str]
    page: str
    expected: str
    process: Started


def nginx_docs(folder: Path, count: int) -> Service:
    """nginx in front of /usr/share/doc: files, listings of folders, redirects and absent files."""
    if not Path("/usr/sbin/nginx").exists():
        raise Missing("nginx is not installed (Debian: nginx-light)")
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, port=port))
    process = start(["/usr/sbin/nginx", "-c", str(config), "-e", f"{folder}/nginx.err"])
    wait_until_served(port, "/doc/", process)
    return Service("nginx, /usr/share/doc", port, doc_targets(count), "/doc/", "Index of /doc/", process)


def doc_targets(count: int) -> list[str]:
    """`count` targets under /doc: mostly files, every folder on the way, some redirects, some absent ones."""
    files = sorted(path for path in DOCS.rglob("*") if path.is_file() and os.access(path, os.R_OK))
    chosen = random.Random(1).sample(files, min(len(files), count))
    targets = ["/doc" + quoted(path) for path in chosen]
    folders = sorted({path.parent for path in chosen})[: count // 8]
    targets += ["/doc" + quoted(folder).rstrip("/") + "/" for folder in folders]
    targets += ["/doc" + quoted(folder) for folder in folders[: count // 40] if folder != DOCS]
    return targets + [f"/doc/absent-{number}" for number in range(count // 40)]


def quoted(path: Path) -> str:
    """The path below /usr/share/doc as it stands in a target."""
    from urllib.parse import quote

    relative = str(path.relative_to(DOCS))
    return "/" + ("" if relative == "." else quote(relative))


def datasette(folder: Path, count: int) -> Service:
    """Datasette, in a virtual environment of its own, with the list of the files of /usr/share/doc."""
    python = venv_with(folder, "datasette")
    database = folder / "docs.db"
    rows = fill(database)
    port = free_port()
    command = [str(python), "-m", "datasette", "serve", str(database), "-h", "127.0.0.1", "-p", str(port)]
    process = start([*command, "--setting", "default_cache_ttl", "300"])
    wait_until_served(port, "/", process)
    return Service("Datasette", port, table_targets(count, rows), "/docs/files", "files", process)


def venv_with(folder: Path, package: str) -> Path:
    """The Python of a new virtual environment that has `package`; raises `Missing`."""
    environment = folder / f"venv-{package}"
    python = environment / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    done = subprocess.run(
        [str(python), "-m", "pip", "install", "-q", package, "setuptools<81"], capture_output=True, check=False
    )
    if done.returncode:
        raise Missing(f"{package} cannot be installed: {done.stderr.decode().strip().splitlines()[-1:]}")
    return python


def fill(database: Path) -> int:
    """A table of files with their sizes; the number of rows."""
    rows = []
    for number, path in enumerate(sorted(Path("/usr/share").rglob("*"))):
        if path.is_file() and not path.is_symlink() and len(rows) < 20_000:
            rows.append((number, path.parts[3], str(path), path.stat().st_size))
    connection = sqlite3.connect(database)
    connection.execute("create table files (id integer primary key, package text, path text, size integer)")
    connection.executemany("insert into files values (?, ?, ?, ?)", rows)
    connection.commit()
    connection.close()
    return len(rows)


def table_targets(count: int, rows: int) -> list[str]:
    """`count` targets of Datasette: the start, tables, facets, sorted pages, rows, JSON and CSV, static files."""
    targets = ["/", "/docs", "/docs/files", "/-/static/app.css", "/-/static/table.js", "/docs/files.csv?_stream=1"]
    targets += [f"/docs/files?_sort=size&_size=20&_next={number}" for number in range(count // 10)]
    targets += ["/docs/files?_facet=package", "/docs/files.json?_shape=array", "/docs/absent"]
    ids = random.Random(2).sample(range(rows), min(rows, count))
    targets += [f"/docs/files.json?id={number}" for number in ids[: count // 3]]
    targets += [f"/docs/files.csv?size__gt={number}&_size=50" for number in ids[: count // 5]]
    return targets + [f"/docs/files?id={number}" for number in ids[: count // 2]]
