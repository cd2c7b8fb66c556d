"""Several servers behind one `ask`: each question goes to one of them, and to another one where that is safe.

What is common to origins and parents. Who is asked is for the subclass to say, and what an answer says of its server.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

from edgecache.body import Body
from edgecache.config import Origin, Settings
from edgecache.retry_budget import RetryBudget
from edgecache.rules.balancing import FAILING, UNAVAILABLE, Health, Latencies, may_ask_another
from edgecache.rules.breaker import Breaker
from edgecache.rules.message import Response
from edgecache.rules.purge_log import UNKNOWN
from edgecache.rules.reasons import Word
from edgecache.wire.errors import OriginBusy, OriginError
from edgecache.wire.h1_client import Inquiry, OriginConnection, Question

if TYPE_CHECKING:
    from edgecache.origin import OriginPool

MOST_TRIES: Final = 3  # servers that one question is put to
MOST_SAVED: Final = 20.0  # retries that good times may save up for bad ones: more would make a storm of them
NOT_ITS_FAULT: Final = frozenset(("client-left", "internal"))  # reasons that say nothing of the server


class Speaks(Word):
    """What an answer says of the server that gave it."""

    WELL = "well"
    ILL = "ill"  # but it is an answer
    UNAVAILABLE = "unavailable"  # another server may not be: ask that one
    ELSEWHERE = "elsewhere"  # it is well, but could not ask: another one may
    DISTRUSTED = "distrusted"  # what it says cannot be used: ask another


class Check(NamedTuple):
    """How a server is asked whether it is well."""

    head: bytes
    is_good: Callable[[Response], bool]


class Member:
    """One server: its connections, how it is doing, and what it was asked and has not answered."""

    def __init__(
        self, origin: Origin, region: str, pool: OriginPool, health: Health, jurisdiction: str = "", name: str = ""
    ) -> None:
        self.origin = origin
        self.name = name  # what decides which keys it owns
        self.region = region
        self.jurisdiction = jurisdiction
        self.pool = pool
        self.health = health
        self.attempts: set[Attempt] = set()
        self.next_check = 0.0  # monotonic seconds
        self.heard = float("-inf")  # monotonic seconds: its last answer, to a check or a question
        self.ejected = float("-inf")  # monotonic seconds: when that last happened
        self.check: Checking | None = None

    def load(self, now: float) -> float:
        """What asking it costs."""
        return self.health.load(len(self.attempts), now)

    def failed(self, now: float) -> None:
        """It has let us down."""
        opened = self.health.breaker.opened
        self.health.failed(now)
        if self.health.breaker.opened != opened:
            self.ejected = now

    def __repr__(self) -> str:
        return f"<Member {self.origin}, {len(self.attempts)} under way>"


class Balancer:
    """Members behind one `ask`. Mutable state lies in the members, and in the budget for asking again."""

    members: list[Member]

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.chance = random.Random()
        self.asked = 0  # questions put to a member, those asked again included
        self.questions = 0  # those asked first
        self.retries = RetryBudget(MOST_SAVED)
        self.latencies = Latencies()
        self._closed = False
        self._check_interval = settings.origin_check_interval
        self._eject = settings.origin_eject_after, settings.origin_eject_for
        self._fall, self._rise = settings.origin_check_fall, settings.origin_check_rise
        self._slow_start = settings.origin_slow_start

    def new_health(self) -> Health:
        """Of a member that nothing is known of."""
        breaker = Breaker(*self._eject, jitter=lambda: self.chance.random() / 10)
        return Health(breaker, fall=self._fall, rise=self._rise, slow_start=self._slow_start)

    # --- for the subclass to say

    def choose(self, question: Question, tried: tuple[Member, ...]) -> Member | None:
        """Who is to be asked of those not `tried`; None: nobody."""
        raise NotImplementedError

    def nobody(self, inquiry: Inquiry) -> None:
        """There is nobody to ask: answer, or see to it."""
        raise NotImplementedError

    def has_untried(self, question: Question, tried: tuple[Member, ...]) -> bool:
        """Whether there is anybody but those `tried`."""
        raise NotImplementedError

    def fitted(self, question: Question, member: Member) -> Question:
        """The question as `member` is to get it."""
        return question

    def check_of(self, member: Member) -> Check | None:
        """How to see if `member` is well, if that is looked at."""
        return None

    def speaks(self, response: Response) -> Speaks:
        """What `response` says of whoever gave it."""
        if response.status not in FAILING:
            return Speaks.WELL
        return Speaks.UNAVAILABLE if response.status in UNAVAILABLE else Speaks.ILL

    def came(self, inquiry: Inquiry, response: Response) -> None:
        """`response` is about to answer `inquiry`."""

    # --- questions

    def ask(self, inquiry: Inquiry) -> None:
        """Put a question to one of the members."""
        self.questions += 1
        self.put(inquiry, ())

    def put(self, inquiry: Inquiry, tried: tuple[Member, ...]) -> None:
        """The same, leaving out those that were `tried`."""
        inquiry.asked_on = None  # what it was tried on is not its own any more
        member = self.choose(inquiry.question, tried)
        if member is None:
            self.nobody(inquiry)
            return
        self.asked += 1
        attempt = Attempt(self, member, inquiry, tried)
        member.attempts.add(attempt)
        member.pool.ask(attempt)

    def due(self, candidates: Iterable[Member], now: float) -> Member | None:
        """An ejected one whose time is over: this question is its probe."""
        ejected = (member for member in candidates if not member.health.is_well(may_probe=False, now=now))
        return next((member for member in ejected if member.health.is_well(may_probe=True, now=now)), None)

    def may_try_another(
        self, question: Question, tried: tuple[Member, ...], *, sent: bool, lost_since: float = inf
    ) -> bool:
        """Whether a question may be put to somebody else: within the budget, if one who was tried has had it.

        What was lost with a member that was ejected since is beside the budget: it is what was under way there, once.
        """
        if self._closed or not may_ask_another(question.method, sent=sent, has_body=question.body is not None):
            return False
        if not self.has_untried(question, tried):
            return False
        if not sent:
            return True
        if len(tried) >= MOST_TRIES:
            return False
        return lost_since <= tried[-1].ejected or self.retries.spend(self.questions, self.clock())

    # --- life

    def sweep(self, now: float) -> None:
        """End what is overdue, and check who is due; `now` in monotonic seconds."""
        for member in self.members:
            for attempt in tuple(member.attempts):
                if attempt.cancelled:
                    attempt.give_up()
            member.pool.sweep(now)
            if now >= member.next_check:
                self.check(member, now)

    def move(self, attempts: list[Attempt]) -> None:
        """Put these to somebody else in the stead of those who give no sign of life, as far as that may be."""
        now = self.clock()
        for attempt in attempts:
            attempt.member.failed(now)  # all of them first, so that none is asked in the stead of another
        for attempt in attempts:
            since = attempt.since
            if attempt.cancelled:
                continue
            if attempt.steps_aside():
                attempt.give_up()
            elif self.may_try_another(attempt.question, attempt.tried, sent=attempt.is_sent, lost_since=since):
                attempt.give_up()
                self.put(attempt.inquiry, attempt.tried)

    def slow_attempts(self, before: float) -> list[Attempt]:
        """What was asked before then, and is not answered."""
        return [attempt for member in self.members for attempt in member.attempts if attempt.since < before]

    def check(self, member: Member, now: float) -> None:
        """Ask `member` if it is well: it has to answer before the next check is due."""
        how = self.check_of(member)
        if how is None:
            return
        if member.check is not None:
            member.check.cancel()
            member.health.checked(False, now)
        member.next_check = now + self._check_interval * (0.9 + self.chance.random() / 5)
        member.check = Checking(self, member, how)
        member.pool.ask(member.check)

    def close(self) -> None:
        """End every connection; what is under way fails."""
        self._closed = True
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
        return f"<{type(self).__name__} {len(self.members)}>"


class Delegate(Inquiry):
    """A question asked in the stead of an inquiry's own: who cancels that one cancels this one too."""

    def __init__(self, question: Question, inquiry: Inquiry) -> None:
        self._ended = False
        self._asked_on: OriginConnection | None = None
        self.inquiry = inquiry
        super().__init__(question, inquiry.asked, inquiry.seen)

    @property
    def cancelled(self) -> bool:
        """Whether nobody wants the answer any more, or it has come."""
        return self._ended or self.inquiry.cancelled

    @cancelled.setter
    def cancelled(self, value: bool) -> None:
        self._ended = value

    @property
    def asked_on(self) -> OriginConnection | None:
        """The connection that it is under way on: the inquiry's too, so that it can be cancelled."""
        return self._asked_on

    @asked_on.setter
    def asked_on(self, connection: OriginConnection | None) -> None:
        self._asked_on = self.inquiry.asked_on = connection

    @property
    def is_sent(self) -> bool:
        """Whether it has left on a connection."""
        return self._asked_on is not None

    def on_interim(self, response: Response) -> None:
        """Told on."""
        if not self.cancelled:
            self.inquiry.on_interim(response)


