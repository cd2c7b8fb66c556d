"""URLs of Valkey servers: one server, a socket, Sentinels, or a cluster. Pure: nothing is connected or resolved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

DEFAULT_PORT: Final = 6379
SCHEMES: Final = ("valkey", "valkeys", "valkey+unix", "valkey+sentinel", "valkey+cluster")
ALIASES: Final = {"redis": "valkey", "rediss": "valkeys", "unix": "valkey+unix"}


@dataclass(frozen=True, slots=True)
class ValkeyUrl:
    """Address of a Valkey: `scheme://[user[:password]@]host[:port][,host[:port]…][/database or service][?tls=on]`."""

    scheme: str
    nodes: tuple[tuple[str, int], ...]
    path: str = ""  # of a socket
    database: int = 0
    service: str = ""  # Sentinel's name of the primary
    username: str | None = None
    password: str | None = None
    tls: bool = False

    def __str__(self) -> str:
        where = self.path or ",".join(f"{host}:{port}" for host, port in self.nodes)
        user = f"{self.username or ''}:********@" if self.password else ""
        tail = f"/{self.service}" if self.service else f"/{self.database}" if self.database else ""
        return f"{self.scheme}://{user}{where}{tail}"

    __repr__ = __str__


def parse_url(text: str) -> ValkeyUrl:
    """The parts of a URL; ValueError says what is wrong, and never quotes a password."""
    scheme, mark, rest = text.partition("://")
    scheme = ALIASES.get(scheme.lower(), scheme.lower())
    if not mark or scheme not in SCHEMES:
        raise ValueError(f"is not one of embedded, off, {', '.join(name + '://' for name in SCHEMES)}")
    split = urlsplit("//" + rest)
    userinfo, _, places = split.netloc.rpartition("@")
    user, _, password = userinfo.partition(":")
    username, secret = unquote(user) or None, unquote(password) or None
    if split.query not in ("", "tls=on") or split.fragment:
        raise ValueError("has a query other than tls=on")
    tls = scheme == "valkeys" or split.query == "tls=on"
    if scheme == "valkey+unix":
        if places or not split.path.startswith("/"):
            raise ValueError("names no socket: valkey+unix:///path/to/socket")
        return ValkeyUrl(scheme, (), path=split.path, username=username, password=secret)
    nodes = tuple(_node(place) for place in places.split(","))
    tail = split.path.strip("/")
    if scheme == "valkey+sentinel":
        if not tail:
            raise ValueError("names no service: valkey+sentinel://host:26379/mymaster")
        return ValkeyUrl(scheme, nodes, service=tail, tls=tls, username=username, password=secret)
    if tail and (scheme == "valkey+cluster" or not tail.isascii() or not tail.isdigit()):
        raise ValueError("names no database by number after its host" if scheme != "valkey+cluster" else "has a path")
    if scheme in ("valkey", "valkeys") and len(nodes) > 1:
        raise ValueError("names several hosts: only valkey+sentinel and valkey+cluster do")
    return ValkeyUrl(scheme, nodes, database=int(tail or 0), tls=tls, username=username, password=secret)


def _node(text: str) -> tuple[str, int]:
    try:
        parts = urlsplit("//" + text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("has a port that is not a number from 1 to 65535") from None
    if not host or port == 0:
        raise ValueError("names no host")
    return host, port or DEFAULT_PORT
