"""Parent selection: the owner of the key among the healthy parents, else the next one, else the origin.

    the region's parents ──► other regions' ──► the origin, a bounded number at a time

All POPs with the same parents select the same one for a key, so that one shield holds it and the origin gets one
request. An error from a parent comes from the origin, and is not retried; a request is retried only if it has not
reached an origin, or if the parent cannot be reached.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from edgecache.config.settings import Settings
from edgecache.semantics.message import Response
from edgecache.semantics.outcomes import Tier
from edgecache.semantics.residency import may_serve
from edgecache.upstream.attempt import Attempt, Delegate, Speaks
from edgecache.upstream.attempt_state import ANSWERED
from edgecache.upstream.health import UNAVAILABLE
from edgecache.upstream.load_balancer import USER_AGENT, Balancer, Check, Member
from edgecache.upstream.origin_group import Confined, Origins
from edgecache.upstream.peer_fields import has_not_asked, passed_through, seen_of
from edgecache.upstream.pool import OriginPool
from edgecache.upstream.pool_options import for_parent
from edgecache.upstream.rendezvous_hash import ranked_by_load
from edgecache.upstream.site_pools import SitePools
from edgecache.wire.body import Body
from edgecache.wire.errors import OriginBusy, OriginError
from edgecache.wire.upstream_connection import ProtocolFactory
from edgecache.wire.upstream_request import UpstreamCall, UpstreamRequest

log = logging.getLogger("edgecache")
SILENT: Final = 1.0  # seconds without a sign of life from a parent, after which its requests are retried on another
LOOPED: Final = 508
UNBOUNDED: Final = 64  # requests under way at a parent that do not count as load: small numbers differ by chance


class Parents(Balancer):
    """The parents of this POP, and the way past them. Mutable state: the members', and the requests past them."""

    def __init__(
        self,
        settings: Settings,
        origin: Confined | OriginPool | Origins | SitePools,
        protocol: ProtocolFactory,
        clock: Callable[[], float] = time.monotonic,
        failed: Callable[[str], None] = lambda reason: None,
    ) -> None:
        super().__init__(settings, clock)
        self._failed = failed
        self._told = False  # that a parent lacks a site
        self._pop = settings.pop
        self._home = settings.region
        self.bypass = Bypass(
            origin, settings.parent_bypass, settings.origin_queue, settings.origin_queue_timeout, clock
        )
        self.members = [
            Member(
                parent,
                region or settings.region,
                OriginPool(for_parent(settings, parent), protocol, clock, failed),
                self.new_health(),
                settings.residency_rules.of_region(region or settings.region),
                parent.name,
            )
            for region, parents in settings.parents.items()
            for parent in parents
        ]

    # --- selection

    def send(self, call: UpstreamCall) -> None:
        """Send a request to the owner of its key; one that is not for parents goes to the origin at once."""
        if call.upstream_request.wording is None:
            self.bypass.origin.send(call)
        else:
            super().send(call)

    def choose(self, request: UpstreamRequest, tried: tuple[Member, ...]) -> Member | None:
        """The owner of the key among the region's healthy members, else among those of all regions."""
        now = self.clock()
        wanted = request.jurisdiction
        left = [one for one in self.members if one not in tried and may_serve(one.jurisdiction, wanted)]
        near = [member for member in left if member.region == self._home]
        for candidates in (near, left):
            if (probed := self.due(candidates, now)) is not None:
                return probed
            if well := [member for member in candidates if member.health.is_well(may_probe=False, now=now)]:
                return self._owner(request, well, now)
        return None

    @staticmethod
    def _owner(request: UpstreamRequest, members: list[Member], now: float) -> Member:
        assert request.wording is not None, "other requests go past the parents"
        named = {member.name: member for member in members}
        weights = {name: member.health.share(now) for name, member in named.items()}
        load = {name: max(0, len(member.attempts) - UNBOUNDED) for name, member in named.items()}
        return named[ranked_by_load(request.wording.key, weights, load)[0]]

    def none_left(self, call: UpstreamCall) -> None:
        """Past all parents, to the origin."""
        self.bypass.send(call)

    def has_untried(self, request: UpstreamRequest, tried: tuple[Member, ...]) -> bool:
        """There is always the origin."""
        return True

    def fitted(self, request: UpstreamRequest, member: Member) -> UpstreamRequest:
        """`request` with the fields for a parent, signed now."""
        assert request.wording is not None, "other requests go past the parents"
        return request.with_fields(request.wording.for_parent(member.origin.scheme.encode()))

    # --- what comes back

    def speaks(self, response: Response) -> Speaks:
        """Whether the parent is healthy, and whether its response is final."""
        if response.status == 421 and not passed_through(response):
            self._lacks_site()
            return Speaks.ELSEWHERE
        if response.status == LOOPED or (400 <= response.status < 500 and not passed_through(response)):
            return Speaks.WELL
        if response.status in UNAVAILABLE and not passed_through(response):
            return Speaks.UNAVAILABLE  # from a server in front of it
        if has_not_asked(response):
            return Speaks.ELSEWHERE
        if seen_of(response) is None:
            self._failed("no-proof")
            return Speaks.DISTRUSTED  # it does not know this POP: its response may be older than a purge here
        return Speaks.WELL

    def _lacks_site(self) -> None:
        self._failed("no-site")
        if not self._told:
            self._told = True
            log.warning("a parent has no site for a request (421): its EDGECACHE_SITES differ from those of this POP")

    def came(self, call: UpstreamCall, response: Response) -> None:
        """Take over the log position at which the parent requested the response."""
        call.answered_by = Tier.PARENT
        wording = call.upstream_request.wording
        assert wording is not None, "it came from a parent"
        call.seen = wording.proven(call.seen, response)

    # --- life

    def sweep(self, now: float) -> None:
        """End what is overdue, and retry the requests of parents without a sign of life; `now` in monotonic seconds."""
        super().sweep(now)
        self.bypass.sweep(now)
        self.move([attempt for attempt in self.slow_attempts(self.clock() - SILENT) if self._is_silent(attempt)])

    def _is_silent(self, attempt: Attempt) -> bool:
        """Whether the parent has sent nothing at all for a while, and does not respond to a check.

        A parent that waits for a slow origin does respond: to retry on another would request of the origin twice.
        """
        member, now = attempt.member, self.clock()
        if member.heard > now - SILENT:
            return False
        if member.check is None:
            self.check(member, now)
        return member.check is not None and now - member.check.since >= SILENT / 2 + 2 * member.health.latency

    def check_of(self, member: Member) -> Check | None:
        """A request that no POP forwards: any response of a POP is a sign of life, unless the POP is this one."""
        host, pop = (b"Host", member.origin.authority.encode()), (b"CDN-Loop", self._pop.encode())
        fields = (host, (b"Cache-Control", b"only-if-cached"), pop, USER_AGENT)
        return Check(UpstreamRequest(b"HEAD", b"/", fields), self._is_alive)

    @staticmethod
    def _is_alive(response: Response) -> bool:
        if response.status == LOOPED:
            log.error("a parent of this POP is this POP itself, or has the same name")
            return False
        return response.status < 500 or passed_through(response)

    def close(self) -> None:
        """End every connection; what is under way fails."""
        super().close()
        self.bypass.close()


