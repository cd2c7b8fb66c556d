"""The upstream in use, replaced by a reload: requests under way end on the former one, the next go to the new one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from edgecache.config.settings import Settings
from edgecache.upstream.load_balancer import Balancer
from edgecache.upstream.origin_group import Confined, Origins
from edgecache.upstream.parent_selection import Parents
from edgecache.upstream.pool import OriginPool
from edgecache.upstream.pool_options import for_origin
from edgecache.upstream.site_pools import SitePools
from edgecache.wire.upstream_connection import ProtocolFactory
from edgecache.wire.upstream_request import Credential


class WayUp:
    """The origin or origins, and the parents before them, if there are any."""

    def __init__(
        self,
        settings: Settings,
        protocol: ProtocolFactory,
        origin_failed: Callable[[str], None],
        parent_failed: Callable[[str], None],
        pool_failed: Callable[[str, str], None] = lambda pool, reason: None,
        on_open: Callable[[str, Origins], None] = lambda pool, origins: None,
    ) -> None:
        direct: Confined | OriginPool | Origins | SitePools
        direct = self.origin = opened(protocol, origin_failed, settings)
        if isinstance(self.origin, OriginPool) and (
            settings.pop_secret or settings.pop_ca or settings.residency_rules.home
        ):
            direct = Confined(self.origin, settings.residency_rules.home)
        self.sites: SitePools | None = None
        if settings.sites is not None:

            def open_pool(name: str, its: Settings) -> Origins:
                return Origins(its, protocol, failed=lambda reason: pool_failed(name, reason))

            direct = self.sites = SitePools(_pools_of(settings), open_pool, _credentials_of(settings), on_open)
        self.parents = Parents(settings, direct, protocol, failed=parent_failed) if settings.parents else None
        self.send = (self.parents or direct).send  # send a request

    def sweep(self, now: float) -> None:
        """End what is overdue; `now` in monotonic seconds."""
        for pool in self.origins:
            pool.sweep(now)
        if self.parents is not None:
            self.parents.sweep(now)

    @property
    def origins(self) -> tuple[OriginPool | Origins, ...]:
        """The usual origin, or origins; of sites, the pools that are in use."""
        return (self.origin,) if self.sites is None else tuple(self.sites.pools)

    def take_over(self, former: WayUp) -> None:
        """Go on with those pools of `former` that are configured alike here."""
        if self.sites is not None and former.sites is not None:
            self.sites.take_over(former.sites)

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""
        if any(pool.busy or pool.waiting for pool in self.origins):
            return False
        parents = self.parents
        return parents is None or not (parents.busy or parents.waiting or parents.bypass.waiting)

    def close(self) -> None:
        """End every connection; what is under way fails."""
        for pool in (self.origin, *self.origins):
            pool.close()
        if self.parents is not None:
            self.parents.close()

    def counts(self) -> Counts:
        """The requests sent on it so far."""
        asked, retries, refused = map(sum, zip((0, 0, 0), *map(_asked_of, self.origins), strict=True))
        if self.parents is None:
            return Counts(asked, retries, refused)
        of_parents, parent_retries, _ = _asked_of(self.parents)
        return Counts(asked, retries, refused, of_parents, parent_retries, self.parents.bypass.asked)


def _pools_of(settings: Settings) -> Mapping[str, Settings]:
    """Settings by the name of each pool that sites have."""
    from edgecache.config.sites.pools import pools_of  # with libraries that only those need who have sites

    return pools_of(settings)


def _credentials_of(settings: Settings) -> Mapping[str, Credential]:
    """What routes of sites authenticate with, by name."""
    from edgecache.config.sites.credentials import secret_in
    from edgecache.upstream import credentials
    from edgecache.upstream.s3_signature import AccessKey

    made: dict[str, Credential] = {}
    assert settings.sites is not None, "pools are of sites"
    for name, one in settings.sites.document.credentials.items():
        secret = secret_in(settings.sites.files[one.secret])
        match one.kind:
            case "bearer":
                made[name] = credentials.bearer(secret)
            case "basic":
                made[name] = credentials.basic(one.user, secret)
            case "s3":
                made[name] = credentials.S3(AccessKey(one.user, secret, one.region))
    return made


def opened(protocol: ProtocolFactory, failed: Callable[[str], None], settings: Settings) -> OriginPool | Origins:
    """The origins that these settings name."""
    if settings.origins:
        return Origins(settings, protocol, failed=failed)
    return OriginPool(for_origin(settings, settings.origin), protocol, failed=failed)


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
        self.send = way.send  # send a request
        self._former: list[WayUp] = []
        self._past = Counts()

    def replace(self, way: WayUp) -> None:
        """Send further requests on `way`; pools that are configured alike go on in it with their connections."""
        way.take_over(self.current)
        self._former.append(self.current)
        self.current, self.send = way, way.send

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
        return sum(pool.waiting for way in self._all for pool in way.origins)

    @property
    def busy(self) -> int:
        """Connections to origins that are answering a request, or being opened for one."""
        return sum(pool.busy for way in self._all for pool in way.origins)

    @property
    def bypass_waiting(self) -> int:
        """Requests that wait to go past the parents."""
        return sum(way.parents.bypass.waiting for way in self._all if way.parents is not None)

    def __repr__(self) -> str:
        return f"<Switch to {self.current.origin!r}, {len(self._former)} former>"
