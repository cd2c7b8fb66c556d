"""Several servers behind one `send`: each request goes to one of them, and is retried on another where that is safe.

The part common to origins and parents. Subclasses choose the server, and judge it by its responses.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

from edgecache.config.settings import Origin, Settings
from edgecache.semantics.message import Response
from edgecache.upstream.attempt import Attempt, Checking, Speaks
from edgecache.upstream.attempt_state import RETRIED
from edgecache.upstream.health import FAILING, UNAVAILABLE, Health, Latencies, may_ask_another
from edgecache.upstream.retry_budget import RetryBudget
from edgecache.valkey.circuit_breaker import Breaker, State
from edgecache.wire.upstream_request import UpstreamCall, UpstreamRequest

if TYPE_CHECKING:
    from edgecache.upstream.pool import OriginPool

USER_AGENT: Final = (b"User-Agent", b"edgecache")  # of active checks
MOST_TRIES: Final = 3  # servers that one request is sent to
MOST_SAVED: Final = 20.0  # retries saved up while nothing fails: more could become a retry storm


class Check(NamedTuple):
    """An active health check: its request, and which responses are good."""

    request: UpstreamRequest
    is_good: Callable[[Response], bool]


class Member:
    """One server: its connections, its health, and the requests under way to it."""

    def __init__(
        self, origin: Origin, region: str, pool: OriginPool, health: Health, jurisdiction: str = "", name: str = ""
    ) -> None:
        self.origin = origin
        self.name = name  # decides which keys it owns
        self.region = region
        self.jurisdiction = jurisdiction
        self.pool = pool
        self.health = health
        self.attempts: set[Attempt] = set()
        self.next_check = 0.0  # monotonic seconds
        self.heard = float("-inf")  # monotonic seconds: its last response, to a check or a request
        self.ejected = float("-inf")  # monotonic seconds: its last ejection
        self.last_failed = float("-inf")  # monotonic seconds
        self.check: Checking | None = None

    def load(self, now: float) -> float:
        """The cost of another request to it."""
        return self.health.load(len(self.attempts), now)

    def failed(self, now: float) -> None:
        """Count a failure of it."""
        self.last_failed = now
        breaker = self.health.breaker
        before = breaker.state
        self.health.failed(now)
        if breaker.state is State.OPEN and before is not State.OPEN:  # a probe that failed counts, too
            self.ejected = now

    def __repr__(self) -> str:
        return f"<Member {self.origin}, {len(self.attempts)} under way>"


class Balancer:
    """Members behind one `send`. Mutable state: that of the members, and the retry budget."""

    members: list[Member]

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.chance = random.Random()
        self.asked = 0  # requests sent to a member, retries included
        self.requests = 0  # those without the retries
        self.retries = RetryBudget(MOST_SAVED)
        self.latencies = Latencies()
        self._closed = False
        self._check_interval = settings.origin_check_interval
        self._eject = settings.origin_eject_after, settings.origin_eject_for
        self._fall, self._rise = settings.origin_check_fall, settings.origin_check_rise
        self._slow_start = settings.origin_slow_start

    def new_health(self) -> Health:
        """The health of a new member."""
        breaker = Breaker(*self._eject, jitter=lambda: self.chance.random() / 10)
        return Health(breaker, fall=self._fall, rise=self._rise, slow_start=self._slow_start)

    # --- decided by subclasses

    def choose(self, request: UpstreamRequest, tried: tuple[Member, ...]) -> Member | None:
        """The member to send `request` to, if possible one not `tried`; None if there is none."""
        raise NotImplementedError

    def none_left(self, call: UpstreamCall) -> None:
        """No member is left: fail `call`, or send it another way."""
        raise NotImplementedError

    def has_untried(self, request: UpstreamRequest, tried: tuple[Member, ...]) -> bool:
        """Whether there are others than those `tried`."""
        raise NotImplementedError

    def fitted(self, request: UpstreamRequest, member: Member) -> UpstreamRequest:
        """`request` adapted to `member`."""
        return request

    def check_of(self, member: Member) -> Check | None:
        """The active check of `member`; None if there is none."""
        return None

    def speaks(self, response: Response) -> Speaks:
        """What `response` says of the server that sent it."""
        if response.status not in FAILING:
            return Speaks.WELL
        return Speaks.UNAVAILABLE if response.status in UNAVAILABLE else Speaks.ILL

    def came(self, call: UpstreamCall, response: Response) -> None:
        """`response` is about to answer `call`."""

    # --- requests

    def send(self, call: UpstreamCall) -> None:
        """Send a request to one of the members."""
        self.requests += 1
        self.put(call, ())

    def put(self, call: UpstreamCall, tried: tuple[Member, ...]) -> None:
        """Send a request to one of the members, if possible to one that was not `tried`."""
        call.asked_on = None  # the connection of the last attempt is no longer its own
        member = self.choose(call.upstream_request, tried)
        if member is None:
            self.none_left(call)
            return
        self.asked += 1
        attempt = Attempt(self, member, call, tried)
        member.attempts.add(attempt)
        member.pool.send(attempt)

    def due(self, candidates: Iterable[Member], now: float) -> Member | None:
        """An ejected member whose time is over: this request is its probe."""
        ejected = (member for member in candidates if not member.health.is_well(may_probe=False, now=now))
        return next((member for member in ejected if member.health.is_well(may_probe=True, now=now)), None)

    def may_try_another(
        self, request: UpstreamRequest, tried: tuple[Member, ...], *, sent: bool, lost_since: float = inf
    ) -> bool:
        """Whether a request may be retried on another member: within the budget, if it was `sent` to one.

        Beside the budget is what was under way since `lost_since` on a member when it was ejected: that happens once.
        """
        if self._closed or not may_ask_another(request.repeated_as, sent=sent, has_body=request.has_body):
            return False
        if not self.has_untried(request, tried):
            return False
        if not sent:
            return True
        if len(tried) >= MOST_TRIES:
            return False
        return lost_since <= tried[-1].ejected or self.retries.spend(self.requests, self.clock())

    # --- life

    def sweep(self, now: float) -> None:
        """End what is overdue, and start the checks that are due; `now` in monotonic seconds."""
        for member in self.members:
            for attempt in tuple(member.attempts):
                if attempt.cancelled:
                    attempt.give_up()
            member.pool.sweep(now)
            if now >= member.next_check:
                self.check(member, now)

    def move(self, attempts: list[Attempt]) -> None:
        """Retry these attempts on other servers where that is safe: theirs have stopped responding."""
        now = self.clock()
        for attempt in attempts:
            attempt.member.failed(now)  # all of them first, so that none is retried on another of these
        for attempt in attempts:
            since = attempt.since
            if attempt.cancelled:
                continue
            if attempt.steps_aside():
                attempt.give_up(RETRIED)
            elif self.may_try_another(attempt.upstream_request, attempt.tried, sent=attempt.is_sent, lost_since=since):
                attempt.give_up(RETRIED)
                self.put(attempt.call, attempt.tried)

    def slow_attempts(self, before: float) -> list[Attempt]:
        """The attempts sent before then that have no response yet."""
        return [attempt for member in self.members for attempt in member.attempts if attempt.since < before]

    def check(self, member: Member, now: float) -> None:
        """Check the health of `member`: it has to respond before the next check is due."""
        how = self.check_of(member)
        if how is None:
            return
        if member.check is not None:
            member.check.cancel()
            member.health.checked(False, now)
        member.next_check = now + self._check_interval * (0.9 + self.chance.random() / 5)
        member.check = Checking(self, member, how)
        member.pool.send(member.check)

    def close(self) -> None:
        """End every connection; what is under way fails."""
        self._closed = True
        for member in self.members:
            member.pool.close()

    @property
    def repeated(self) -> int:
        """Requests that met the end of a kept connection, and were sent again."""
        return sum(member.pool.repeated for member in self.members)

    @property
    def waiting(self) -> int:
        """Requests that wait for a connection."""
        return sum(member.pool.waiting for member in self.members)

    @property
    def busy(self) -> int:
        """Connections that are answering a request, or being opened for one."""
        return sum(member.pool.busy for member in self.members)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self.members)}>"
