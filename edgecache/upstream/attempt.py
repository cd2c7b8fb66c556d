"""One attempt of a request on one of several servers, and one active check: the response, and the server's health."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from edgecache.invalidation.purge_log import UNKNOWN
from edgecache.semantics.message import Response
from edgecache.semantics.outcomes import Label
from edgecache.upstream.attempt_state import ANSWERED, CANCELLED, FAILED, OVER, QUEUED, RETRIED, SENT, State, checked
from edgecache.upstream.health import may_ask_another
from edgecache.wire.body import Body
from edgecache.wire.errors import OriginBusy, OriginError
from edgecache.wire.upstream_connection import UpstreamConnection
from edgecache.wire.upstream_request import UpstreamCall, UpstreamRequest

if TYPE_CHECKING:
    from edgecache.upstream.load_balancer import Balancer, Check, Member

NOT_ITS_FAULT: Final = frozenset(("client-left", "internal"))  # reasons of failure that say nothing about the server


class Speaks(Label):
    """What a response says of the server that sent it."""

    WELL = "well"
    ILL = "ill"  # but its response counts
    UNAVAILABLE = "unavailable"  # retry on another server, which may be available
    ELSEWHERE = "elsewhere"  # it is well, but could not reach the origin: retry on another
    DISTRUSTED = "distrusted"  # its response cannot be used: retry on another


class Delegate(UpstreamCall):
    """A call in the place of another, which is cancelled with it."""

    def __init__(self, request: UpstreamRequest, call: UpstreamCall) -> None:
        self.state = QUEUED
        self._asked_on: UpstreamConnection | None = None
        self.call = call
        super().__init__(request, call.asked, call.seen)

    @property
    def cancelled(self) -> bool:
        """Whether no response is wanted, or expected, any more."""
        return self.state in OVER or self.call.cancelled

    @cancelled.setter
    def cancelled(self, value: bool) -> None:
        assert value, "it is for good"
        self.end(CANCELLED)

    def fail(self, error: OriginError) -> None:
        """There will be no response."""
        if not self.cancelled:
            self.enter(FAILED)
            self.on_failure(error)

    def enter(self, state: State) -> None:
        """Go on to `state`."""
        self.state = checked(self.state, state)

    def end(self, state: State) -> None:
        """The same, unless it is over already."""
        if self.state not in OVER:
            self.enter(state)

    def is_for(self, call: UpstreamCall) -> bool:
        """Whether this is `call`, or in its place."""
        return self is call or self.call.is_for(call)

    @property
    def asked_on(self) -> UpstreamConnection | None:
        """The connection that it is under way on; the delegating call's too, so that it can be cancelled."""
        return self._asked_on

    @asked_on.setter
    def asked_on(self, connection: UpstreamConnection | None) -> None:
        self._asked_on = self.call.asked_on = connection
        if connection is not None:
            self.enter(SENT)

    @property
    def is_sent(self) -> bool:
        """Whether it has left on a connection."""
        return self._asked_on is not None

    def on_interim(self, response: Response) -> None:
        """Forwarded."""
        if not self.cancelled:
            self.call.on_interim(response)


