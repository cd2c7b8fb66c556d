"""The servers that are compared: how each is configured and started with one worker."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from loadtests import ROOT
from loadtests.bench.processes import server
from loadtests.lab.processes import SERVE, Process, free_port, settings

NGINX = """\
daemon off; user root; worker_processes 1; pid {directory}/pid; error_log {directory}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; keepalive_timeout 600s; keepalive_requests 1000000000;
  client_body_temp_path {directory}/t1; proxy_temp_path {directory}/t2; fastcgi_temp_path {directory}/t3;
  uwsgi_temp_path {directory}/t4; scgi_temp_path {directory}/t5;
  proxy_cache_path {directory}/cache levels=1:2 keys_zone=bench:32m max_size=1g inactive=2h use_temp_path=off;
  upstream origin {{
    server 127.0.0.1:{origin}; keepalive 64; keepalive_requests 1000000000; keepalive_timeout 600s;
  }}
  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    listen 127.0.0.1:{tls} ssl backlog=4096;
    ssl_certificate {pair}; ssl_certificate_key {pair}; ssl_protocols TLSv1.2 TLSv1.3;
    proxy_cache bench; proxy_cache_valid 200 1h; add_header X-Cache $upstream_cache_status;
    location / {{ proxy_pass http://origin; }}
    location = /big {{ sendfile on; proxy_pass http://origin; }}
    location /p/ {{ proxy_cache off; proxy_pass http://origin; }}
  }}
}}
"""

HAPROXY = """\
global
  nbthread 1
  maxconn 4000
cache bench
  total-max-size 512
  max-object-size 16777216
  max-age 3600
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  timeout http-keep-alive 600s
  http-reuse always
frontend bench
  bind 127.0.0.1:{port} backlog 4096
  bind 127.0.0.1:{tls} ssl crt {pair} backlog 4096
  use_backend plain if {{ path_beg /p/ }}
  default_backend cached
backend cached
  http-request cache-use bench
  http-response cache-store bench
  server origin 127.0.0.1:{origin}
backend plain
  server origin 127.0.0.1:{origin}
"""

VARNISH = """\
vcl 4.1;
backend default {{ .host = "127.0.0.1"; .port = "{origin}"; }}
sub vcl_recv {{
  if (req.url ~ "^/p/") {{ return (pass); }}
  if (req.method == "GET" || req.method == "HEAD") {{ return (hash); }}
}}
"""


@dataclass(frozen=True)
class Contestant:
    """A server to be measured; `command` configures it for an origin's port and says how to start it."""

    name: str
    command: Callable[[Path, int], Process]
    note: Callable[[], str] | None = None  # what it tells of itself, asked while it still runs


def nginx(directory: Path, origin: int) -> Process:
    """One worker, proxy_cache on tmpfs, keep-alive upstream."""
    return _nginx(NGINX, directory, origin)


def _nginx(template: str, directory: Path, origin: int) -> Process:
    port, tls = free_port(), free_port()
    text = template.format(directory=directory, port=port, tls=tls, pair=key_pair(directory), origin=origin)
    config = _write(directory / "nginx.conf", text)
    return replace(server(["nginx", "-p", str(directory), "-c", config], port, directory), tls_port=tls)


def nginx_of(size: int) -> Callable[[Path, int], Process]:
    """The same nginx with a cache of so many MiB."""
    template = NGINX.replace("max_size=1g", f"max_size={size}m")
    return lambda directory, origin: _nginx(template, directory, origin)


def nginx_tuned(directory: Path, origin: int) -> Process:
    """The same nginx at its best for small objects: files stay open, and sendfile is for /big alone."""
    tuned = "sendfile off; open_file_cache max=20000 inactive=1h; open_file_cache_valid 1h;"
    return _nginx(NGINX.replace("sendfile on;", tuned, 1), directory, origin)


def haproxy(directory: Path, origin: int) -> Process:
    """One thread, its small-object cache; plain forwarding for what must not be stored."""
    port, tls = free_port(), free_port()
    text = HAPROXY.format(port=port, tls=tls, pair=key_pair(directory), origin=origin)
    config = _write(directory / "haproxy.cfg", text)
    return replace(server(["haproxy", "-db", "-f", config], port, directory), tls_port=tls)


def varnish(directory: Path, origin: int) -> Process:
    """One pool of threads, malloc storage."""
    port = free_port()
    config = _write(directory / "bench.vcl", VARNISH.format(origin=origin))
    argv = ["varnishd", "-F", "-j", "none", "-n", str(directory / "work"), "-a", f"127.0.0.1:{port}"]
    argv += ["-T", "none", "-f", config, "-s", "malloc,512m", "-p", "thread_pools=1"]
    return server(argv, port, directory)


def edgecache(
    command: str | None, more: Mapping[str, str], name: str = "edgecache", output: Path | None = None
) -> Contestant:
    """This project's server, or with `command` another build of it; `more` wins over the benchmark's settings."""
    argv: Sequence[str] = SERVE
    ours = {"PYTHONPATH": str(ROOT)}  # it starts in a directory of its own
    if command:
        program, *arguments = shlex.split(command)
        argv, ours = [os.path.abspath(program) if "/" in program else program, *arguments], {}

    def start(directory: Path, origin: int) -> Process:
        port, tls = free_port(), free_port()
        env = ours | settings(
            origin=f"http://127.0.0.1:{origin}",
            listen=f"127.0.0.1:{port}",
            tls_listen=f"127.0.0.1:{tls}",
            tls_certificates=key_pair(directory),
            admin_listen=f"127.0.0.1:{free_port()}",
            workers=1,
            memory="512MiB",
            access_log="off",
        )
        return replace(server(argv, port, directory, {**env, **more}), output=output, tls_port=tls)

    return Contestant(name, start)


PEERS: dict[str, tuple[str, Callable[[Path, int], Process]]] = {
    "nginx": ("nginx", nginx),
    "nginx-tuned": ("nginx", nginx_tuned),
    "haproxy": ("haproxy", haproxy),
    "varnish": ("varnishd", varnish),
}
USUAL = ["nginx", "haproxy", "varnish"]
VERSION_ARGUMENTS = {"nginx": "-v", "haproxy": "-v", "varnishd": "-V", "wrk": "-v"}


def installed(names: list[str]) -> tuple[list[Contestant], list[str]]:
    """The peers of that name that can be started here, and those that are missing."""
    present = [Contestant(name, PEERS[name][1]) for name in names if shutil.which(PEERS[name][0])]
    return present, [name for name in names if not shutil.which(PEERS[name][0])]


def version(program: str) -> str:
    """The first line in which an installed program names its version."""
    ran = subprocess.run([program, VERSION_ARGUMENTS[program]], capture_output=True, text=True, timeout=10, check=False)
    lines = (ran.stdout + ran.stderr).strip().splitlines()
    return lines[0] if lines else program


def key_pair(directory: Path) -> str:
    """A new certificate with an ECDSA key on P-256, and the key, in one file."""
    directory.mkdir(parents=True, exist_ok=True)
    pair, key = directory / "pair.pem", directory / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    command += ["-subj", "/CN=bench", "-addext", "subjectAltName=DNS:www.example.com"]
    command += ["-keyout", str(key), "-out", str(pair)]
    subprocess.run(command, check=True, capture_output=True)
    pair.write_bytes(pair.read_bytes() + key.read_bytes())
    return str(pair)


def _write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)
