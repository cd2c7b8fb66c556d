"""The upstream in use, replaced by a reload: requests under way end on the former one, the next go to the new one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from edgecache.config.settings import Settings
from edgecache.upstream.load_balancer import Balancer
from edgecache.upstream.origin_group import Confined, Origins
from edgecache.upstream.parent_selection import Parents
from edgecache.upstream.pool import OriginPool
from edgecache.upstream.pool_options import for_origin
from edgecache.wire.upstream_connection import ProtocolFactory
from edgecache.wire.upstream_request import UpstreamCall


class WayUp:
    """The origin or origins, and the parents before them, if there are any."""

    def __init__(
        self,
        settings: Settings,
        protocol: ProtocolFactory,
        origin_failed: Callable[[str], None],
        parent_failed: Callable[[str], None],
    ) -> None:
        direct: Confined | OriginPool | Origins
        self.origin: OriginPool | Origins
        if settings.origins:
            direct = self.origin = Origins(settings, protocol, failed=origin_failed)
        else:
            direct = self.origin = OriginPool(for_origin(settings, settings.origin), protocol, failed=origin_failed)
            if settings.pop_secret or settings.pop_ca or settings.residency_rules.home:
                direct = Confined(self.origin, settings.residency_rules.home)
        self.parents = Parents(settings, direct, protocol, failed=parent_failed) if settings.parents else None
        self.send = (self.parents or direct).send  # send a request

    def sweep(self, now: float) -> None:
        """End what is overdue; `now` in monotonic seconds."""
        self.origin.sweep(now)
        if self.parents is not None:
            self.parents.sweep(now)

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""
        if self.origin.busy or self.origin.waiting:
            return False
        parents = self.parents
        return parents is None or not (parents.busy or parents.waiting or parents.bypass.waiting)

    def close(self) -> None:
        """End every connection; what is under way fails."""
        self.origin.close()
        if self.parents is not None:
            self.parents.close()

    def counts(self) -> Counts:
        """The requests sent on it so far."""
        asked, retries, refused = _asked_of(self.origin)
        if self.parents is None:
            return Counts(asked, retries, refused)
        of_parents, parent_retries, _ = _asked_of(self.parents)
        return Counts(asked, retries, refused, of_parents, parent_retries, self.parents.bypass.asked)


def _asked_of(way: OriginPool | Balancer) -> tuple[int, int, int]:
    """Requests sent, the retries among them, and the retries refused by the budget."""
    if isinstance(way, OriginPool):
        return way.asked, way.repeated, 0
    return way.asked + way.repeated, way.retries.spent + way.repeated, way.retries.refused


class Counts(NamedTuple):
    """Requests ever, retries included; retries, and those refused by the budget; the same of parents."""

    asked: int = 0
    retries: int = 0
    refused: int = 0
    of_parents: int = 0
    parent_retries: int = 0
    bypassed: int = 0

    def plus(self, other: Counts) -> Counts:
        """The sum of both."""
        return Counts(*(one + another for one, another in zip(self, other, strict=True)))


class Switch:
    """Mutable state: the way in use, former ones that still have requests, and the counts of those that ended."""

    def __init__(self, way: WayUp) -> None:
        self.current = way
        self._former: list[WayUp] = []
        self._past = Counts()

    def send(self, call: UpstreamCall) -> None:
        """Send a request."""
        self.current.send(call)

    def replace(self, way: WayUp) -> None:
        """Send further requests on `way`."""
        self._former.append(self.current)
        self.current = way

    def sweep(self, now: float) -> None:
        """End what is overdue, and close former ways that are idle; `now` in monotonic seconds."""
        self.current.sweep(now)
        for way in tuple(self._former):
            way.sweep(now)
            if way.idle:
                self._former.remove(way)
                self._past = self._past.plus(way.counts())
                way.close()

    def close(self) -> None:
        """End every connection; what is under way fails."""
        for way in self._all:
            way.close()

    @property
    def counts(self) -> Counts:
        """The requests of all ways ever."""
        counts = self._past
        for way in self._all:
            counts = counts.plus(way.counts())
        return counts

    @property
    def _all(self) -> list[WayUp]:
        return [self.current, *self._former]

    @property
    def waiting(self) -> int:
        """Requests that wait for a connection to an origin."""
        return sum(way.origin.waiting for way in self._all)

    @property
    def busy(self) -> int:
        """Connections to origins that are answering a request, or being opened for one."""
        return sum(way.origin.busy for way in self._all)

    @property
    def bypass_waiting(self) -> int:
        """Requests that wait to go past the parents."""
        return sum(way.parents.bypass.waiting for way in self._all if way.parents is not None)

    def __repr__(self) -> str:
        return f"<Switch to {self.current.origin!r}, {len(self._former)} former>"
