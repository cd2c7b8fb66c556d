"""A POP's worker is killed by -9 at each step of a write: what it changed is invalidated all the same, everywhere."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import time
from contextlib import ExitStack

import pytest
from harness.pop_process import RunningPop, running_pop
from harness.valkey import Server
from harness.versions import DEADLINE, VersionedOrigin

from edgecache.server.worker_main import DEFAULT_WORKER


def get(pop: RunningPop) -> bytes:
    """The page, by one POP."""
    connection = http.client.HTTPConnection("127.0.0.1", pop.port, timeout=DEADLINE)
    try:
        connection.request("GET", "/page", headers={"Host": "site"})
        return connection.getresponse().read()
    finally:
        connection.close()


def begin_write(pop: RunningPop) -> socket.socket:
    """A connection on which a PUT was sent."""
    client = socket.create_connection(("127.0.0.1", pop.port), timeout=DEADLINE)
    client.sendall(b"PUT /page HTTP/1.1\r\nHost: site\r\nContent-Length: 1\r\n\r\nx")
    return client


def in_log(valkey: Server, kind: bytes) -> int:
    """How many entries of a kind the log holds."""
    return sum(fields[b"k"] == kind for _, fields in valkey.db.xrange("ec:{log}:region:local"))


def wait_for_end(valkey: Server) -> None:
    """Wait until somebody has ended the write."""
    until = time.monotonic() + DEADLINE
    while not in_log(valkey, b"end"):
        assert time.monotonic() < until, "nobody ended the write"
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    "step", ["before the origin has changed", "before the origin answers", "before the writer knows"]
)
def test_killed_in_the_middle_of_a_write(versions: VersionedOrigin, valkey: Server, step: str) -> None:
    """The other POP never serves what is older than the origin, and the write is ended for the one that died."""
    settings = {"origin": versions.url, "regional": valkey.url, "write_timeout": "3s", "worker": DEFAULT_WORKER}
    last = step == "before the writer knows"
    unreachable = {"write_ack": "all", "peers": "us=valkey://127.0.0.1:1"} if last else {}
    with ExitStack() as stack:
        one = stack.enter_context(running_pop(pop="one", **settings, **unreachable))
        two = stack.enter_context(running_pop(pop="two", **settings))
        pid = one.expect_worker()
        two.expect_worker()
        assert get(one) == get(two) == get(two) == b"v1"
        stack.enter_context(begin_write(one))
        assert versions.arrived.wait(DEADLINE)
        assert in_log(valkey, b"begin") == 1
        if step == "before the origin has changed":
            os.kill(pid, signal.SIGKILL)
            assert get(two) == b"v1"  # validated: it is not written yet
            versions.may_change.set()
        else:
            versions.may_change.set()
            assert versions.changed.wait(DEADLINE)
            assert get(two) == b"v2"  # in doubt: validated
            if last:
                versions.may_answer.set()
                wait_for_end(valkey)
            os.kill(pid, signal.SIGKILL)
        assert versions.changed.wait(DEADLINE)
        for _ in range(5):
            assert get(two) == b"v2"
        wait_for_end(valkey)
        assert get(two) == b"v2"
        one.expect_worker()
        assert get(one) == b"v2"
