"""The supervisor, with real processes: what a client, an operator and a kernel see of it."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.fake_worker import FakeWorker
from harness.pop_process import DEADLINE, RunningPop, running_pop

from edgecache.config.settings import Address, load
from edgecache.semantics.errors import ConfigError
from edgecache.server.supervisor import listen_or_refuse, make_listeners, pause_before_restart
from edgecache.server.worker_main import ControlledWorker
from edgecache.tasks import spawn


def first_line(client: socket.socket) -> bytes:
    """What a held answer says at once."""
    said = b""
    while not re.search(rb"\r\n\r\n\d+\n$", said):
        more = client.recv(4096)
        assert more, said
        said += more
    return said


def is_alive(pid: int) -> bool:
    """Whether a process, or its zombie, exists."""
    return Path(f"/proc/{pid}").exists()


@pytest.mark.slow
def test_replaces_a_killed_worker_and_serves_who_came_meanwhile() -> None:
    """A request sent while the only worker is dead is answered by its replacement."""
    with running_pop() as pop:
        first = pop.expect_worker()

        os.kill(first, signal.SIGKILL)
        second = pop.ask()

        assert second != first
        assert pop.expect_worker() == second
        assert not is_alive(first)


@pytest.mark.slow
def test_totals_never_fall_when_workers_die() -> None:
    """What a dead worker counted stays in the totals, and its replacement adds to it."""
    with running_pop() as pop:
        worker = pop.expect_worker()
        for _ in range(3):
            pop.ask()
        before = pop.metric("fake_requests_total")
        os.kill(worker, signal.SIGKILL)
        pop.expect_worker()
        after = pop.metric("fake_requests_total")
        pop.ask()

        assert (before, after) == (3, 3)
        assert pop.metric("fake_requests_total") == 4
        assert pop.metric("edgecache_worker_deaths_total") == 1


@pytest.mark.slow
def test_every_worker_has_a_slot_and_readiness_names_it() -> None:
    """Two workers serve, and /readyz is 200 with the state of both."""
    with running_pop(workers=2) as pop:
        workers = {pop.expect_worker(), pop.expect_worker()}
        status, body = pop.admin("/readyz")

        assert status == 200
        assert json.loads(body) == {
            "state": "ready",
            "parts": {
                "worker_0": "ready",
                "worker_1": "ready",
                "regional": "off",
                "origin http://127.0.0.1:1": "unknown",
            },
        }
        assert {pop.ask() for _ in range(40)} == workers


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_sigterm_drains(number: signal.Signals) -> None:
    """On SIGTERM or SIGQUIT readiness goes off, newcomers are refused, a running answer is finished; then exit 0."""
    with running_pop() as pop:
        worker = pop.expect_worker()
        with pop.open("/hold") as client:
            first_line(client)
            pop.process.send_signal(number)
            pop.expect("draining")
            status, body = pop.admin("/readyz")
            wait_until_refused(pop)
            client.sendall(b"x")
            rest = client.recv(4096)

        assert (status, json.loads(body)["state"]) == (503, "draining")
        assert rest == b"held\n"
        assert pop.exit_code() == 0
        assert not is_alive(worker)


def wait_until(true: Callable[[], bool]) -> None:
    """Look until it is so; each look asks another process or the kernel, and gives way to them."""
    until = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < until, "it never came to be"
        os.sched_yield()


def wait_until_refused(pop: RunningPop) -> None:
    """Connect until nobody listens any more; each attempt is a round trip to the kernel, not a sleep."""
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until:
        try:
            pop.open("/hold").close()
        except OSError:
            return
    raise AssertionError("still accepting connections")


@pytest.mark.slow
def test_a_second_signal_ends_at_once() -> None:
    """A second SIGINT does not wait for running answers: exit 1, and no worker is left."""
    with running_pop() as pop:
        worker = pop.expect_worker()
        with pop.open("/hold") as client:
            first_line(client)
            pop.process.send_signal(signal.SIGINT)
            pop.expect("draining")
            pop.process.send_signal(signal.SIGINT)

            assert pop.exit_code() == 1
            assert not is_alive(worker)


@pytest.mark.slow
def test_kills_what_does_not_end_within_the_grace() -> None:
    """A worker that outlasts the grace is killed, and the exit code is still that of a drain."""
    with running_pop(drain_grace="0s") as pop:
        worker = pop.expect_worker()
        with pop.open("/hold") as client:
            first_line(client)
            pop.process.send_signal(signal.SIGTERM)

            assert pop.exit_code() == 0
            assert not is_alive(worker)


@pytest.mark.slow
def test_workers_end_when_the_supervisor_is_killed() -> None:
    """No worker outlives a supervisor that had no chance to say goodbye."""
    with running_pop() as pop:
        pop.expect_worker()
        with pop.open("/hold") as client:
            first_line(client)
            pop.process.kill()

            assert client.recv(4096) in (b"", b"held\n")  # the kernel closes what the worker held
        wait_until_refused(pop)


ENDING = sorted(  # by which a process ends that does nothing about it, but for faults, and what asks it to end
    {getattr(signal, name) for name in ("SIGUSR1", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO", "SIGPWR", "SIGXCPU")}
    | {signal.SIGPIPE, signal.SIGRTMIN, signal.SIGRTMIN + 5, signal.SIGRTMAX}
)


@pytest.mark.slow
def test_a_worker_leaves_signals_to_the_supervisor() -> None:
    """SIGINT, SIGHUP and SIGUSR2 to the worker, as a terminal sends to all, and strays end nothing by themselves."""
    with running_pop() as pop:
        worker = pop.expect_worker()
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, *ENDING):
            os.kill(worker, number)
            assert pop.ask() == worker, number


@pytest.mark.slow
def test_strays_do_not_end_the_supervisor() -> None:
    """SIGUSR1, by which others open their logs again, is said to do nothing; what is nobody's business is ignored."""
    with running_pop() as pop:
        worker = pop.expect_worker()
        for number in ENDING:
            pop.process.send_signal(number)
            assert pop.admin("/healthz")[0] == 200, number
        pop.expect("SIGUSR1: .* nothing to open again")
        pop.process.send_signal(signal.SIGTERM)

        assert pop.exit_code() == 0
        assert not is_alive(worker)


