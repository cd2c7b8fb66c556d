"""What is asked in each scenario, and the proof that a server answers it the way the scenario means."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from loadtests.bench import heads, rawload
from loadtests.bench.origin import Origin
from loadtests.bench.processes import probe
from loadtests.lab.processes import Answer, Process

CONNECTIONS = 32


class VerifyError(Exception):
    """A server does not do what the scenario measures; the text says what it did."""


@dataclass(frozen=True)
class Bound:
    """What a server may cost at most, as a multiple of another's cost in the same rounds."""

    name: str
    base: str
    most: float


@dataclass(frozen=True)
class Scenario:
    """One kind of request; the defaults are the memory hit."""

    name: str
    title: str
    method: str = "GET"
    path: str = "/o/{}"
    urls: int = 1000
    sessions: int = 1
    etag: str | None = None
    status: int = 200
    body: int = 1024
    cached: bool = True
    per_gib: bool = False
    connections: int = CONNECTIONS
    tls: bool = False
    closes: bool = False  # a connection of its own for each request
    own: bool = False  # each request's client has an agent, a language and a referrer of its own, and it an id
    own_loader: bool = False  # by the loader that 304 and head need, to compare with them
    tokens: tuple[str, ...] = ()  # of sessions by turns, in a cookie
    bounds: tuple[Bound, ...] = ()

    @property
    def has_body(self) -> bool:
        """Whether its answers carry a body."""
        return self.status != 304 and self.method != "HEAD"

    def port(self, server: Process) -> int:
        """Where a server is asked."""
        return server.tls_port if self.tls else server.port

    def requests(self) -> list[bytes]:
        """Its requests, in the order in which they are sent again and again."""
        count = max(self.urls, self.sessions)
        return [self._request(number, number % self.sessions) for number in range(count)]

    def _request(self, number: int, session: int) -> bytes:
        head = heads.request(self.method, self.path.format(number % self.urls), session, self.etag, own=self.own)
        head = head.replace(b"Cookie: ", b"Cookie: " + self.cookie(session).encode())
        return head.replace(b"Connection: keep-alive\r\n", b"Connection: close\r\n") if self.closes else head

    def fills(self) -> list[bytes]:
        """One GET per URL."""
        cookie = b"Cookie: " + self.cookie(0).encode()
        gets = (heads.request("GET", self.path.format(number)) for number in range(self.urls))
        return [get.replace(b"Cookie: ", cookie) for get in gets]

    def cookie(self, session: int) -> str:
        """The cookie with the token of that session, if it has one, before others."""
        return f"token={self.tokens[session % len(self.tokens)]}; " if self.tokens else ""


SCENARIOS = (
    Scenario("hit", "memory hit, 1 KiB, 1,000 URLs"),
    Scenario("hit-own", "memory hit, 1 KiB (own load generator, as for 304 and head)", own_loader=True),
    Scenario("pass", "pass-through, 1 KiB, `no-store`", path="/p/{}", cached=False),
    Scenario("304", "304 to a matching If-None-Match (own load generator)", etag=heads.ETAG, status=304),
    Scenario("head", "HEAD of cached objects (own load generator)", method="HEAD"),
    Scenario("big", "one 10 MiB object from memory", path="/big", urls=1, body=10 << 20, per_gib=True),
    Scenario("tls", "memory hit over TLS 1.3, 1 KiB, kept connections", tls=True),
    Scenario("tls-new", "memory hit, a TLS 1.3 handshake (ECDSA P-256) for each", urls=50, tls=True, closes=True),
    Scenario("hit-varied", "memory hit, 20,000 different cookies", sessions=20_000),
    Scenario("hit-clients", "memory hit, 20,000 clients of whom nothing was seen before", sessions=20_000, own=True),
    Scenario(
        "304-varied", "304, 20,000 different cookies (own load generator)", etag=heads.ETAG, status=304, sessions=20_000
    ),
)
LOG = Scenario("log", "memory hit, JSON access log to /dev/null against none")
TRACES = Scenario("traces", "memory hit, traces of no and of 1 % of requests (no collector) against none")


def verify(scenario: Scenario, server: Process, origin: Origin) -> str:
    """Fill the server, then prove what it does; the proof in words."""
    _ask_all(server, scenario.fills() * 2)
    before = origin.asked()
    _ask_all(server, scenario.fills())
    reached = origin.asked() - before
    wanted = 0 if scenario.cached else scenario.urls
    if reached != wanted:
        raise VerifyError(f"of {scenario.urls} requests {reached} reached the origin instead of {wanted}")
    fields = {"If-None-Match": scenario.etag} if scenario.etag else {}
    if scenario.tokens:
        fields["Cookie"] = scenario.cookie(0) + "theme=dark"
    answer = probe(server.port, scenario.method, scenario.path.format(0), fields)
    _check(scenario, answer)
    return f"{scenario.urls:,} URLs asked again: {reached:,} reached the origin; {_evidence(answer)}"


def _ask_all(server: Process, requests: Iterable[bytes]) -> None:
    load = rawload.run(server.port, requests, connections=8)
    if load.problems:
        raise VerifyError("; ".join(load.problems))


def _check(scenario: Scenario, answer: Answer) -> None:
    """Status and size of one answer are those of the scenario."""
    if answer.status != scenario.status:
        raise VerifyError(f"status {answer.status} instead of {scenario.status}")
    expected = scenario.body if scenario.has_body else 0
    if len(answer.body) != expected:
        raise VerifyError(f"{len(answer.body)} bytes of body instead of {expected}")


def _evidence(answer: Answer) -> str:
    """What the answer itself says of the cache."""
    names = ("x-cache", "cache-status", "age", "x-varnish")
    said = [f"{name}: {answer.fields[name]}" for name in names if name in answer.fields]
    return f"status {answer.status}, " + (", ".join(said) if said else "no field about the cache")


LIMITED = Scenario(
    "limited",
    "memory hit of a site whose clients have a rate (never reached) against one without",
    bounds=(
        Bound("edgecache limited", "edgecache unlimited", 1.15),
        Bound("edgecache limited, regional", "edgecache unlimited, regional", 1.15),
    ),
)
