"""A region of real processes: two POPs of two workers each share one Valkey, and one of the workers is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from harness.client import RawClient
from harness.origin import OriginDouble, Reply
from harness.pop_process import DEADLINE, RunningPop, running_pop
from harness.processes import connections_of
from harness.valkey import Server
from harness.wire import Closed

CLIENTS = 1000
LEASE = 2.0  # seconds
FRESH = ("Cache-Control", "max-age=60")
PAGE = b"hello" * 100
BIG = os.urandom(600_000)


@contextmanager
def region(origin: OriginDouble, valkey: Server, lease: float = LEASE) -> Iterator[tuple[list[RunningPop], list[int]]]:
    """Two POPs of two workers each, and the process ids of all workers."""
    with ExitStack() as stack:
        settings = {
            "worker": "edgecache.server.worker:Worker",
            "workers": 2,
            "origin": origin.url,
            "regional": valkey.url,
        }
        more = {
            "regional_lease": f"{lease:g}s",
            "regional_timeout": "1s",
            "follower_timeout": f"{2 * DEADLINE:g}s",
            "access_log": "off",
        }
        pops = [stack.enter_context(running_pop(**settings, **more, pop=f"pop{number}")) for number in range(2)]
        workers = [pop.expect_worker() for pop in pops for _ in range(2)]
        yield pops, workers


async def crowd(pops: list[RunningPop], workers: list[int]) -> list[RawClient]:
    """So many clients, spread over all POPs, who have all asked for one page."""
    clients = [await RawClient.connect(pops[number % 2].port, within=DEADLINE) for number in range(CLIENTS)]
    for client in clients:
        await client.request("GET", "/page")
    until = time.monotonic() + DEADLINE
    while sum(served(pops, workers)) < CLIENTS:
        assert time.monotonic() < until, "not all clients were accepted"
        await asyncio.sleep(0.05)
    return clients


def served(pops: list[RunningPop], workers: list[int]) -> list[int]:
    """How many clients each worker serves."""
    return [sum(connections_of(worker, pop.port) for pop in pops) for worker in workers]


async def answer(client: RawClient) -> bytes | None:
    """What a client was given: the whole body, or None if its connection broke."""
    try:
        response = await client.response_or_broken()
    except (Closed, ConnectionResetError):
        return None
    assert response.status == 200
    return None if response.broken is not None else response.body


@pytest.mark.slow
async def test_a_thousand_clients_of_four_processes_cost_one_fetch(
    origin: OriginDouble, valkey: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two POPs, four workers, a thousand concurrent requests for one cold page: one question to the origin.

    The lease is long: a leader that gets no CPU for a whole lease would be taken for dead.
    """
    gate = asyncio.Event()
    origin.on("/page", Reply(fields=[FRESH], body=PAGE, wait=gate, date=False))
    with region(origin, valkey, 20.0) as (pops, workers):
        clients = await crowd(pops, workers)
        spread = served(pops, workers)
        gate.set()
        answers = await asyncio.gather(*map(answer, clients))
        for client in clients:
            client.close()

    with capsys.disabled():
        print(f"\n{CLIENTS} clients over 2 POPs x 2 workers {spread}: {len(origin.requests)} fetch(es)")
    assert answers == [PAGE] * CLIENTS
    assert min(spread) > 0
    assert len(origin.requests) == 1


@pytest.mark.slow
async def test_the_leading_process_is_killed_in_the_middle_of_a_body(
    origin: OriginDouble, valkey: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only its own clients see that; all others get whole answers, by one more question once the lease is over.

    Not when they have waited as long as a follower may: that would be long after this test's patience.
    """
    never, asked = asyncio.Event(), []

    def page(request: object) -> Reply:
        asked.append(time.monotonic())
        gates = (None, never) if len(asked) == 1 else ()
        return Reply(fields=[FRESH], pieces=[BIG[:300_000], BIG[300_000:]], gates=gates, body=BIG, date=False)

    origin.on("/page", page)
    with region(origin, valkey) as (pops, workers):
        clients = await crowd(pops, workers)
        await origin.request_seen()
        (leader,) = (worker for worker in workers if connections_of(worker, origin.port, remote=True))
        its_own = served(pops, workers)[workers.index(leader)]
        os.kill(leader, signal.SIGKILL)
        killed = time.monotonic()
        answers = await asyncio.gather(*map(answer, clients))
        took = time.monotonic() - killed
        for client in clients:
            client.close()
    never.set()

    broken = answers.count(None)
    with capsys.disabled():
        print(
            f"\nleader of {its_own} of {CLIENTS} clients killed: {broken} broken, {answers.count(BIG)} whole, "
            f"{len(asked)} fetches, the second {asked[-1] - killed:.2f} s after the kill (lease {LEASE:g} s), "
            f"all answered after {took:.2f} s"
        )
    assert broken == its_own
    assert answers.count(BIG) == CLIENTS - broken
    assert len(asked) == 2