class Bypass:
    """The way to the origin past all parents, for `most` requests at a time: the origin must not get the full load.

    Mutable state: the requests under way, and those that wait, in order.
    """

    def __init__(
        self,
        origin: Confined | OriginPool | Origins | SitePools,
        most: int,
        queue: int,
        timeout: float,
        clock: Callable[[], float],
    ) -> None:
        self.origin = origin
        self.asked = 0
        self._most = most
        self._queue = queue
        self._timeout = timeout
        self._clock = clock
        self._under_way: set[_Detour] = set()
        self._waiting: deque[tuple[float, UpstreamCall]] = deque()

    def send(self, call: UpstreamCall) -> None:
        """Send a request to the origin now, or when its turn comes; fail it if too many wait."""
        if len(self._under_way) < self._most:
            self._go(call)
        elif len(self._waiting) < self._queue:
            self._waiting.append((self._clock() + self._timeout, call))
        else:
            call.fail(OriginBusy("bypass-full", "no parent can be asked, and too many requests wait"))

    def _go(self, call: UpstreamCall) -> None:
        self.asked += 1
        detour = _Detour(self, call)
        self._under_way.add(detour)
        self.origin.send(detour)

    def over(self, detour: _Detour) -> None:
        """`detour` has ended: the next may go."""
        if detour not in self._under_way:
            return
        self._under_way.discard(detour)
        while self._waiting and len(self._under_way) < self._most:
            _, call = self._waiting.popleft()
            if not call.cancelled:
                self._go(call)

    def sweep(self, now: float) -> None:
        """End what is overdue; `now` in monotonic seconds."""
        for detour in tuple(self._under_way):
            if detour.cancelled:
                self.over(detour)
        while self._waiting and self._waiting[0][0] < now:
            _, call = self._waiting.popleft()
            call.fail(OriginBusy("bypass-timeout", "no parent can be asked, and the way past them stayed full"))

    def close(self) -> None:
        """Drop the requests that wait."""
        self._waiting.clear()

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return len(self._waiting)


class _Detour(Delegate):
    """One request on its way past the parents."""

    def __init__(self, bypass: Bypass, call: UpstreamCall) -> None:
        wording = call.upstream_request.wording
        assert wording is not None, "other requests go there without a bound"
        super().__init__(call.upstream_request.with_fields(wording.for_origin()), call)
        self._bypass = bypass

    def on_answer(self, response: Response, body: Body) -> None:
        self.enter(ANSWERED)
        body.when_ended(lambda _: self._bypass.over(self))
        self.call.on_answer(response, body)

    def on_whole(self, response: Response, content: bytes) -> None:
        self.enter(ANSWERED)
        self._bypass.over(self)
        self.call.on_whole(response, content)

    def on_failure(self, error: OriginError) -> None:
        self._bypass.over(self)
        self.call.fail(error)
