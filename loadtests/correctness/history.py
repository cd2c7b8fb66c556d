"""The model: which version of a resource a response may show, given what was written and purged, and when. Pure.

a response that was asked for at `began` and complete at `ended` may show version v iff
  v was the present version at some time up to `ended`,
  v is no older than what was promised before `began`: by a write that was answered, by a purge that was acknowledged,
  v was present at some time since `began`, or was until at most lifetime and stale windows before it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from loadtests.correctness.content import Resource

ROUNDING: Final = 1.3  # seconds: Age counts whole seconds, and so does Date
HOP: Final = 1.1  # seconds more for each further POP in the chain, which counts whole seconds again
ERROR_WAIT: Final = 2.0  # seconds that a stale response may wait for an origin that fails


class Promise(NamedTuple):
    """Requests that begin `at` this time or later get `version` or a newer one, because of `what`."""

    at: float
    version: int
    what: str


@dataclass
class History:
    """The versions of one resource, on one monotonic clock, in seconds."""

    resource: Resource
    since: list[float] = field(default_factory=lambda: [float("-inf")])  # when each version became the present one
    hard: list[Promise] = field(default_factory=list)  # in the order of time
    soft: list[Promise] = field(default_factory=list)

    @property
    def present(self) -> int:
        """The version that the origin has now."""
        return len(self.since) - 1

    def publish(self, now: float) -> int:
        """The origin has a new version from `now` on; which."""
        self.since.append(now)
        return self.present

    def promise(self, now: float, version: int, what: str, *, soft: bool = False) -> None:
        """Promise `version` or a newer one from `now` on; softly: unless a stale response is allowed."""
        (self.soft if soft else self.hard).append(Promise(now, version, what))

    def least(self, began: float, *, soft: bool) -> Promise:
        """The promise of the newest version to a request that begins at `began`."""
        promises = self.hard + self.soft if soft else self.hard
        kept = [promise for promise in promises if promise.at <= began]
        return max(kept, key=lambda promise: promise.version, default=Promise(began, 0, "the start"))

    def problem(self, version: int, began: float, ended: float, hops: int) -> str:
        """Why `version` is wrong for a request of this time through `hops` POPs; empty if it is right."""
        resource = self.resource
        if not 0 <= version <= self.present or self.since[version] > ended:
            return f"version {version} did not exist"
        windows = resource.swr or (resource.sie if resource.flaky else 0)
        least = self.least(began, soft=not windows)
        if version < least.version:
            ago = f"{began - least.at:.2f} s before, present for {began - self.since[least.version]:.2f} s"
            return f"version {version} after {least.version} was promised (by {least.what}, {ago})"
        if version == self.present:
            return ""
        old_for = began - self.since[version + 1]
        stale = resource.swr + (resource.sie + ERROR_WAIT if resource.flaky and resource.sie else 0)
        allowed = resource.ttl + stale + ROUNDING + HOP * (hops - 1)
        return f"version {version} is {old_for:.1f} s old, allowed {allowed:.1f}" if old_for > allowed else ""
