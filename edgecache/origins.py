"""Several origins behind one `ask`: the region's first, the least loaded of them, another one where that is safe."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from edgecache.body import Body
from edgecache.config import Origin, Settings
from edgecache.origin import OriginPool
from edgecache.retry_budget import RetryBudget
from edgecache.rules.balancing import FAILING, UNAVAILABLE, Health, least_loaded, may_ask_another
from edgecache.rules.breaker import Breaker
from edgecache.rules.message import Response
from edgecache.wire.errors import OriginBusy, OriginError
from edgecache.wire.h1_client import Inquiry, OriginConnection, Question

MOST_TRIES: Final = 3  # origins that one question is put to
NOT_ITS_FAULT: Final = frozenset(("client-left", "internal"))  # reasons that say nothing of the origin


class Member:
    """One origin: its connections, how it is doing, and what it was asked and has not answered."""

    def __init__(self, origin: Origin, region: str, pool: OriginPool, health: Health) -> None:
        self.origin = origin
        self.region = region
        self.pool = pool
        self.health = health
        self.attempts: set[_Attempt] = set()
        self.next_check = 0.0  # monotonic seconds
        self.check: _Check | None = None

    def load(self, now: float) -> float:
        """What asking it costs."""
        return self.health.load(len(self.attempts), now)


class Origins:
    """The origins of all regions. Mutable state lies in the members, and in the budget for asking again."""

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
        chance: random.Random | None = None,
    ) -> None:
        self.clock = clock
        self._chance = chance or random.Random()
        self._home = settings.region
        self._own_host = settings.origin_host == "origin"
        self._check_path = settings.origin_check_path
        self._check_interval = settings.origin_check_interval
        self.asked = 0  # questions put to an origin, those asked again included
        self._questions = 0  # those asked first
        self.retries = RetryBudget()
        self.members = [
            Member(
                origin, region, OriginPool(replace(settings, origin=origin, origins={}), clock), self._health(settings)
            )
            for region, origins in settings.origins.items()
            for origin in origins
        ]

    def _health(self, settings: Settings) -> Health:
        breaker = Breaker(
            settings.origin_eject_after, settings.origin_eject_for, jitter=lambda: self._chance.random() / 10
        )
        return Health(
            breaker,
            fall=settings.origin_check_fall,
            rise=settings.origin_check_rise,
            slow_start=settings.origin_slow_start,
        )

    # --- questions

    def ask(self, inquiry: Inquiry) -> None:
        """Put a question to an origin of its region, or of any if none of those is well."""
        self._questions += 1
        self.put(inquiry, ())

    def put(self, inquiry: Inquiry, tried: tuple[Member, ...]) -> None:
        """The same, leaving out those that were `tried`."""
        member = self._choose(inquiry.question, tried)
        self.asked += 1
        inquiry.asked_on = None  # what it was tried on is not its own any more
        attempt = _Attempt(self, member, inquiry, tried)
        member.attempts.add(attempt)
        member.pool.ask(attempt)

    def _choose(self, question: Question, tried: tuple[Member, ...]) -> Member:
        now = self.clock()
        may_probe = may_ask_another(question.method, sent=True, has_body=question.body is not None)
        left = [member for member in self.members if member not in tried] or self.members
        near = self._near(left, question.region.decode())
        for candidates in (near, left):
            well = [member for member in candidates if member.health.is_well(may_probe=False, now=now)]
            if may_probe and (probed := self._due(candidates, now)) is not None:
                return probed
            if well:
                return well[least_loaded([member.load(now) for member in well], self._chance.randrange)]
        return near[least_loaded([member.load(now) for member in near], self._chance.randrange)]  # all are ill: try

    @staticmethod
    def _due(candidates: Iterable[Member], now: float) -> Member | None:
        """An ejected one whose time is over: this question is its probe."""
        ejected = (member for member in candidates if not member.health.is_well(may_probe=False, now=now))
        return next((member for member in ejected if member.health.is_well(may_probe=True, now=now)), None)

    def _near(self, members: list[Member], region: str) -> list[Member]:
        """The members of `region`, else of this POP's own, else all."""
        for wanted in (region, self._home):
            found = [member for member in members if member.region == wanted]
            if found:
                return found
        return members

    def has_another(self, tried: tuple[Member, ...], *, sent: bool) -> bool:
        """Whether a question may be put to an origin that was not tried: within the budget, if one has had it."""
        if len(tried) >= len(self.members):
            return False
        return not sent or (len(tried) < MOST_TRIES and self.retries.spend(self._questions, self.clock()))

    def fitted(self, question: Question, origin: Origin) -> Question:
        """The question as `origin` is to get it: with its own Host, if that is the setting."""
        if not self._own_host:
            return question
        line, _, rest = question.head.partition(b"\r\n")
        _, _, rest = rest.partition(b"\r\n")  # Host is the first field
        return question._replace(head=b"%b\r\nHost: %b\r\n%b" % (line, origin.authority.encode(), rest))

    # --- life

    def sweep(self, now: float) -> None:
        """End what is overdue, and check who is due; `now` in monotonic seconds."""
        for member in self.members:
            member.attempts = {attempt for attempt in member.attempts if not attempt.cancelled}
            member.pool.sweep(now)
            if self._check_path and now >= member.next_check:
                self._check(member, now)

    def _check(self, member: Member, now: float) -> None:
        """One active check: any answer below 400, before the next is due, is good."""
        if member.check is not None:
            member.check.cancel()
            member.health.checked(False, now)
        member.next_check = now + self._check_interval * (0.9 + self._chance.random() / 5)
        member.check = _Check(self, member, self._check_path)
        member.pool.ask(member.check)

    def close(self) -> None:
        """End every connection; what is under way fails."""
        for member in self.members:
            member.pool.close()

    @property
    def busy(self) -> int:
        """Connections that are answering a question, or being opened for one."""
        return sum(member.pool.busy for member in self.members)

    def __repr__(self) -> str:
        return f"<Origins {len(self.members)}>"


