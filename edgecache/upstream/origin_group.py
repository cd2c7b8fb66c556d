"""Several origins behind one `send`: the least loaded of the region's, retries on another where that is safe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from edgecache.config.settings import Settings
from edgecache.semantics.message import Response
from edgecache.semantics.residency import REASON, may_serve
from edgecache.upstream.attempt import Attempt
from edgecache.upstream.health import by_weight, least_loaded, may_ask_another
from edgecache.upstream.load_balancer import USER_AGENT, Balancer, Check, Member
from edgecache.upstream.pool import OriginPool
from edgecache.upstream.pool_options import for_origin
from edgecache.valkey.circuit_breaker import State
from edgecache.wire.errors import OriginBusy
from edgecache.wire.upstream_connection import ProtocolFactory
from edgecache.wire.upstream_request import UpstreamCall, UpstreamRequest

SILENT: Final = 1.5  # seconds without any response from an origin
SILENT_TO: Final = 5  # requests, at least, that wait so long
NO_ORIGIN: Final = "no origin is in the jurisdiction that the answer must not leave"


class Origins(Balancer):
    """The origins of all regions."""

    def __init__(
        self,
        settings: Settings,
        protocol: ProtocolFactory,
        clock: Callable[[], float] = time.monotonic,
        failed: Callable[[str], None] = lambda reason: None,
    ) -> None:
        super().__init__(settings, clock)
        self._home = settings.region
        self._failed = failed
        self._own_host = settings.origin_host == "origin"
        self._check_path = settings.origin_check_path
        self._check_host = host_of_requests(settings)
        self._hedges = settings.origin_hedge
        self.hedged = 0  # requests sent to a second origin because the first was slow
        self.members = [
            Member(
                origin,
                region,
                OriginPool(for_origin(settings, origin), protocol, clock, failed),
                self.new_health(),
                settings.residency_rules.of_region(region),
            )
            for region, origins in settings.origins.items()
            for origin in origins
        ]
        self._weighted = len({member.origin.weight for member in self.members}) > 1

    # --- selection

    def choose(self, request: UpstreamRequest, tried: tuple[Member, ...]) -> Member | None:
        """The less loaded of two random members: of its region, or of any region if none of those is well."""
        now = self.clock()
        may_probe = may_ask_another(request.repeated_as, sent=True, has_body=request.has_body)
        allowed = self._allowed(request)
        left = [member for member in allowed if member not in tried] or allowed
        if not left:
            return None
        near = self._near(left, request.region.decode())
        for candidates in (near, left):
            well = [member for member in candidates if member.health.is_well(may_probe=False, now=now)]
            if may_probe and (probed := self.due(candidates, now)) is not None:
                return probed
            if well:
                return self._lighter(well, now)
        return self._lighter(near, now)  # none is well: try one

    def _lighter(self, members: list[Member], now: float) -> Member:
        """The less loaded of two random ones; by their weights, where those differ."""
        if not self._weighted:
            return members[least_loaded([member.load(now) for member in members], self.chance.randrange)]
        weights = [member.origin.weight * member.health.share(now) for member in members]
        return members[by_weight(weights, [len(member.attempts) for member in members], self._drawn)]

    def _drawn(self, weights: Sequence[float]) -> int:
        return self.chance.choices(range(len(weights)), weights)[0]

    def _allowed(self, request: UpstreamRequest) -> list[Member]:
        """The members in the jurisdiction that the response must not leave."""
        wanted = request.jurisdiction
        return [member for member in self.members if may_serve(member.jurisdiction, wanted)] if wanted else self.members

    def _near(self, members: list[Member], region: str) -> list[Member]:
        """The members of `region`, else of this POP's own, else all."""
        for wanted in (region, self._home):
            found = [member for member in members if member.region == wanted]
            if found:
                return found
        return members

    def none_left(self, call: UpstreamCall) -> None:
        """No member is in the jurisdiction that the response must not leave."""
        self._failed(REASON)
        call.fail(OriginBusy(REASON, NO_ORIGIN))

    def has_untried(self, request: UpstreamRequest, tried: tuple[Member, ...]) -> bool:
        """Whether there is another origin."""
        return any(member not in tried for member in self._allowed(request))

    def fitted(self, request: UpstreamRequest, member: Member) -> UpstreamRequest:
        """`request` with the origin's own Host, if that is wanted, and with credentials, if it has some."""
        if self._own_host if request.names_origin is None else request.names_origin:
            request = request.for_host(member.origin.authority.encode())
        return request if request.authorize is None else request.authorize(request)

    # --- life

    def sweep(self, now: float) -> None:
        """End what is overdue, start checks that are due, hedge slow requests; `now` in monotonic seconds."""
        super().sweep(now)
        if self._hedges and len(self.members) > 1 and any(member.attempts for member in self.members):
            self.hedge(self.slow_attempts(self.clock() - self.latencies.slow()))
            self._leave_silent(self.clock())

    def hedge(self, attempts: Iterable[Attempt]) -> None:
        """Send each of these safe requests to one more origin, within the budget; the first response counts.

        As coarse as the sweep that calls this: there is no timer per request.
        """
        now = self.clock()
        for attempt in attempts:
            if attempt.may_be_hedged and (other := self._rival_of(attempt, now)) is not None:
                if not self.retries.spend(self.requests, now):
                    return
                self.hedged += 1
                self.asked += 1
                other.pool.send(attempt.hedged_by(other))

    def _rival_of(self, attempt: Attempt, now: float) -> Member | None:
        """The least loaded of the region's healthy origins that do not have the request already."""
        well = [
            member
            for member in self._near(self._allowed(attempt.upstream_request), attempt.upstream_request.region.decode())
            if member not in attempt.tried and member.health.is_well(may_probe=False, now=now)
        ]
        return min(well, key=lambda member: member.load(now), default=None)

    def _leave_silent(self, now: float) -> None:
        """Retry the requests of origins that have sent no response while many waited: they are not merely slow.

        Those of an origin that is ejected or on probation, even if they are few.
        """
        silent: list[Attempt] = []
        for member in self.members:
            waiting = [attempt for attempt in member.attempts if attempt.since < now - SILENT]
            many = len(waiting) >= SILENT_TO or member.health.breaker.state is not State.CLOSED
            if many and member.heard < now - SILENT:
                silent += waiting
        self.move(silent)

    def check_of(self, member: Member) -> Check | None:
        """A GET of the path in the settings, for the site that requests are for; any status below 400 is good."""
        if not self._check_path:
            return None
        host = self._check_host or member.origin.authority
        fields = ((b"Host", host.encode()), USER_AGENT)
        return Check(UpstreamRequest(b"GET", self._check_path.encode(), fields), is_below_400)


def host_of_requests(settings: Settings) -> str:
    """The Host of forwarded requests, as far as the settings tell; empty: the origin's own authority."""
    if settings.origin_host == "client":
        return next(iter(settings.hosts), "")
    return "" if settings.origin_host == "origin" else settings.origin_host


class Confined:
    """The only origin, which is in this POP's jurisdiction and gets no requests of another."""

    def __init__(self, pool: OriginPool, jurisdiction: str) -> None:
        self._pool = pool
        self._jurisdiction = jurisdiction

    def send(self, call: UpstreamCall) -> None:
        """Send a request to the origin if its response may be in this jurisdiction."""
        if may_serve(self._jurisdiction, call.upstream_request.jurisdiction):
            self._pool.send(call)
        else:
            self._pool.failed(REASON)
            call.fail(OriginBusy(REASON, NO_ORIGIN))


def is_below_400(response: Response) -> bool:
    """Whether a response to a check is good."""
    return response.status < 400