def outlived(pid: int) -> set[int]:
    """The signals that a process ignores or catches."""
    masks = re.findall(r"^Sig(?:Ign|Cgt):\s+(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.M)
    mask = int(masks[0], 16) | int(masks[1], 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


@pytest.mark.slow
def test_signals_while_a_pop_starts_do_not_end_it() -> None:
    """SIGHUP, SIGUSR1 and SIGUSR2 before anybody heeds them are lost, and nothing else."""
    with running_pop(worker_timeout="60s") as pop:
        wait_until(lambda: signal.SIGHUP in outlived(pop.process.pid))
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            pop.process.send_signal(number)
        worker = pop.expect_worker()
        os.kill(worker, signal.SIGHUP)

        assert pop.ask() == worker
        assert pop.metric("edgecache_worker_deaths_total") == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT])
def test_a_pop_that_is_ended_while_it_starts_ends_quietly(number: signal.Signals) -> None:
    """It serves nobody, and has nothing to drain: exit 0, and no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(DEADLINE)
        environ = {
            "PATH": os.environ["PATH"],
            "EDGECACHE_ORIGIN": "http://127.0.0.1:1",
            "EDGECACHE_REGIONAL": f"valkey://127.0.0.1:{silent.getsockname()[1]}",
        }
        command = [sys.executable, "-m", "edgecache", "serve"]
        with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as process:
            asked, _ = silent.accept()  # whether it is there; it gets no answer
            process.send_signal(number)
            try:
                said = process.communicate(timeout=DEADLINE)[1]
            finally:
                process.kill()
                asked.close()

    assert (process.returncode, said) == (0, "")


def test_an_interrupt_while_modules_are_loaded_is_an_orderly_end() -> None:
    """Dataclasses execute text, and Python would end by SIGINT after an interrupt in it, whatever the exit code."""
    lines = [
        "import sys",
        "from edgecache.server import cli, commands",
        "commands.run = lambda *_: exec('raise KeyboardInterrupt')",
        "sys.exit(cli.main(['serve']))",
    ]

    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")


def test_an_interrupt_that_is_lost_is_raised_again() -> None:
    """A signal that comes while a finalizer runs: Python prints its exception, and goes on."""
    lines = [
        "import os, signal",
        "from edgecache.server import signals",
        "signals.interrupt_by(signal.SIGINT)",
        "class Losing:",
        "    def __del__(self):",
        "        os.kill(os.getpid(), signal.SIGINT)",
        "Losing()",
        "print('goes on')",
        "try: signals.raise_if_interrupted()",
        "except KeyboardInterrupt: print('raised')",
    ]

    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)

    assert done.stdout.split("\n")[:2] == ["goes on", "raised"]


@pytest.mark.slow
def test_what_there_is_to_look_at_is_told_once_it_is_ready() -> None:
    """While a worker starts slowly only the start is said; the addresses follow when `/readyz` says ready, once."""
    with running_pop(worker="harness.fake_worker:SlowWorker", workers=2) as pop:
        admin = int(pop.expect(r"starting workers=2 listen=http://\S+ admin=http://127\.0\.0\.1:(\d+)"))
        wait_until(lambda: readiness(admin) is not None)
        seen = [readiness(admin)]
        told = pop.whole_log
        pop.expect_worker(), pop.expect_worker()
        assert pop.port
        seen.append(readiness(admin))
        pop.process.terminate()
        assert pop.exit_code() == 0

    assert seen == ["starting", "ready"]
    assert "serves" not in told
    assert pop.whole_log.count("serves   ") == 1


def readiness(port: int) -> str | None:
    """What the admin listener says of the POP; nothing before it is there."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as client:
            client.sendall(f"GET /readyz HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            with client.makefile("rb") as answer:
                return str(json.loads(answer.read().partition(b"\r\n\r\n")[2])["state"])
    except OSError:
        return None


@pytest.mark.slow
def test_sigusr2_relieves_every_worker_once_its_successor_is_ready() -> None:
    """On SIGUSR2 each worker gets a successor, and ends when what it serves is answered; readiness stays on."""
    with running_pop(workers=2) as pop:
        old = {pop.expect_worker(), pop.expect_worker()}
        with pop.open("/hold") as client:
            first_line(client)
            pop.process.send_signal(signal.SIGUSR2)
            new = {pop.expect_worker()}
            assert pop.admin("/readyz")[0] == 200
            client.sendall(b"x")
            assert client.recv(4096) == b"held\n"
            new.add(pop.expect_worker())
        wait_until(lambda: not any(is_alive(worker) for worker in old))

        assert not new & old
        assert {pop.ask() for _ in range(40)} == new
        assert pop.metric("edgecache_worker_reliefs_total") == 2
        assert pop.metric("edgecache_worker_deaths_total") == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_worker_that_gets_sigterm_is_relieved(number: signal.Signals) -> None:
    """SIGTERM or SIGQUIT to one worker: its successor serves, and the answer that it holds is finished."""
    with running_pop() as pop:
        old = pop.expect_worker()
        with pop.open("/hold") as client:
            first_line(client)
            os.kill(old, number)
            new = pop.expect_worker()
            wait_until(lambda: pop.ask() == new)
            client.sendall(b"x")
            assert client.recv(4096) == b"held\n"
        wait_until(lambda: not is_alive(old))


@pytest.mark.slow
def test_a_successor_that_does_not_start_leaves_the_old_worker_in_place() -> None:
    """A relief that fails changes nothing for the clients."""
    with running_pop(worker="harness.fake_worker:OnlyOnce") as pop:
        old = pop.expect_worker()
        pop.process.send_signal(signal.SIGUSR2)
        pop.expect("replacement failed, the old worker stays")

        assert pop.ask() == old
        assert pop.admin("/readyz")[0] == 200


@pytest.mark.slow
def test_a_drain_during_a_relief_ends_both_workers() -> None:
    """SIGTERM while a worker waits for its last client behind its successor: both drain, exit 0."""
    with running_pop() as pop:
        old = pop.expect_worker()
        with pop.open("/hold") as client:
            first_line(client)
            pop.process.send_signal(signal.SIGUSR2)
            new = pop.expect_worker()
            pop.process.send_signal(signal.SIGTERM)
            pop.expect("draining")
            client.sendall(b"x")
            assert client.recv(4096) == b"held\n"

        assert pop.exit_code() == 0
        assert not is_alive(old)
        assert not is_alive(new)


@pytest.mark.slow
def test_a_hanging_worker_is_killed_and_replaced() -> None:
    """A worker whose event loop stands still is replaced, who waits in its queue is served, and it is counted."""
    with running_pop(worker_timeout="1s") as pop:
        old = pop.expect_worker()
        with pop.open("/hang"):
            pop.expect("worker hangs")
            new = pop.ask()

        assert new != old
        assert not is_alive(old)
        assert pop.metric("edgecache_worker_hangs_total") == 1


@pytest.mark.slow
def test_gives_up_where_workers_never_start() -> None:
    """A worker that fails on every start ends the POP with exit 1 instead of a loop without end."""
    with running_pop(worker="harness.fake_worker:BrokenWorker") as pop:
        pop.expect("broken on purpose")
        pop.expect("workers do not start")

        assert pop.exit_code() == 1


def test_backs_off_only_from_repeated_quick_deaths() -> None:
    """The first quick death is repaired at once, then pauses double from 0.1 s to 5 s."""
    pauses = [pause_before_restart(deaths) for deaths in (0, 1, 2, 3, 4, 7, 8, 1000)]

    assert pauses == [0.0, 0.0, 0.1, 0.2, 0.4, 3.2, 5.0, 5.0]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_listeners_share_one_port(host: str) -> None:
    """Every slot gets a listening socket of its own on the same free port."""
    listeners = make_listeners(Address(host, 0), 3)
    with contextlib.ExitStack() as stack:
        for listener in listeners:
            stack.enter_context(listener)
        ports = {listener.getsockname()[1] for listener in listeners}

        assert len(listeners) == 3
        assert len(ports) == 1
        socket.create_connection((host, ports.pop()), timeout=DEADLINE).close()


def test_listening_on_every_ipv6_address_takes_ipv4_too() -> None:
    """`[::]` is every address of the machine."""
    (listener,) = make_listeners(Address("::", 0), 1)
    with listener:
        port = listener.getsockname()[1]

        socket.create_connection(("127.0.0.1", port), timeout=DEADLINE).close()


@pytest.mark.parametrize("count", [1, 2])
def test_refuses_a_port_that_somebody_would_share(count: int) -> None:
    """A second POP on the port of a first one is refused, although SO_REUSEPORT would let it in."""
    taken = make_listeners(Address("127.0.0.1", 0), 2)
    address = Address("127.0.0.1", taken[0].getsockname()[1])
    with taken[0], taken[1], pytest.raises(ConfigError) as refusal:
        listen_or_refuse("EDGECACHE_LISTEN", address, count)

    assert str(refusal.value) == f"EDGECACHE_LISTEN: {address} is in use"


def test_refuses_an_address_of_another_machine() -> None:
    """An address that is not this machine's names the variable and the reason, on one line."""
    with pytest.raises(ConfigError) as refusal:
        listen_or_refuse("EDGECACHE_LISTEN", Address("192.0.2.1", 8080), 1)

    expected = "EDGECACHE_LISTEN: 192.0.2.1:8080 cannot be listened on: Cannot assign requested address"
    assert str(refusal.value) == expected


async def test_a_worker_ends_with_a_supervisor_that_was_killed_in_the_middle() -> None:
    """What the supervisor has not read makes the end of its socket a reset: that ends the worker too."""
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    led = ControlledWorker(FakeWorker(load({"EDGECACHE_ORIGIN": "http://a.test"})), [], {}, writer)
    obeying = spawn(led.handle_commands(reader), "orders")
    writer.write(b"unread\n")
    await writer.drain()
    theirs.close()
    await asyncio.wait_for(obeying, DEADLINE)
    assert led.over.is_set()
    writer.close()
