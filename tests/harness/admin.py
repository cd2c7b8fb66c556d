"""A stand-in for the POP behind the admin listener."""

from __future__ import annotations

from edgecache.server.admin.app import Readiness


class FakePop:
    """A POP in whatever state a test wants."""

    def __init__(self, state: str = "ready") -> None:
        self.state = state

    def readiness(self) -> Readiness:
        """The state, with one worker."""
        return Readiness(self.state, {"worker_0": "ready"})  # type: ignore[arg-type]

    async def metrics(self) -> bytes:
        """One sample."""
        return b"requests_total 1.0\n"
