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
from edgecache.rules.balancing import FAILING, UNAVAILABLE, Health, Latencies, least_loaded, may_ask_another
from edgecache.rules.breaker import Breaker
from edgecache.rules.message import Response
from edgecache.rules.purge_log import UNKNOWN
from edgecache.wire.errors import OriginBusy, OriginError
from edgecache.wire.h1_client import Inquiry, OriginConnection, Question

MOST_TRIES: Final = 3  # origins that one question is put to
MOST_SAVED: Final = 20.0  # retries that good times may save up for bad ones: more would make a storm of them
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
        failed: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.clock = clock
        self._chance = chance or random.Random()
        self._home = settings.region
        self._own_host = settings.origin_host == "origin"
        self._check_path = settings.origin_check_path
        self._check_interval = settings.origin_check_interval
        self.asked = 0  # questions put to an origin, those asked again included
        self._questions = 0  # those asked first
        self.retries = RetryBudget(MOST_SAVED)
        self.hedged = 0  # questions put to a second origin because the first was slow
        self.latencies = Latencies()
        self._hedges = settings.origin_hedge
        self.members = [
            Member(
                origin,
                region,
                OriginPool(replace(settings, origin=origin, origins={}), clock, failed),
                self._health(settings),
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
            for attempt in tuple(member.attempts):
                if attempt.cancelled:
                    attempt.give_up()
            member.pool.sweep(now)
            if self._check_path and now >= member.next_check:
                self._check(member, now)

        if self._hedges and len(self.members) > 1 and any(member.attempts for member in self.members):
            self._hedge_slow(self.clock() - self.latencies.slow())

    def _hedge_slow(self, before: float) -> None:
        """Put safe questions that wait since `before` to one more origin, within the budget; the first answer counts.

        As coarse as the sweep that calls this: no timer per question.
        """
        for attempt in [attempt for member in self.members for attempt in member.attempts]:
            if attempt.since < before and attempt.may_be_hedged and (other := self._other_than(attempt)) is not None:
                if not self.retries.spend(self._questions, self.clock()):
                    return
                self.hedged += 1
                self.asked += 1
                other.pool.ask(attempt.hedged_by(other))

    def _other_than(self, attempt: _Attempt) -> Member | None:
        """The least loaded of the region's origins that are well, but for those that have the question already."""
        now = self.clock()
        well = [
            member
            for member in self._near(self.members, attempt.question.region.decode())
            if member not in attempt.tried and member.health.is_well(may_probe=False, now=now)
        ]
        return min(well, key=lambda member: member.load(now), default=None)

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
    def waiting(self) -> int:
        """Questions that wait for a connection."""
        return sum(member.pool.waiting for member in self.members)

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
        self.tried = (*tried, member)
        self.since = origins.clock()
        self._rival: _Attempt | None = None  # the same question, put to another origin meanwhile
        self._was_hedged = False

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

    # --- a rival

    @property
    def may_be_hedged(self) -> bool:
        """Whether another origin may be asked the same meanwhile."""
        question = self.question
        sent = self._asked_on is not None and not (self._was_hedged or self.cancelled or question.upgrade)
        return sent and may_ask_another(question.method, sent=True, has_body=question.body is not None)

    def hedged_by(self, member: Member) -> _Attempt:
        """The same question for `member`, too."""
        rival = _Attempt(self._origins, member, self._inquiry, self.tried)
        self._rival, rival._rival = rival, self
        self._was_hedged = rival._was_hedged = True
        member.attempts.add(rival)
        return rival

    def give_up(self) -> None:
        """Nobody wants this answer any more; none of it has come."""
        self._ended = True
        self._member.attempts.discard(self)
        if self._asked_on is not None:
            self._asked_on.close()

    def _wins(self) -> None:
        """This answer is the one that counts."""
        rival, self._rival = self._rival, None
        if rival is not None:
            now = self._origins.clock()
            rival._member.health.outrun(now - rival.since, now)
            rival.give_up()
            self._inquiry.asked_on = self._asked_on

    def _steps_aside(self) -> bool:
        """Whether what went wrong here need not be told, because a rival may still do better."""
        rival, self._rival = self._rival, None
        if rival is None or rival.cancelled:
            return False
        rival._rival = None
        return True

    # --- what comes back

    def on_interim(self, response: Response) -> None:
        if not self.cancelled and self._rival is None:
            self._inquiry.on_interim(response)

    def on_answer(self, response: Response, body: Body) -> None:
        if self._is_final(response):
            self._inquiry.on_answer(response, body)
        else:
            body.discard()

    def on_whole(self, response: Response, content: bytes) -> None:
        if self._is_final(response):
            self._inquiry.on_whole(response, content)

    def _is_final(self, response: Response) -> bool:
        """Note the answer; whether it is the inquiry's: if not, another origin has the question."""
        self._member.attempts.discard(self)
        now = self._origins.clock()
        if response.status not in FAILING:
            self._member.health.answered(now - self.since, now)
            self._origins.latencies.add(now - self.since)
            self._wins()
            return True
        self._member.health.failed(now)
        if response.status in UNAVAILABLE:
            if self._steps_aside():
                return False
            if self._may_go_on(sent=True):
                self._origins.put(self._inquiry, self.tried)
                return False
        self._wins()
        return True

    def on_failure(self, error: OriginError) -> None:
        self._member.attempts.discard(self)
        if not isinstance(error, OriginBusy) and error.reason not in NOT_ITS_FAULT:
            self._member.health.failed(self._origins.clock())
        if self._steps_aside():
            return
        if error.reason not in NOT_ITS_FAULT and self._may_go_on(sent=self._asked_on is not None):
            self._origins.put(self._inquiry, self.tried)
        else:
            self._inquiry.fail(error)

    def _may_go_on(self, *, sent: bool) -> bool:
        question = self.question
        if self._inquiry.cancelled or not may_ask_another(
            question.method, sent=sent, has_body=question.body is not None
        ):
            return False
        return self._origins.has_another(self.tried, sent=sent)


class _Check(Inquiry):
    """One active check of one origin."""

    is_check = True

    def __init__(self, origins: Origins, member: Member, path: str) -> None:
        head = f"GET {path} HTTP/1.1\r\nHost: {member.origin.authority}\r\nUser-Agent: edgecache\r\n\r\n"
        super().__init__(Question(b"GET", head.encode()), 0.0, UNKNOWN)
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
