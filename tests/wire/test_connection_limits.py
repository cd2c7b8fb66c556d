"""Bounds on connections: who is turned away, how, and that there is room again afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
from collections.abc import Iterator

import pytest
from harness.client import HOST, RawClient, let_others_run
from harness.origin import OriginDouble, Reply
from harness.pop import Pop, running_pop
from harness.pop_process import DEADLINE, RunningPop
from harness.pop_process import running_pop as running_process

from edgecache.config.settings import load
from edgecache.telemetry.metrics import render
from edgecache.wire.connection_limits import OWN_FILES, Admission, address_of, fitted

FRESH = ("Cache-Control", "max-age=60")
IN_ALL = 'edgecache_refused_total{reason="too-many-connections"}'
FROM_ONE = 'edgecache_refused_total{reason="too-many-from-address"}'


def nobody(client: str) -> bool:
    """No address is exempt."""
    return False


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("", "", True),
        ("not:an:address", "192.0.2.1", False),
    ],
)
def test_what_counts_as_one_address(one: str, other: str, same: bool) -> None:
    """IPv4 by address, also inside IPv6; IPv6 by its first 64 bits."""
    assert (address_of(one) == address_of(other)) is same


def test_a_bound_is_met_exactly_and_leaving_makes_room() -> None:
    """As many as the bound says get in, one more does not, and one that leaves makes room for one."""
    admission = Admission(3, 2, nobody)
    assert [admission.enter("192.0.2.1") for _ in range(2)] == [None, None]
    refusal = admission.enter("192.0.2.1")
    assert refusal is not None
    assert (refusal.status, refusal.reason) == (503, "too-many-from-address")
    assert admission.enter("192.0.2.2") is None
    refusal = admission.enter("192.0.2.3")
    assert refusal is not None
    assert refusal.reason == "too-many-connections"
    admission.leave("192.0.2.1")
    assert admission.enter("192.0.2.1") is None


def test_nothing_is_remembered_of_who_has_left() -> None:
    """Addresses that come and go cost no memory."""
    admission = Admission(10, 2, nobody)
    for number in range(1000):
        admission.enter(f"192.0.2.{number}")
        admission.leave(f"192.0.2.{number}")
    assert not admission.by_address


@pytest.mark.parametrize("files", [1, 64, 256, 1024, 20_000, 1 << 20])
def test_the_bounds_fit_into_the_open_files(files: int) -> None:
    """Clients and origin together stay within the limit, with some left for the process itself."""
    settings = fitted(load({"EDGECACHE_ORIGIN": "http://origin.example"}), files)
    assert settings.max_connections >= 1
    assert settings.origin_connections >= 1
    assert settings.max_connections + settings.origin_connections <= max(2, files - OWN_FILES)


def test_a_bound_that_is_set_is_kept() -> None:
    """A lower bound than the open files allow is the operator's to set."""
    settings = load({"EDGECACHE_ORIGIN": "http://origin.example", "EDGECACHE_MAX_CONNECTIONS": "7"})
    assert fitted(settings, 20_000).max_connections == 7
    assert fitted(dataclasses.replace(settings, max_connections=50_000), 1024).max_connections < 1024


def counted(pop: Pop, name: str) -> float:
    """The value of a metric, 0 if it is not there yet."""
    for line in render(pop.worker.snapshot()).decode().splitlines():
        if line.startswith(name + " "):
            return float(line.rpartition(" ")[2])
    return 0.0


async def stay(pop: Pop, count: int, stack: contextlib.AsyncExitStack, host: str = "127.0.0.1") -> list[RawClient]:
    """So many connections from one address, which have all been accepted."""
    clients = []
    for _ in range(count):
        sock = socket.socket()
        sock.setblocking(False)
        sock.bind((host, 0))
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", pop.port))
        clients.append(RawClient(sock))
        stack.callback(sock.close)
    await let_others_run()
    return clients


