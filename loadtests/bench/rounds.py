"""Alternating rounds: every contestant once, then all of them again, with the CPU read around each."""

from __future__ import annotations

import contextlib
import itertools
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.bench import rawload
from loadtests.bench.load import Load
from loadtests.bench.origin import Origin
from loadtests.bench.peers import Contestant
from loadtests.bench.processes import SERVER_CORE
from loadtests.bench.scenarios import Scenario, VerifyError, verify
from loadtests.bench.wrk import Wrk
from loadtests.lab import procstat
from loadtests.lab.processes import Process, StartError

Generator = Callable[[int, int], Load]
SETTLE_SECONDS = 0.1
CROWDED = 0.1


@dataclass(frozen=True)
class Round:
    """One server's share of one round."""

    load: Load
    cpu_ns: int
    others_ns: int
    origin_requests: int
    problems: tuple[str, ...]

    @property
    def cpu_us(self) -> float:
        """CPU microseconds per request."""
        return self.cpu_ns / 1000 / max(self.load.requests, 1)

    @property
    def cpu_ms_per_gib(self) -> float:
        """CPU milliseconds per GiB delivered."""
        return self.cpu_ns / 1e6 / max(self.load.received / 2**30, 1e-9)

    @property
    def requests_per_second(self) -> float:
        """Answers per second."""
        return self.load.requests / max(self.load.seconds, 1e-9)

    @property
    def megabytes_per_second(self) -> float:
        """MB received per second."""
        return self.load.received / 1e6 / max(self.load.seconds, 1e-9)

    @property
    def busy(self) -> float:
        """The share of its core the server used."""
        return self.cpu_ns / 1e9 / max(self.load.seconds, 1e-9)

    @property
    def others(self) -> float:
        """The share of the server's core that something else used."""
        return self.others_ns / 1e9 / max(self.load.seconds, 1e-9)


@dataclass
class Standing:
    """All that is known of one server in one scenario."""

    name: str
    rounds: list[Round] = field(default_factory=list)
    proof: str = ""
    note: str = ""  # what it tells of itself after the rounds
    failures: list[str] = field(default_factory=list)


def say(text: str) -> None:
    """One line of progress."""
    print(text, file=sys.stderr, flush=True)


def contest(
    scenario: Scenario,
    contestants: Sequence[Contestant],
    origin: Origin,
    directory: Path,
    rounds: int,
    seconds: int,
) -> list[Standing]:
    """Start everybody, verify everybody, then measure in alternating rounds."""
    standings = [Standing(contestant.name) for contestant in contestants]
    generate = _generator(scenario, directory)
    with contextlib.ExitStack() as stack:
        ready: list[tuple[Standing, Process]] = []
        for contestant, standing in zip(contestants, standings, strict=True):
            server = _prepare(scenario, contestant, standing, origin, directory, stack)
            if server is not None:
                ready.append((standing, server))
        for _, server in ready:
            generate(scenario.port(server), 1)
        for number in range(1, rounds + 1):
            for standing, server in ready:
                say(f"{scenario.name}: round {number}/{rounds}: {standing.name}")
                _keep(standing, _measure(scenario, server, origin, generate, seconds))
        _take_notes(contestants, standings)
    return standings


def _take_notes(contestants: Sequence[Contestant], standings: Sequence[Standing]) -> None:
    for contestant, standing in zip(contestants, standings, strict=True):
        if contestant.note is not None and standing.rounds:
            standing.note = contestant.note()


def _generator(scenario: Scenario, directory: Path) -> Generator:
    """wrk, except for answers without a body: it waits for as many bytes as their Content-Length says."""
    requests = scenario.requests()
    if scenario.has_body and not scenario.own_loader:
        return Wrk(directory, requests, scenario.connections, "https" if scenario.tls else "http").run

    def generate(port: int, seconds: int) -> Load:
        return rawload.run(port, itertools.cycle(requests), has_body=scenario.has_body, seconds=seconds)

    return generate


def _prepare(
    scenario: Scenario,
    contestant: Contestant,
    standing: Standing,
    origin: Origin,
    directory: Path,
    stack: contextlib.ExitStack,
) -> Process | None:
    """Start and verify one contestant; what goes wrong is its failure and nobody else's."""
    own = directory / re.sub(r"[^a-z0-9]+", "-", f"{scenario.name}-{contestant.name}")  # no comma: lists have them
    try:
        server = stack.enter_context(contestant.command(own, origin.port))
        if scenario.tls and not server.tls_port:
            raise VerifyError("it is not set up for TLS here")
        standing.proof = verify(scenario, server, origin)
    except (StartError, VerifyError, OSError) as error:
        kind = "did not start" if isinstance(error, StartError) else "not verified"
        standing.failures.append(f"{kind}: {error}")
        say(f"{scenario.name}: {contestant.name}: {standing.failures[-1]}")
        return None
    say(f"{scenario.name}: {contestant.name} verified: {standing.proof}")
    return server


def _measure(scenario: Scenario, server: Process, origin: Origin, generate: Generator, seconds: int) -> Round:
    """One load with the CPU and the origin's count read before and after."""
    time.sleep(SETTLE_SECONDS)
    asked = origin.asked()
    busy, before = procstat.core_busy_ns(SERVER_CORE), server.cpu()
    load = generate(scenario.port(server), seconds)
    time.sleep(SETTLE_SECONDS)
    use = procstat.cpu_between(before, server.cpu())
    others = procstat.core_busy_ns(SERVER_CORE) - busy - use.ran_ns
    reached = origin.asked() - asked
    problems = [*load.problems, *_doubts(scenario, load, reached)]
    if use.problem:
        problems.append(use.problem)
    return Round(load, use.ran_ns, max(others, 0), reached, tuple(problems))


def _doubts(scenario: Scenario, load: Load, reached: int) -> list[str]:
    """Signs that the answers were not those the scenario is about."""
    doubts = []
    if scenario.cached and reached > 20 + load.requests // 1000:
        doubts.append(f"{reached} of {load.requests} requests reached the origin")
    if not scenario.cached and reached < load.requests:
        doubts.append(f"only {reached} of {load.requests} requests reached the origin")
    each = load.received / max(load.requests, 1)
    if load.requests and scenario.has_body and each < scenario.body:
        doubts.append(f"answers of {each:.0f} bytes, less than the body alone")
    if not scenario.has_body and each >= scenario.body:
        doubts.append(f"answers of {each:.0f} bytes, which must hold a body")
    return doubts


def _keep(standing: Standing, measured: Round) -> None:
    """Add a round; what was wrong with it fails the whole row."""
    standing.rounds.append(measured)
    for problem in measured.problems:
        standing.failures.append(f"round {len(standing.rounds)}: {problem}")
        say(f"  FAILED: {problem}")
    if measured.others > CROWDED:
        say(f"  note: something else used the server's core {measured.others:.0%} of the time")
