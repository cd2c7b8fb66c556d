"""State of a POP's dependencies for `/readyz`, with one warning per change.

Sources are the workers' metrics (origins, parents, regional tier), the supervisor's replicators of the peers'
logs, and its probe of the regional tier. An origin or parent fails if any current worker reports it unhealthy.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from edgecache.config.settings import Settings
from edgecache.telemetry.metrics import Snapshot

log = logging.getLogger("edgecache.supervisor")
LOOK_EVERY: Final = 1.0  # seconds
HOLD: Final = 5.0  # seconds of health before a recovery is logged
POOL: Final = "pool"
NOUNS: Final = {"origin": "origin", "parent": "parent", POOL: "origin"}
KINDS: Final = tuple(NOUNS)
DROPPED: Final = "edgecache_access_log_dropped"
READY: Final = "ready"
FAILING: Final = "failing"
UNKNOWN: Final = "unknown"  # no worker has reported yet


class StateChanges:
    """Logs each change of state once. Mutable state: failing subjects, and since when each is healthy again."""

    def __init__(self, hold: float = HOLD, clock: Callable[[], float] = time.monotonic) -> None:
        self._hold = hold
        self._clock = clock
        self._ill: set[str] = set()
        self._well_since: dict[str, float] = {}

    def see(self, subject: str, trouble: str, well: str) -> None:
        """Report `trouble` of `subject`, empty if none; `well` is the message on recovery."""
        if trouble:
            self._well_since.pop(subject, None)
            if subject not in self._ill:
                self._ill.add(subject)
                log.warning("%s", trouble)
        elif subject in self._ill:
            now = self._clock()
            if now - self._well_since.setdefault(subject, now) >= self._hold:
                self._ill.discard(subject)
                del self._well_since[subject]
                log.warning("%s", well)

    def forget_all_but(self, subjects: Iterable[str]) -> None:
        """Drop subjects that are no longer configured."""
        self._ill.intersection_update(subjects)


class Dependencies:
    """State of origins, parents, regional tier, peers and access log."""

    def __init__(
        self,
        settings: Callable[[], Settings],
        workers: Callable[[], list[Snapshot]],
        whole: Callable[[], list[Snapshot]],
        regional: Callable[[], tuple[str, str]],
        peers: Callable[[], Mapping[str, str]],
        changes: StateChanges | None = None,
    ) -> None:
        self._settings = settings
        self._workers = workers  # metrics of each current worker
        self._whole = whole  # metrics of each slot, including ended workers
        self._regional = regional  # state of the regional tier, and its problem
        self._peers = peers  # problem of each peer's log copy; empty: none
        self._changes = changes or StateChanges()
        self._dropped = 0.0

    def parts(self) -> dict[str, str]:
        """State by dependency."""
        state, trouble = self._tier()
        parts = {"regional": "degraded" if trouble else state}
        for kind in KINDS:
            told = self._told(kind)
            for name in self._configured(kind, told):
                parts[f"{NOUNS[kind]} {name}"] = UNKNOWN if name not in told else READY if told[name] else FAILING
        for peer, trouble in self._peers().items():
            parts[f"peer {peer}"] = trouble or READY
        return parts

    def _tier(self) -> tuple[str, str]:
        """State of the regional tier and its problem: it may respond, but too late for requests."""
        state, problem = self._regional()
        if problem or state != READY:
            return state, problem
        breakers = [one for snapshot in self._workers() for one in _series(snapshot, "edgecache_regional_breaker")]
        too_late = any(labels["state"] == "open" and value > 0 for labels, value in breakers)
        return state, "it responds too late for requests" if too_late else ""

    def _configured(self, kind: str, told: Iterable[str]) -> list[str]:
        settings = self._settings()
        if kind == POOL:  # those in use: a pool that no request has gone to is not judged
            return list(told) if settings.sites is not None else []
        if kind == "origin" and settings.sites is not None:
            return []
        named = settings.origins if kind == "origin" else settings.parents
        names = [str(one) for several in named.values() for one in several]
        if kind == "origin" and not names and settings.origin is not None:
            names = [str(settings.origin)]
        return names

    def _told(self, kind: str) -> dict[str, bool]:
        """Health of each origin, parent or server of a pool: healthy if all reporting workers agree."""
        found: dict[str, bool] = {}
        for snapshot in self._workers():
            for labels, value in _series(snapshot, f"edgecache_{kind}_up"):
                name = _server(labels) if kind == POOL else labels[kind]
                found[name] = found.get(name, True) and value > 0
        return found

    async def run(self) -> None:
        """Check every second."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            self.look()

    def look(self) -> None:
        """Log changes."""
        subjects = []
        for kind in KINDS:
            told = self._told(kind)
            for name in self._configured(kind, told):
                subject = f"{NOUNS[kind]} {name}"
                subjects.append(subject)
                failing = not told.get(name, True)
                trouble = f"the {subject} is failing: requests get no response, or 5xx" if failing else ""
                self._changes.see(subject, trouble, f"the {subject} is healthy again")
        subjects.append("regional")
        _, problem = self._tier()
        degraded = f"regional tier degraded, serving without it: {problem}" if problem else ""
        self._changes.see("regional", degraded, "the regional tier is healthy again")
        for peer, trouble in self._peers().items():
            subjects.append(f"peer {peer}")
            words = f"the log of {peer} cannot be copied, purges made there come late: {trouble}" if trouble else ""
            self._changes.see(subjects[-1], words, f"the log of {peer} is copied again")
        subjects.append("log lines")
        self._look_at_log()
        self._changes.forget_all_but(subjects)

    def _look_at_log(self) -> None:
        dropped = sum(value for snapshot in self._whole() for _, value in _series(snapshot, DROPPED))
        more, self._dropped = dropped - self._dropped, max(dropped, self._dropped)
        lost = "lines of the access log are dropped: the reader of standard output is too slow, or its disk is full"
        again = f"lines of the access log are no longer dropped; lost so far: {self._dropped:.0f}"
        self._changes.see("log lines", lost if more > 0 else "", again)


def _server(labels: Mapping[str, str]) -> str:
    """A server of a pool; the pool that a site's own origin is bears the site's name."""
    pool = labels["pool"]
    return f"{labels['origin']} of {pool if pool.startswith('site ') else f'pool {pool}'}"


def _series(snapshot: Snapshot, name: str) -> Iterator[tuple[dict[str, str], float]]:
    family = snapshot.get(name)
    for labels, values in family["series"] if family is not None else ():
        yield dict(labels), values[0]