async def test_one_address_gets_its_share_and_others_theirs(origin: OriginDouble) -> None:
    """The connection beyond the bound gets one 503 and the end, unheard by the origin; other addresses are served."""
    origin.on("/page", Reply(fields=[FRESH], body=b"page"))
    async with contextlib.AsyncExitStack() as stack:
        pop = await stack.enter_async_context(running_pop(origin, max_connections_per_address=3))
        clients = await stay(pop, 4, stack)
        refused = await clients[3].response()
        assert (refused.status, refused.get("Connection")) == (503, "close")
        assert await clients[3].closed() == "fin"
        assert counted(pop, FROM_ONE) == 1
        assert not origin.requests
        (other,) = await stay(pop, 1, stack, "127.0.0.2")
        for client in (clients[0], clients[2], other):
            await client.request("GET", "/page")
            assert (await client.response()).status == 200
        clients[0].close()
        await let_others_run()
        (newcomer,) = await stay(pop, 1, stack)
        await newcomer.request("GET", "/page")
        assert (await newcomer.response()).status == 200


async def test_a_trusted_proxy_may_have_more(origin: OriginDouble) -> None:
    """A proxy's connections are not one client's."""
    origin.on("/page", Reply(fields=[FRESH], body=b"page"))
    async with contextlib.AsyncExitStack() as stack:
        trusting = running_pop(origin, max_connections_per_address=1, trusted_proxies="127.0.0.1/32")
        pop = await stack.enter_async_context(trusting)
        for client in await stay(pop, 5, stack):
            await client.request("GET", "/page")
            assert (await client.response()).status == 200


async def test_the_bound_in_all_holds_for_everybody(origin: OriginDouble) -> None:
    """Beyond the bound of the worker every newcomer is turned away, and counted; who is in is served."""
    origin.on("/page", Reply(fields=[FRESH], body=b"page"))
    async with contextlib.AsyncExitStack() as stack:
        pop = await stack.enter_async_context(running_pop(origin, max_connections=2))
        clients = await stay(pop, 2, stack)
        (late,) = await stay(pop, 1, stack, "127.0.0.2")
        assert (await late.response()).status == 503
        assert counted(pop, IN_ALL) == 1
        await clients[0].request("GET", "/page")
        assert (await clients[0].response()).status == 200
        assert len(pop.worker.connections) == 2


@pytest.mark.slow
async def test_idle_connections_make_room_in_a_crowd(origin: OriginDouble) -> None:
    """When hardly any room is left, connections without a request are closed long before their time."""
    origin.on("/page", Reply(fields=[FRESH], body=b"page"))
    async with contextlib.AsyncExitStack() as stack:
        crowded = running_pop(origin, max_connections=4, idle_timeout="10m", head_timeout="10m")
        pop = await stack.enter_async_context(crowded)
        loop = asyncio.get_running_loop()
        ends = [loop.create_task(client.closed()) for client in await stay(pop, 4, stack)]
        ended, others = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        assert {end.result() for end in ended} == {"fin"}
        for other in others:
            other.cancel()
        (newcomer,) = await stay(pop, 1, stack)
        await newcomer.request("GET", "/page")
        assert (await newcomer.response()).status == 200


@contextlib.contextmanager
def crowd(pop: RunningPop, count: int) -> Iterator[None]:
    """So many connections on which a request has begun."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", pop.port), timeout=DEADLINE))
            with contextlib.suppress(OSError):
                sock.sendall(b"GET / HT")
        yield


@pytest.mark.slow
async def test_a_flood_of_connections_leaves_the_pop_in_order(origin: OriginDouble) -> None:
    """With 128 open files and 1,000 connections: health and metrics answer, and afterwards so does the site."""
    origin.on("/page", Reply(fields=[FRESH], body=b"page"))

    def flood(pop: RunningPop) -> tuple[int, str, float]:
        pop.expect_worker()
        with crowd(pop, 1000):
            return pop.admin("/healthz")[0], pop.admin("/readyz")[1], pop.metric(IN_ALL)

    def ask(pop: RunningPop) -> bytes:
        with socket.create_connection(("127.0.0.1", pop.port), timeout=DEADLINE) as sock:
            sock.sendall(f"GET /page HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
            return sock.makefile("rb").read()

    with running_process(
        worker="edgecache.server.worker:Worker", limit=128, origin=origin.url, access_log="off", head_timeout="5m"
    ) as pop:
        health, ready, refused = await asyncio.to_thread(flood, pop)
        answer = await asyncio.to_thread(ask, pop)
        deaths = await asyncio.to_thread(pop.metric, "edgecache_worker_deaths_total")
    assert health == 200
    assert '"ready"' in ready
    assert refused > 0
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert deaths == 0
