"""The supervisor's checks of the regional tier: at the start, and of its health from then on."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from edgecache.config.settings import Settings
from edgecache.config.valkey_url import parse_url
from edgecache.semantics.errors import ConfigError
from edgecache.valkey.client import Access, Failure, Link, is_refused

VARIABLE: Final = "EDGECACHE_REGIONAL"
PEERS: Final = "EDGECACHE_PEERS"
PROBE_EVERY: Final = 2.0  # seconds
PROBE_TIMEOUT: Final = 1.0


def access_of(settings: Settings, timeout: float, url: str = "") -> Access:
    """The access to the tier of the settings, or to the one at `url`; `timeout` in seconds."""
    return Access(
        parse_url(url or settings.regional),
        timeout=timeout,
        ca=settings.regional_ca,
        certificate=settings.regional_certificate,
        certificate_key=settings.regional_certificate_key or settings.regional_certificate,
        replicas=settings.regional_replicas,
        dns_ttl=settings.dns_ttl,
        connection_age=settings.origin_connection_age,
    )


async def check(settings: Settings) -> None:
    """Refuse the start if the tier, or a peer's, rejects our credentials, or if it is required and unreachable.

    Raises ConfigError.
    """
    if settings.regional == "off":
        return
    problem, _ = await asyncio.gather(_problem(settings), check_peers(settings))
    if problem is None:
        return
    words = first_line(problem)
    if is_refused(problem):
        raise ConfigError(VARIABLE, f"{parse_url(settings.regional)} refuses access: {words}")
    if settings.regional_required:
        raise ConfigError(VARIABLE, f"{parse_url(settings.regional)} cannot be reached: {words}")


async def check_peers(settings: Settings) -> None:
    """Refuse the start if a peer's Valkey rejects our credentials; an unreachable one may come back.

    Raises ConfigError.
    """
    problems = await asyncio.gather(*(_problem(settings, url) for url in settings.peers.values()))
    for (peer, url), problem in zip(settings.peers.items(), problems, strict=True):
        if problem is not None and is_refused(problem):
            raise ConfigError(PEERS, f"{parse_url(url)} of {peer} refuses access: {first_line(problem)}")


def first_line(problem: BaseException) -> str:
    """The first line of the message of `problem`."""
    return (str(problem).splitlines() or [""])[0] or type(problem).__name__


async def _problem(settings: Settings, url: str = "") -> BaseException | None:
    link = Link(access_of(settings, PROBE_TIMEOUT, url))
    try:
        return await _problem_of(link)
    finally:
        with suppress(*Failure):
            await link.close()


async def _problem_of(link: Link) -> BaseException | None:
    try:
        async with asyncio.timeout(2 * PROBE_TIMEOUT):
            await link.ping()
    except Failure as error:
        return error
    return None


class Probe:
    """The health of the tier: `off`, `ready` or `degraded`. A POP without it serves all the same.

    It keeps a connection, as the workers do, and executes what writes and purges need.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.state = "off" if settings.regional == "off" else "starting"
        self.problem = ""  # the reason, if it is degraded

    async def run(self) -> None:
        """Check every PROBE_EVERY seconds, for ever; return at once without a tier."""
        if self.state == "off":
            return
        link = Link(access_of(self._settings, PROBE_TIMEOUT))
        try:
            while True:
                await self._check(link)
                await asyncio.sleep(PROBE_EVERY)
        finally:
            with suppress(*Failure):
                await link.close()

    async def _check(self, link: Link) -> None:
        problem = await _problem_of(link)
        self.problem = "" if problem is None else first_line(problem)
        self.state = "ready" if problem is None else "degraded"