class _Attempt(Inquiry):
    """One question put to one origin, for an inquiry that may be put to the next."""

    def __init__(self, origins: Origins, member: Member, inquiry: Inquiry, tried: tuple[Member, ...]) -> None:
        self._ended = False
        self._asked_on: OriginConnection | None = None
        super().__init__(origins.fitted(inquiry.question, member.origin), inquiry.asked, inquiry.seen)
        self._origins = origins
        self._member = member
        self._inquiry = inquiry
        self._tried = (*tried, member)
        self._since = origins.clock()

    @property
    def cancelled(self) -> bool:
        """Whether nobody wants the answer any more, or it has come."""
        return self._ended or self._inquiry.cancelled

    @cancelled.setter
    def cancelled(self, value: bool) -> None:
        self._ended = value

    @property
    def asked_on(self) -> OriginConnection | None:
        """The connection that it is under way on: the inquiry's too, so that it can be cancelled."""
        return self._asked_on

    @asked_on.setter
    def asked_on(self, connection: OriginConnection | None) -> None:
        self._asked_on = self._inquiry.asked_on = connection

    def on_interim(self, response: Response) -> None:
        if not self.cancelled:
            self._inquiry.on_interim(response)

    def on_answer(self, response: Response, body: Body) -> None:
        if self._goes_on(response):
            body.discard()
            self._origins.put(self._inquiry, self._tried)
        else:
            self._inquiry.on_answer(response, body)

    def on_whole(self, response: Response, content: bytes) -> None:
        if self._goes_on(response):
            self._origins.put(self._inquiry, self._tried)
        else:
            self._inquiry.on_whole(response, content)

    def _goes_on(self, response: Response) -> bool:
        """Note the answer; whether another origin is to be asked instead."""
        self._member.attempts.discard(self)
        now = self._origins.clock()
        if response.status not in FAILING:
            self._member.health.answered(now - self._since, now)
            return False
        self._member.health.failed(now)
        return response.status in UNAVAILABLE and self._may_go_on(sent=True)

    def on_failure(self, error: OriginError) -> None:
        self._member.attempts.discard(self)
        if not isinstance(error, OriginBusy) and error.reason not in NOT_ITS_FAULT:
            self._member.health.failed(self._origins.clock())
        if error.reason not in NOT_ITS_FAULT and self._may_go_on(sent=self._asked_on is not None):
            self._origins.put(self._inquiry, self._tried)
        else:
            self._inquiry.fail(error)

    def _may_go_on(self, *, sent: bool) -> bool:
        question = self.question
        if self._inquiry.cancelled or not may_ask_another(
            question.method, sent=sent, has_body=question.body is not None
        ):
            return False
        return self._origins.has_another(self._tried, sent=sent)


class _Check(Inquiry):
    """One active check of one origin."""

    def __init__(self, origins: Origins, member: Member, path: str) -> None:
        head = f"GET {path} HTTP/1.1\r\nHost: {member.origin.authority}\r\nUser-Agent: edgecache\r\n\r\n"
        super().__init__(Question(b"GET", head.encode()), 0.0, 0)
        self._origins = origins
        self._member = member

    def on_answer(self, response: Response, body: Body) -> None:
        body.discard()
        self._over(response.status < 400)

    def on_whole(self, response: Response, content: bytes) -> None:
        self._over(response.status < 400)

    def on_failure(self, error: OriginError) -> None:
        self._over(False)

    def _over(self, good: bool) -> None:
        if self._member.check is self:
            self._member.check = None
            self._member.health.checked(good, self._origins.clock())