class Attempt(Delegate):
    """One question put to one member, for an inquiry that may be put to the next."""

    def __init__(self, balancer: Balancer, member: Member, inquiry: Inquiry, tried: tuple[Member, ...]) -> None:
        super().__init__(balancer.fitted(inquiry.question, member), inquiry)
        self._balancer = balancer
        self.member = member
        self.tried = (*tried, member)
        self.since = balancer.clock()
        self._rival: Attempt | None = None  # the same question, put to another meanwhile
        self._was_hedged = False

    # --- a rival

    @property
    def may_be_hedged(self) -> bool:
        """Whether another may be asked the same meanwhile."""
        question = self.question
        sent = self.is_sent and not (self._was_hedged or self.cancelled or question.upgrade)
        return sent and may_ask_another(question.method, sent=True, has_body=question.body is not None)

    def hedged_by(self, member: Member) -> Attempt:
        """The same question for `member`, too."""
        rival = Attempt(self._balancer, member, self.inquiry, self.tried)
        self._rival, rival._rival = rival, self
        self._was_hedged = rival._was_hedged = True
        member.attempts.add(rival)
        return rival

    def give_up(self) -> None:
        """Nobody wants this answer any more; none of it has come."""
        self._ended = True
        self.member.attempts.discard(self)
        if self._asked_on is not None:
            self._asked_on.close()

    def _wins(self) -> None:
        """This answer is the one that counts."""
        rival, self._rival = self._rival, None
        if rival is not None:
            now = self._balancer.clock()
            rival.member.health.outrun(now - rival.since, now)
            rival.give_up()
            self.inquiry.asked_on = self._asked_on

    def steps_aside(self) -> bool:
        """Whether what went wrong here need not be told, because a rival may still do better."""
        rival, self._rival = self._rival, None
        if rival is None or rival.cancelled:
            return False
        rival._rival = None
        return True

    # --- what comes back

    def on_interim(self, response: Response) -> None:
        """Told on, unless two race: one of them alone may speak."""
        if self._rival is None:
            super().on_interim(response)

    def on_answer(self, response: Response, body: Body) -> None:
        """The inquiry's answer, unless somebody else is asked."""
        if self._is_final(response):
            self.inquiry.on_answer(response, body)
        else:
            body.discard()

    def on_whole(self, response: Response, content: bytes) -> None:
        """The same, in one piece."""
        if self._is_final(response):
            self.inquiry.on_whole(response, content)

    def _is_final(self, response: Response) -> bool:
        """Note the answer; whether it is the inquiry's: if not, somebody else has the question."""
        member, balancer = self.member, self._balancer
        member.attempts.discard(self)
        now = member.heard = balancer.clock()
        speaks = balancer.speaks(response)
        if speaks is Speaks.WELL:
            member.health.answered(now - self.since, now)
            balancer.latencies.add(now - self.since)
        elif speaks is not Speaks.ELSEWHERE:
            member.failed(now)
        if speaks in (Speaks.UNAVAILABLE, Speaks.ELSEWHERE, Speaks.DISTRUSTED):
            if self.steps_aside():
                return False
            if self._may_go_on(sent=speaks is Speaks.UNAVAILABLE):
                balancer.put(self.inquiry, self.tried)
                return False
        self._wins()
        balancer.came(self.inquiry, response)
        return True

    def on_failure(self, error: OriginError) -> None:
        """Somebody else is asked, if that is safe and within the budget."""
        self.member.attempts.discard(self)
        if not isinstance(error, OriginBusy) and error.reason not in NOT_ITS_FAULT:
            self.member.failed(self._balancer.clock())
        if self.steps_aside():
            return
        if error.reason not in NOT_ITS_FAULT and self._may_go_on(sent=self.is_sent, lost_since=self.since):
            self._balancer.put(self.inquiry, self.tried)
        else:
            self.inquiry.fail(error)

    def _may_go_on(self, *, sent: bool, lost_since: float = inf) -> bool:
        question = self.inquiry.question
        return not self.inquiry.cancelled and self._balancer.may_try_another(
            question, self.tried, sent=sent, lost_since=lost_since
        )


class Checking(Inquiry):
    """One active check of one member."""

    def __init__(self, balancer: Balancer, member: Member, how: Check) -> None:
        super().__init__(Question(how.head.split(b" ", 1)[0], how.head), 0.0, UNKNOWN)
        self._balancer = balancer
        self._member = member
        self._is_good = how.is_good
        self.since = balancer.clock()

    def on_answer(self, response: Response, body: Body) -> None:
        """It answers."""
        body.discard()
        self._answered(response)

    def on_whole(self, response: Response, content: bytes) -> None:
        """It answers."""
        self._answered(response)

    def on_failure(self, error: OriginError) -> None:
        """It does not."""
        self._over(False)

    def _answered(self, response: Response) -> None:
        self._member.heard = self._balancer.clock()
        self._over(self._is_good(response))

    def _over(self, good: bool) -> None:
        if self._member.check is self:
            self._member.check = None
            self._member.health.checked(good, self._balancer.clock())