class Attempt(Delegate):
    """One attempt of a call on one member; the next may be on another."""

    def __init__(self, balancer: Balancer, member: Member, call: UpstreamCall, tried: tuple[Member, ...]) -> None:
        super().__init__(balancer.fitted(call.upstream_request, member), call)
        self._balancer = balancer
        self.member = member
        self.tried = (*tried, member)
        self.since = balancer.clock()
        self._rival: Attempt | None = None  # the same request, hedged on another member
        self._was_hedged = False

    # --- a rival

    @property
    def may_be_hedged(self) -> bool:
        """Whether the request may be sent to another member meanwhile; not if its response is for one client alone."""
        request = self.upstream_request
        sent = request.shared and self.is_sent and not (self._was_hedged or self.cancelled or request.upgrade)
        return sent and may_ask_another(request.repeated_as, sent=True, has_body=request.has_body)

    def hedged_by(self, member: Member) -> Attempt:
        """The same request, for `member`."""
        rival = Attempt(self._balancer, member, self.call, self.tried)
        self._rival, rival._rival = rival, self
        self._was_hedged = rival._was_hedged = True
        member.attempts.add(rival)
        return rival

    def give_up(self, state: State = CANCELLED) -> None:
        """This response is not wanted any more; none of it has come."""
        self.end(state)
        self.member.attempts.discard(self)
        if self._asked_on is not None:
            self._asked_on.close()

    def _wins(self) -> None:
        """Its response came first: give up the rival."""
        rival, self._rival = self._rival, None
        if rival is not None:
            now = self._balancer.clock()
            rival.member.health.outrun(now - rival.since, now)
            rival.give_up()
            self.call.asked_on = self._asked_on

    def steps_aside(self) -> bool:
        """Whether a rival is still under way, so that this failure does not count."""
        rival, self._rival = self._rival, None
        if rival is None or rival.cancelled:
            return False
        rival._rival = None
        return True

    # --- what comes back

    def on_interim(self, response: Response) -> None:
        """Forwarded, unless two attempts race."""
        if self._rival is None:
            super().on_interim(response)

    def on_answer(self, response: Response, body: Body) -> None:
        """The response to the call, unless it is retried."""
        if self._is_final(response):
            self.call.on_answer(response, body)
        else:
            body.discard()

    def on_whole(self, response: Response, content: bytes) -> None:
        """The same, in one piece."""
        if self._is_final(response):
            self.call.on_whole(response, content)

    def _is_final(self, response: Response) -> bool:
        """Record the response; whether it is the call's. If not, the call is retried, or a rival has it."""
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
                self.enter(RETRIED)
                return False
            if self._may_go_on(sent=speaks is Speaks.UNAVAILABLE):
                self.enter(RETRIED)
                balancer.put(self.call, self.tried)
                return False
        self.enter(ANSWERED)
        self._wins()
        balancer.came(self.call, response)
        return True

    def on_failure(self, error: OriginError) -> None:
        """The call is retried on another member, if that is safe and within the budget."""
        self.member.attempts.discard(self)
        if not isinstance(error, OriginBusy) and error.reason not in NOT_ITS_FAULT:
            self.member.failed(self._balancer.clock())
        if self.steps_aside():
            self.enter(RETRIED)
            return
        if error.reason not in NOT_ITS_FAULT and self._may_go_on(sent=self.is_sent, lost_since=self.since):
            self.enter(RETRIED)
            self._balancer.put(self.call, self.tried)
        else:
            self.call.fail(error)

    def _may_go_on(self, *, sent: bool, lost_since: float = inf) -> bool:
        request = self.call.upstream_request
        return not self.call.cancelled and self._balancer.may_try_another(
            request, self.tried, sent=sent, lost_since=lost_since
        )


class Checking(UpstreamCall):
    """One active check of one member."""

    is_check = True

    def __init__(self, balancer: Balancer, member: Member, how: Check) -> None:
        super().__init__(how.request, 0.0, UNKNOWN)
        self._balancer = balancer
        self._member = member
        self._is_good = how.is_good
        self.since = balancer.clock()

    def on_answer(self, response: Response, body: Body) -> None:
        """The server responds."""
        body.discard()
        self._answered(response)

    def on_whole(self, response: Response, content: bytes) -> None:
        """The server responds."""
        self._answered(response)

    def on_failure(self, error: OriginError) -> None:
        """The server does not respond."""
        self._over(False)

    def _answered(self, response: Response) -> None:
        self._member.heard = self._balancer.clock()
        self._over(self._is_good(response))

    def _over(self, good: bool) -> None:
        if self._member.check is self:
            self._member.check = None
            self._member.health.checked(good, self._balancer.clock())
