"""Ports for servers that cannot be given a listening socket."""

from __future__ import annotations

import random
import socket
from collections import deque
from contextlib import suppress

LEAST, MOST = 15_000, 22_000  # so that the bus of a cluster, 10,000 above, is below outgoing connections' ports, too
TRIES = 5  # of which each takes another port: whatever is free now, somebody may take before the server does
_given: deque[int] = deque(maxlen=1024)  # by this process, lately: one server may need several before it listens on any


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now, below the range that outgoing connections are given.

    It is another one than was given lately.
    """
    chance = random.SystemRandom()  # whatever a test has seeded: all processes of the machine draw from the same ports
    while True:
        port = chance.randrange(LEAST, MOST)
        if port in _given:
            continue
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            _given.append(port)
            return port
