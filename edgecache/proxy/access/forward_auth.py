"""Forward-auth: another server decides, by the credentials and the URL of a request.

2xx admits the request; any other response is sent to the client. The decision is cached for a while, for equal
credentials and equal URLs. Without a response in time, no request is admitted.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from edgecache.proxy.access.admission import AccessRefused, Asked, Grant, RefusedElsewhere
from edgecache.proxy.access.fetching import Fetched, FetchFailed, fetched
from edgecache.semantics.bounded_cache import BoundedCache
from edgecache.semantics.client_address import CLIENT_ADDRESS_FIELDS
from edgecache.semantics.message import FieldLine, Fields, Request
from edgecache.tasks import spawn

if TYPE_CHECKING:
    from edgecache.config.sites.model import ForwardAuth

MOST_REMEMBERED: Final = 8192
LARGEST: Final = 64 * 1024  # bytes of a response
MOST_UNDER_WAY: Final = 256
KEPT: Final = frozenset(  # fields of a refusal that the client gets
    b"www-authenticate location set-cookie content-type content-language retry-after link".split()
)
NO_STORE: Final = (b"Cache-Control", b"no-store")


class ForwardAuthCheck:
    """Admits requests that another server allows. Mutable state: cached decisions, and running requests."""

    order = 50

    def __init__(self, written: ForwardAuth, clock: Callable[[], float], failed: Callable[[], None]) -> None:
        self._url = written.url
        self._names = tuple(name.lower().encode() for name in written.headers)
        self.reads = CLIENT_ADDRESS_FIELDS.union(self._names)
        self.passes = frozenset(name.lower().encode() for name in written.pass_headers)
        used = frozenset((b"authorization",)).intersection(self._names)
        self._drops = frozenset() if written.pass_credentials else used
        self._lasts = float(written.cache)
        self._within = float(written.timeout)
        self._clock = clock  # resident time
        self._failed = failed  # counts
        self._known: BoundedCache[bytes, tuple[Grant | RefusedElsewhere, float]] = BoundedCache(MOST_REMEMBERED)
        self._under_way: dict[bytes, asyncio.Future[Grant | AccessRefused]] = {}

    def admit(self, asked: Asked) -> Grant | Awaitable[Grant]:
        """Admit a request as the server says, or has said a while ago."""
        lines = self._lines(asked)
        mark = hashlib.sha256(b"".join([b"%d:%b%d:%b" % (len(n), n, len(v), v) for n, v in lines])).digest()
        known = self._known.get(mark)
        if known is not None and asked.steady < known[1]:
            return granted(known[0])
        if mark not in self._under_way and len(self._under_way) >= MOST_UNDER_WAY:
            raise unavailable()
        return self._later(mark, lines, asked.facts.client)

    def _lines(self, asked: Asked) -> list[FieldLine]:
        """What the server gets: the URL, the client's address, and the fields that it reads."""
        request: Request = asked.request
        about = [
            (b"X-Forwarded-Method", request.method),
            (b"X-Forwarded-Proto", request.scheme),
            (b"X-Forwarded-Host", request.host),
            (b"X-Forwarded-Uri", request.received_target),
            (b"X-Forwarded-For", asked.facts.client.encode("latin-1", "replace")),
        ]
        named = frozenset(self._names)
        return [*about, *(line for line in request.fields if line[0].lower() in named)]

    async def _later(self, mark: bytes, lines: list[FieldLine], client: str) -> Grant:
        """Ask once for all equal requests."""
        waiting = self._under_way.get(mark)
        if waiting is None:
            waiting = self._under_way[mark] = spawn(self._ask(mark, lines, client), "forward-auth")
            waiting.add_done_callback(lambda done: self._under_way.pop(mark, None))
        return granted(await asyncio.shield(waiting))

    async def _ask(self, mark: bytes, lines: list[FieldLine], client: str) -> Grant | AccessRefused:
        try:
            got = await fetched(self._url, lines, within=self._within, most=LARGEST)
        except FetchFailed:
            self._failed()
            return unavailable()
        if got.status >= 500:
            self._failed()
            return unavailable()
        until = self._clock() + self._lasts
        answer: Grant | RefusedElsewhere
        if 200 <= got.status < 300:
            adds = tuple(line for line in got.fields if line[0].lower() in self.passes)
            answer = Grant(lasts=until, fields=self._drops, adds=adds, by_address=lambda other: other == client)
        else:
            answer = refusal_of(got)
        if isinstance(answer, Grant) or b"set-cookie" not in got.fields:  # that is for one client, once
            self._known.remember(mark, (answer, until))
        return answer


def granted(answer: Grant | AccessRefused) -> Grant:
    """The grant that `answer` is; raises the refusal that it is."""
    if isinstance(answer, AccessRefused):
        raise answer.with_traceback(None)
    return answer


def unavailable() -> AccessRefused:
    """The response while that server does not answer: nothing is admitted."""
    words = "the server that decides about access does not answer"
    return AccessRefused(503, "forward-auth-failed", words, (b"Retry-After", b"5"))


def refusal_of(got: Fetched) -> RefusedElsewhere:
    """The client's response out of that of the server that decides."""
    fields = Fields([line for line in got.fields if line[0].lower() in KEPT]).plus(NO_STORE)
    return RefusedElsewhere("forward-auth-refused", got.status if got.status >= 300 else 403, fields, got.content)
