"""Ratio and CPU of the codings that edgecache makes, by type, beside nginx's gzip.

    python -m loadtests compression [--level 5] [FILE ...]

Without files, those of installed packages are taken, the largest of each type, and this repository's documents.
edgecache compresses a stored response once; nginx compresses each response again.
"""

from __future__ import annotations

import argparse
import http.client
import shutil
import site
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from edgecache.proxy.compression import ENCODERS, LEVELS, encoded
from loadtests.lab.processes import free_port
from loadtests.lab.procstat import cpu_times

ROOT: Final = Path(__file__).parents[2]
TYPES: Final = ("html", "css", "js", "json", "xml", "svg", "wasm")
LARGEST: Final = 2 * 1024 * 1024  # bytes of a sample
TIMES: Final = 20  # that each is compressed
NGINX: Final = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr emerg;
events {{ }}
http {{
    access_log off; client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder}; default_type text/html;
    gzip on; gzip_comp_level {level}; gzip_min_length 0;
    server {{ listen 127.0.0.1:{port}; root {folder}/www; }}
}}
"""


def samples(files: list[Path]) -> dict[str, bytes]:
    """Contents by type."""
    if files:
        return {file.name: file.read_bytes() for file in files}
    found = {"markdown": b"".join(file.read_bytes() for file in sorted((ROOT / "docs").glob("*.md")))}
    for kind in TYPES:
        sizes = {
            file: file.stat().st_size for folder in site.getsitepackages() for file in Path(folder).rglob(f"*.{kind}")
        }
        fitting = [file for file, size in sizes.items() if size <= LARGEST]
        if fitting:
            found[kind] = max(fitting, key=sizes.__getitem__).read_bytes()
    return found


def measured(coding: bytes, content: bytes) -> tuple[int, float]:
    """Bytes of `content` in a coding, and the milliseconds of CPU that it takes."""
    began = time.thread_time()
    for _ in range(TIMES):
        made = encoded(coding, content)
    took = (time.thread_time() - began) / TIMES * 1000
    return len(content if made is None else made), took


@contextmanager
def nginx(contents: dict[str, bytes], level: int) -> Iterator[tuple[int, int] | None]:
    """A running nginx with these files: its port and process; None if it is not installed."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        folder.chmod(0o755)
        (folder / "www").mkdir()
        for kind, content in contents.items():
            (folder / "www" / kind).write_bytes(content)
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, level=level, port=port))
        with subprocess.Popen([program, "-c", f"{folder}/nginx.conf", "-e", "stderr"]) as process:
            try:
                _wait_for(port)
                yield port, process.pid
            finally:
                process.terminate()


def _wait_for(port: int) -> None:
    for _ in range(100):
        try:
            _fetch(port, "/")
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit("nginx does not start")


def _fetch(port: int, target: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", target, headers={"Accept-Encoding": "gzip"})
    size = len(connection.getresponse().read())
    connection.close()
    return size


def of_nginx(running: tuple[int, int], kind: str) -> tuple[int, float]:
    """Bytes that nginx sends, and the milliseconds of CPU of its processes for each response."""
    port, pid = running
    before = sum(cpu_times(pid).ran_ns.values())
    for _ in range(TIMES):
        size = _fetch(port, "/" + kind)
    return size, (sum(cpu_times(pid).ran_ns.values()) - before) / TIMES / 1e6


def main() -> None:
    """Print the table, in Markdown."""
    parser = argparse.ArgumentParser(prog="loadtests compression", description=__doc__)
    parser.add_argument("--level", type=int, default=5, help="nginx's gzip_comp_level")
    parser.add_argument("files", nargs="*", type=Path)
    options = parser.parse_args()
    contents = samples(options.files)
    with nginx(contents, options.level) as running:
        names = [f"{coding.decode()} {LEVELS[coding]}" for coding in ENCODERS]
        print("| type | bytes |", " | ".join([*names, f"nginx gzip {options.level}"]), "|")
        print("| --- " * (3 + len(names)) + "|")
        for kind, content in contents.items():
            cells = [measured(coding, content) for coding in ENCODERS]
            cells += [] if running is None else [of_nginx(running, kind)]
            said = [f"{len(content) / size:.2f}, {took:.2f} ms" for size, took in cells]
            print(f"| {kind} | {len(content):,} |", " | ".join(said), "|")


if __name__ == "__main__":
    main()
