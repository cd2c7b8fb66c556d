"""What systemd is told: by a real datagram socket, as systemd listens."""

import asyncio
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.pop_process import DEADLINE, running_pop

from edgecache.server.sd_notify import ServiceManager


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """The service manager's end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(DEADLINE)
        yield receiver


@pytest.mark.slow
def test_a_pop_says_when_it_is_ready_and_when_it_stops(listener: socket.socket) -> None:
    """READY=1 once a worker serves, signs of life meanwhile, STOPPING=1 as the drain begins."""
    told = {"NOTIFY_SOCKET": listener.getsockname(), "WATCHDOG_USEC": "100000"}
    with running_pop(environment=told) as pop:
        assert listener.recv(100) == b"READY=1"
        assert pop.admin("/readyz")[0] == 200
        assert [listener.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        pop.process.send_signal(signal.SIGTERM)
        last = next(said for said in iter(lambda: listener.recv(100), b"") if said != b"WATCHDOG=1")

        assert last == b"STOPPING=1"
        assert pop.exit_code() == 0


async def test_a_pop_that_never_gets_ready_never_says_so(listener: socket.socket) -> None:
    """A drain that begins while it starts is no readiness."""
    states = iter(["starting", "starting", "draining"])
    await ServiceManager({"NOTIFY_SOCKET": listener.getsockname()}).run(lambda: next(states))  # type: ignore[arg-type]

    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.recv(100)


async def test_abstract_sockets_are_named_by_an_at_sign() -> None:
    """As sd_notify(3) has it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("")  # Linux chooses an abstract name
        name = receiver.getsockname()
        ServiceManager({"NOTIFY_SOCKET": "@" + name[1:].decode()}).tell("READY=1")
        assert await asyncio.to_thread(receiver.recv, 100) == b"READY=1"


def test_a_listener_that_is_gone_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is a line in the log."""
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}).tell("READY=1")
    ServiceManager({}).tell("READY=1")

    assert len(caplog.messages) == 1
    assert "cannot be notified of READY=1" in caplog.messages[0]
