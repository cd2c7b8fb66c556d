"""Conditions of rules, and their evaluation in two steps: by the request, and then by its response.

A condition is a tree of tests. `reduced` evaluates the tests of the request, and leaves a smaller tree of tests of the
response, which `holds` evaluates. The remainder depends on nothing else in the request, so that requests with equal
remainders may share responses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address
from typing import TypeAlias
from urllib.parse import unquote_plus

from edgecache.semantics import uri
from edgecache.semantics.client_address import Network, parsed_address
from edgecache.semantics.message import Request

MOST_COOKIES = 256
MOST_PARAMETERS = 256


class RequestFacts:
    """The parts of a request that conditions read; each part is parsed at its first use."""

    def __init__(self, request: Request, client: str) -> None:
        self.request = request
        self.client = client  # its address, empty if unknown

    @cached_property
    def path(self) -> bytes:
        """The path, normalised (RFC 3986 §6.2.2): percent-encoded unreserved characters, dot segments."""
        return uri.path_of(self.request.target)

    @cached_property
    def host(self) -> bytes:
        """The host, without its port."""
        return uri.host_of(self.request.host)

    @cached_property
    def _address(self) -> IPv4Address | IPv6Address | None:
        return parsed_address(self.client)

    def is_in(self, networks: Iterable[Network]) -> bool:
        """Whether the client's address is in one of `networks`; False if it is unknown."""
        return self._address is not None and any(self._address in network for network in networks)

    @cached_property
    def country(self) -> str:
        """ISO 3166-1 code of the client's country as this POP has located it; empty if unknown."""
        for name, value in self.request.place:
            if name.lower() == b"edgecache-geo-country":
                return value.decode("latin-1")
        return ""

    @cached_property
    def parameters(self) -> dict[str, list[bytes]]:
        """Values of the query's parameters, decoded, by their decoded names."""
        found: dict[str, list[bytes]] = {}
        query = self.request.received_target.partition(b"?")[2]
        for part in query.split(b"&", MOST_PARAMETERS)[:MOST_PARAMETERS]:
            name, _, value = part.partition(b"=")
            if part:
                key = unquote_plus(name.decode("latin-1"))
                found.setdefault(key, []).append(unquote_plus(value.decode("latin-1"), "latin-1").encode("latin-1"))
        return found

    @cached_property
    def cookies(self) -> dict[str, list[bytes]]:
        """Values of cookies by name (RFC 6265 §5.4), without quotes."""
        found: dict[str, list[bytes]] = {}
        value = b";".join(self.request.fields.all(b"cookie"))
        for pair in value.split(b";", MOST_COOKIES)[:MOST_COOKIES]:
            name, equals, content = pair.strip(b" \t").partition(b"=")
            if equals:
                found.setdefault(name.decode("latin-1"), []).append(content.removeprefix(b'"').removesuffix(b'"'))
        return found


@dataclass(frozen=True, slots=True)
class ResponseFacts:
    """The parts of a response that conditions read."""

    status: int
    content_type: bytes = b""
    result: str = ""  # of the look-up: hit, miss …; empty before that is known


@dataclass(frozen=True, slots=True, eq=False)
class Test:
    """One test. `text` identifies it: tests with equal texts agree on all messages."""

    text: str
    of_request: Callable[[RequestFacts], object] | None = None  # true where it holds
    of_response: Callable[[ResponseFacts], object] | None = None
    fields: frozenset[bytes] = frozenset()  # of the request, in lower case, that decide it
    cookies: frozenset[str] = frozenset()  # globs of their names, that decide it
    by_url: bool = False  # only scheme, host and path do
    networks: tuple[Network, ...] = ()  # of the client, that decide it


@dataclass(frozen=True, slots=True)
class All:
    """True if all are."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """True if one is."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """True if the part is false."""

    part: Condition


Condition: TypeAlias = Test | All | AnyOf | Not | bool


def reduced(condition: Condition, facts: RequestFacts) -> Condition:
    """What is left of `condition` for the response to decide; True or False if nothing is."""
    match condition:
        case bool():
            return condition
        case Test(of_request=test):
            return condition if test is None else bool(test(facts))  # matchers return what has matched
        case Not(part):
            left = reduced(part, facts)
            return not left if isinstance(left, bool) else Not(left)
        case All(parts):
            return _joined(parts, facts, absorbing=False)
        case AnyOf(parts):
            return _joined(parts, facts, absorbing=True)


def _joined(parts: tuple[Condition, ...], facts: RequestFacts, *, absorbing: bool) -> Condition:
    """The remainder of parts joined by and (`absorbing` False) or by or (True)."""
    left = []
    for part in parts:
        result = reduced(part, facts)
        if result is absorbing:
            return absorbing
        if not isinstance(result, bool):
            left.append(result)
    if not left:
        return not absorbing
    return AnyOf(tuple(left)) if absorbing else All(tuple(left))


def holds(condition: Condition, facts: ResponseFacts) -> bool:
    """Whether a remainder holds for a response."""
    match condition:
        case bool():
            return condition
        case Test(of_response=test):
            assert test is not None, "tests of the request are decided before"
            return bool(test(facts))
        case Not(part):
            return not holds(part, facts)
        case All(parts):
            return all(holds(part, facts) for part in parts)
        case AnyOf(parts):
            return any(holds(part, facts) for part in parts)


def text_of(condition: Condition) -> str:
    """A text that identifies `condition`: equal texts, equal verdicts."""
    match condition:
        case bool():
            return str(condition)
        case Test(text):
            return text
        case Not(part):
            return f"not({text_of(part)})"
        case All(parts):
            return f"all({','.join(map(text_of, parts))})"
        case AnyOf(parts):
            return f"any({','.join(map(text_of, parts))})"


def tests_of(condition: Condition) -> list[Test]:
    """All tests in `condition`."""
    match condition:
        case bool():
            return []
        case Test():
            return [condition]
        case Not(part):
            return tests_of(part)
        case All(parts) | AnyOf(parts):
            return [test for part in parts for test in tests_of(part)]
