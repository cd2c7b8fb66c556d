"""Network addresses in settings: listeners, origins, parents, trusted networks.

A parser raises ValueError with words that end the sentence `EDGECACHE_NAME: "what was written" …`.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field, replace

from edgecache.semantics import uri

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
DEFAULT_PORTS = {"http": 80, "https": 443}
UNIX = "unix:"
LOCAL = "localhost"  # in Host, of a server that is reached by a Unix socket
MOST_PATH = 107  # bytes of the path of a Unix socket (unix(7))
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::([0-9]{1,5}))?", re.ASCII)
_ORIGIN = re.compile(r"(https?)://([^/]*)/?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """Address of a listener: host name or IP address (IPv6 without brackets), and port, 0 for any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{bracketed(self.host)}:{self.port}"


@dataclass(frozen=True, slots=True)
class Origin:
    """The web service behind the POP: scheme `http` or `https`, host (IPv6 without brackets) and port."""

    scheme: str
    host: str
    port: int
    path: str = field(default="", kw_only=True)  # of a Unix socket, in the stead of host and port
    tls_name: str = field(default="", kw_only=True)  # in the SNI, and in its certificate; empty: the host
    weight: int = field(default=1, kw_only=True)  # among the servers of its pool

    @property
    def authority(self) -> str:
        """Value of Host: the host, and the port unless it is the scheme's default."""
        if self.path:
            return LOCAL
        if self.port == DEFAULT_PORTS[self.scheme]:
            return bracketed(self.host)
        return f"{bracketed(self.host)}:{self.port}"

    def __str__(self) -> str:
        return f"{UNIX}{self.path}" if self.path else f"{self.scheme}://{self.authority}"


@dataclass(frozen=True, slots=True)
class Parent(Origin):
    """A parent POP, and the name under which all POPs know it: by default its URL."""

    known_as: str = ""

    @property
    def name(self) -> str:
        """The name by which keys are assigned to it."""
        return self.known_as or str(self)


def bracketed(host: str) -> str:
    """The host as a URL writes it: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address, is this machine's own loopback."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def host_and_port(text: str) -> tuple[str, int | None]:
    """Host (IPv6 without brackets, lower case) and port, if one is written; ValueError if it is neither."""
    match = _HOST_AND_PORT.fullmatch(text)
    if match is None:
        raise ValueError("is not host[:port]")
    host, port = match[1].lower(), None if match[2] is None else int(match[2])
    if port is not None and port > 65535:
        raise ValueError("has a port above 65535")
    if host.startswith("["):
        host = str(ipaddress.IPv6Address(host[1:-1]))
    return host, port


def address(text: str) -> Address:
    """Address of a listener, out of `host:port`, `1.2.3.4:port` or `[::1]:port`."""
    try:
        host, port = host_and_port(text)
    except ValueError:
        port = None
    if port is None:
        raise ValueError("is not host:port")
    return Address(host, port)


def origin(text: str) -> Origin:
    """A web service out of `http(s)://host[:port]`."""
    problem = "is not http(s)://host[:port] without path, user or query"
    match = _ORIGIN.fullmatch(text)
    if match is None:
        raise ValueError(problem)
    try:
        host, port = host_and_port(match[2])
    except ValueError:
        raise ValueError(problem) from None
    if port == 0:
        raise ValueError("has port 0, where nothing can listen")
    return Origin(match[1], host, port or DEFAULT_PORTS[match[1]])


def server(text: str, *, tls_name: str = "", weight: int = 1) -> Origin:
    """A server of a pool out of `http(s)://host[:port]`, or `unix:/path` of a socket, where it speaks HTTP."""
    if not text.startswith(UNIX):
        return replace(origin(text), tls_name=tls_name, weight=weight)
    path = text.removeprefix(UNIX)
    if not path.startswith("/") or "\0" in path or len(path.encode()) > MOST_PATH:
        raise ValueError(f"is not unix:/path of at most {MOST_PATH} bytes")
    return Origin("http", LOCAL, 80, path=path, weight=weight)


def host_names(text: str) -> tuple[str, ...]:
    """Names of sites out of a comma list, as `uri.py` compares them; every port of a site is meant."""
    return tuple(_host_name(part.strip()) for part in text.split(",") if part.strip())


def normalised(host: str) -> str:
    """A host of a site as requests have it; a wildcard keeps its star."""
    if host == "*":
        return host
    return ("*." if host.startswith("*.") else "") + host_names(host.removeprefix("*."))[0]


def _host_name(text: str) -> str:
    try:
        name = uri.site(uri.ascii_authority(text), b"http")
    except ValueError:
        raise ValueError(f"holds {text}, which is not a host name") from None
    if uri.host_of(text.encode()) != text.encode():
        raise ValueError(f"holds {text}: names go without a port")
    return name.decode()


def network(text: str) -> Network:
    """One IP network out of a CIDR block or a single address; of IPv4-mapped addresses, the IPv4 network."""
    found = ipaddress.ip_network(text)
    mapped = getattr(found.network_address, "ipv4_mapped", None)
    return found if mapped is None or found.prefixlen < 96 else ipaddress.IPv4Network((mapped, found.prefixlen - 96))


def networks(text: str) -> tuple[Network, ...]:
    """IP networks out of a comma list of CIDR blocks or single addresses."""
    found = []
    for part in (part.strip() for part in text.split(",") if part.strip()):
        try:
            found.append(network(part))
        except ValueError as error:
            raise ValueError(f"is not a list of networks such as 10.0.0.0/8: {error}") from None
    return tuple(found)
