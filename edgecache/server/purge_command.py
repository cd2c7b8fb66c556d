"""`edgecache purge`: purges through a POP's admin listener, and reports progress."""

from __future__ import annotations

import argparse
import http.client
import json
import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from edgecache.config.addresses import address, bracketed
from edgecache.config.sources import Source
from edgecache.semantics.errors import ConfigError
from edgecache.server.healthcheck import ANY, DEFAULT_ADMIN

FAILED, PENDING = 1, 3
TOKENS = ("EDGECACHE_ADMIN_TOKEN", "EDGECACHE_PURGE_TOKENS")


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    purge = commands.add_parser(
        "purge",
        help="purge URLs, tags, path prefixes, hosts, or everything",
        description="Purge in all regions, and print the result as JSON. EDGECACHE_ADMIN_TOKEN, or the first of "
        "EDGECACHE_PURGE_TOKENS, authorises it. --url, --tag, --prefix and --host may be repeated.",
        epilog="Exit codes: 0 done, 1 refused or unreachable, 2 invalid settings, 3 recorded, not yet applied by all.",
    )
    purge.add_argument(
        "--url", action="append", default=[], help="one URL, http(s)://host/path?query, with all its variants"
    )
    purge.add_argument(
        "--tag",
        action="append",
        default=[],
        help="everything with this tag (Surrogate-Key, Cache-Tag, Cache-Groups or xkey)",
    )
    purge.add_argument("--prefix", action="append", default=[], help="host/path, and everything below it")
    purge.add_argument("--host", action="append", default=[], help="everything of one site")
    purge.add_argument("--everything", action="store_true", help="everything of all sites")
    purge.add_argument(
        "--soft", action="store_true", help="mark as stale instead of removing: validated unless it may be used stale"
    )
    purge.add_argument(
        "--wait",
        choices=("none", "region", "all"),
        default="none",
        help="return once every POP of this region, or of all regions, has applied it (default: none)",
    )
    purge.add_argument("--timeout", type=float, default=10.0, metavar="SECONDS", help="longest wait (default: 10)")
    purge.add_argument(
        "--admin", metavar="URL", help="URL of the admin listener (default: that of EDGECACHE_ADMIN_LISTEN)"
    )
    purge.add_argument(
        "--config",
        default="",
        metavar="FILE",
        help="configuration file that `serve` reads (default: EDGECACHE_CONFIG_FILE)",
    )
    purge.set_defaults(command=run)


def run(chosen: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Purge, and print the report as JSON; the exit code."""
    what: dict[str, Any] = {
        "urls": chosen.url,
        "tags": chosen.tag,
        "prefixes": chosen.prefix,
        "hosts": chosen.host,
        "everything": chosen.everything,
        "soft": chosen.soft,
    }
    if not any((chosen.url, chosen.tag, chosen.prefix, chosen.host, chosen.everything)):
        print("edgecache purge: name something by --url, --tag, --prefix, --host or --everything", file=sys.stderr)
        return FAILED
    environ = Source(environ, chosen.config).read(TOKENS)
    where = _admin(chosen.admin, environ)
    path = f"/purges?wait={chosen.wait}&timeout={chosen.timeout:g}"
    try:
        status, answer = _post(where, path, {k: v for k, v in what.items() if v}, _token(environ), chosen.timeout + 5)
    except (OSError, http.client.HTTPException, ValueError) as error:
        print(f"edgecache purge: {where} does not answer: {error or type(error).__name__}", file=sys.stderr)
        return FAILED
    if status >= 400:
        print(f"edgecache purge: {answer.get('detail', status)}", file=sys.stderr)
        return FAILED
    print(json.dumps(answer, indent=2))
    return PENDING if status == http.client.ACCEPTED else 0


def _post(where: str, path: str, what: dict[str, Any], token: str, timeout: float) -> tuple[int, dict[str, Any]]:
    parts = urlsplit(where)
    make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = make(parts.hostname or "", parts.port, timeout=timeout)
    try:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        connection.request("POST", path, json.dumps(what), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def _admin(given: str | None, environ: Mapping[str, str]) -> str:
    """The URL of the admin listener."""
    if given is not None:
        if urlsplit(given).scheme not in ("http", "https"):
            raise ConfigError("--admin", "is not a URL such as http://127.0.0.1:9900")
        return given
    try:
        listen = address(environ.get("EDGECACHE_ADMIN_LISTEN", "").strip() or DEFAULT_ADMIN)
    except ValueError as error:
        raise ConfigError("EDGECACHE_ADMIN_LISTEN", str(error)) from None
    return f"http://{bracketed(ANY.get(listen.host, listen.host))}:{listen.port}"


def _token(environ: Mapping[str, str]) -> str:
    """The purge token; empty if none is set."""
    if token := environ.get("EDGECACHE_ADMIN_TOKEN", "").strip():
        return token
    first = environ.get("EDGECACHE_PURGE_TOKENS", "").partition(",")[0]
    return first.partition("=")[2].strip()
