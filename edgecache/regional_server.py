"""The regional tier as the supervisor sees it: the check at the start, and whether it is well."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Final

from edgecache.config import Settings
from edgecache.errors import ConfigError
from edgecache.valkey import Access, Failure, Link, is_refused, parse_url

log = logging.getLogger("edgecache.supervisor")
VARIABLE: Final = "EDGECACHE_REGIONAL"
PROBE_EVERY: Final = 2.0  # seconds
PROBE_TIMEOUT: Final = 1.0


def access_of(settings: Settings, timeout: float, url: str = "") -> Access:
    """How to reach the tier that the settings name, or the one at `url`; `timeout` in seconds."""
    return Access(
        parse_url(url or settings.regional),
        timeout=timeout,
        ca=settings.regional_ca,
        certificate=settings.regional_certificate,
        certificate_key=settings.regional_certificate_key or settings.regional_certificate,
        replicas=settings.regional_replicas,
    )


async def check(settings: Settings) -> None:
    """Refuse the start if the tier will never let us in, or is not there and has to be; else warn.

    Raises ConfigError.
    """
    if settings.regional == "off":
        return
    problem = await _problem(settings)
    if problem is None:
        return
    words = (str(problem).splitlines() or [""])[0] or type(problem).__name__
    if is_refused(problem):
        raise ConfigError(VARIABLE, f"{parse_url(settings.regional)} does not let us in: {words}")
    if settings.regional_required:
        raise ConfigError(VARIABLE, f"{parse_url(settings.regional)} cannot be reached: {words}")
    log.warning("regional tier unreachable, serving without it: %s", words)


async def _problem(settings: Settings) -> BaseException | None:
    link = Link(access_of(settings, PROBE_TIMEOUT))
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
    """Whether the tier is well: `off`, `ready` or `degraded`. A POP without it serves all the same.

    It asks on a connection that it keeps, as the workers do, for what writes and purges need.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.state = "off" if settings.regional == "off" else "starting"

    async def run(self) -> None:
        """Look every two seconds, for ever; return at once if there is nothing to look at."""
        if self.state == "off":
            return
        link = Link(access_of(self._settings, PROBE_TIMEOUT))
        try:
            while True:
                await self._look(link)
                await asyncio.sleep(PROBE_EVERY)
        finally:
            with suppress(*Failure):
                await link.close()

    async def _look(self, link: Link) -> None:
        problem = await _problem_of(link)
        state = "ready" if problem is None else "degraded"
        if state != self.state and problem is not None:
            log.warning("regional tier degraded: %s", (str(problem).splitlines() or [""])[0])
        self.state = state
