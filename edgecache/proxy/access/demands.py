"""From the tables of rules to checks: those of each table, and those of all rules that match a request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from edgecache.proxy.access.admission import AccessRefused, Asked, Check, Grant
from edgecache.semantics.message import Request
from edgecache.semantics.path_readings import readings
from edgecache.semantics.rules.conditions import RequestFacts
from edgecache.semantics.rules.policy import RequestPolicy, Site

log = logging.getLogger("edgecache")
GET: Final = b"GET"
HEAD: Final = b"HEAD"


class Unusable:
    """Replaces a check that cannot be created: it refuses every request."""

    order = 0
    reads: frozenset[bytes] = frozenset()

    def admit(self, asked: Asked) -> Grant:
        """Refuse."""
        raise AccessRefused(503, "access-unusable", "access to this cannot be decided at the moment")


class Demands:
    """The checks of each table, made once."""

    def __init__(self, sites: Iterable[Site], made: Callable[[Any, str], Iterator[Callable[[], Check]]]) -> None:
        self._of_table: dict[int, tuple[Check, ...]] = {}
        self._tables: list[Any] = []  # kept: they are known by their identity
        self.guarded: set[Site] = set()
        for site in sites:
            for rule in site.rules:
                for table in rule.actions.own.get("access", ()):
                    self.guarded.add(site)
                    self._tables.append(table)
                    place = f"site {site.name}, rule {rule.name}"
                    self._of_table[id(table)] = tuple([usable(make, place) for make in made(table, place)])

    @property
    def checks(self) -> Iterator[Check]:
        """All of them."""
        return (check for checks in self._of_table.values() for check in checks)

    def of(self, request: Request, client: str) -> list[Check]:
        """What is demanded of `request` by the rules that hold for it, whatever an origin takes its path for."""
        policy: RequestPolicy = request.policy
        found = dict.fromkeys(self._of_policy(policy))
        for facts in other_readings(request, client):
            found.update(dict.fromkeys(self._of_policy(policy.site.policy_of(facts))))
        return sorted(found, key=lambda check: check.order)

    def _of_policy(self, policy: RequestPolicy) -> list[Check]:
        """The checks of a policy's tables: those that a later public one drops are not among them."""
        checks: list[Check] = []
        for table in policy.actions.own.get("access", ()):
            if table.public:
                checks.clear()
            checks += self._of_table[id(table)]
        return checks


def usable(make: Callable[[], Check], place: str) -> Check:
    """The check that `make` makes, or one that refuses all."""
    try:
        return make()
    except (OSError, ValueError, ImportError) as error:
        log.error("%s: access is refused to all clients: %s", place, _said(error))
        return Unusable()


def _said(error: Exception) -> str:
    """What an error says, without what it may quote of a secret."""
    return f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else type(error).__name__


def other_readings(request: Request, client: str) -> Iterator[RequestFacts]:
    """`request` as conditions of rules would see it, did they know what its origin makes of its path and method.

    A HEAD tells of what a GET would get, and some origins read methods in any case, and so names of parameters, which
    some separate at semicolons (HTML 4.01 §B.2.2).
    """
    yield from _of_paths_and_methods(request, client)
    if (read := with_parameters_read(request)) is not request:
        yield RequestFacts(read, client)
        yield from _of_paths_and_methods(read, client)


def with_parameters_read(request: Request) -> Request:
    """`request` with its parameters as such origins read them; the same where they are not read in another way."""
    path, mark, query = request.received_target.partition(b"?")
    read = query.lower().replace(b";", b"&")
    return request if read == query else request._replace(written=path + mark + read)


def _of_paths_and_methods(request: Request, client: str) -> Iterator[RequestFacts]:
    method = GET if request.method == HEAD else request.method.upper()
    paths = readings(request.target, fold=True)
    if method != request.method:
        yield RequestFacts(request._replace(method=method), client)
    for variant in dict.fromkeys((request.method, method)):
        for path in paths:
            facts = RequestFacts(request._replace(method=variant), client)
            facts.path = path
            yield facts
