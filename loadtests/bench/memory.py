"""Two memory figures of edgecache: a cached object over its body, and idle connections."""

from __future__ import annotations

import contextlib
import random
import resource
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.bench import heads, rawload
from loadtests.bench.origin import BODY, Origin
from loadtests.bench.peers import Contestant
from loadtests.bench.rounds import say
from loadtests.bench.scenarios import VerifyError
from loadtests.lab.processes import Process, StartError

OBJECTS = 100_000
IDLE = 10_000
PER_ADDRESS = 1_000


@dataclass
class Figure:
    """A memory figure in bytes, or why there is none."""

    title: str
    before: int = 0
    after: int = 0
    per_unit: float = 0.0
    proof: str = ""
    failures: list[str] = field(default_factory=list)


def allow_descriptors(count: int) -> None:
    """Raise the limit on open files, which the servers inherit; the hard one too where that is allowed."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))
            return
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count), hard))


def objects(contestant: Contestant, origin: Origin, directory: Path) -> Figure:
    """Resident bytes per cached 1 KiB object beyond its body."""
    figure = Figure(f"resident bytes per cached 1 KiB object over its body ({OBJECTS:,} objects)")

    def measure(server: Process) -> None:
        figure.before = _settled(server)
        load = rawload.run(server.port, heads.objects(OBJECTS))
        figure.failures += load.problems
        figure.after = _settled(server)
        figure.per_unit = (figure.after - figure.before) / OBJECTS - len(BODY)
        figure.proof = _still_cached(server, origin)

    _with_server(figure, contestant, origin, directory / "memory-objects", measure)
    return figure


def _still_cached(server: Process, origin: Origin) -> str:
    """Prove on a sample that the objects were stored and none was evicted."""
    sample = random.sample(range(OBJECTS), 2_000)
    asked = origin.asked()
    load = rawload.run(server.port, (heads.request("GET", f"/o/{number}") for number in sample))
    reached = origin.asked() - asked
    if reached or load.problems:
        why = "; ".join(load.problems) or "evicted or never stored"
        raise VerifyError(f"of 2,000 objects asked again {reached} reached the origin: {why}")
    return "2,000 of them asked again: 0 reached the origin"


def connections(contestant: Contestant, origin: Origin, directory: Path) -> Figure:
    """What 10,000 idle keep-alive connections, of which each has made one request, keep resident."""
    figure = Figure(f"resident for {IDLE:,} idle keep-alive connections over the empty process")

    def measure(server: Process) -> None:
        with contextlib.ExitStack() as stack:
            _request(stack.enter_context(_connect(server.port, 0)))  # so that the object is cached before
            figure.before = _settled(server)
            opened = [stack.enter_context(_connect(server.port, number)) for number in range(IDLE)]
            for connection in opened:
                _request(connection)
            figure.after = _settled(server)
            figure.per_unit = (figure.after - figure.before) / IDLE
            alive = sum(_is_open(connection) for connection in opened)
        figure.proof = f"{alive:,} of {IDLE:,} were still open at the end"
        if alive != IDLE:
            raise VerifyError(figure.proof)

    _with_server(figure, contestant, origin, directory / "memory-connections", measure)
    return figure


def _connect(port: int, number: int) -> socket.socket:
    """A connection from the address of 127.0.0.0/8 whose turn it is, so that ports never run short."""
    source = f"127.0.1.{1 + number // PER_ADDRESS}"
    return socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(source, 0))


def _request(connection: socket.socket) -> None:
    connection.sendall(heads.request("GET", "/o/0"))
    seen = connection.recv(65536)
    while not seen.endswith(BODY[-64:].encode()):
        more = connection.recv(65536)
        if not more:
            raise VerifyError("the server closed a connection after its first request")
        seen += more
    if not seen.startswith(b"HTTP/1.1 200"):
        raise VerifyError(f"answered {seen[:40]!r}")


def _is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except OSError:
        return False


def _settled(server: Process) -> int:
    time.sleep(1.0)
    return server.resident()


def _with_server(
    figure: Figure,
    contestant: Contestant,
    origin: Origin,
    directory: Path,
    measure: Callable[[Process], None],
) -> None:
    """Run `measure` against a fresh server; what goes wrong is the figure's failure."""
    say(f"memory: {contestant.name}: {figure.title}")
    try:
        with contestant.command(directory, origin.port) as server:
            measure(server)
    except (StartError, VerifyError, OSError) as error:
        figure.failures.append(str(error))
    for failure in figure.failures:
        say(f"  FAILED: {failure}")
