"""Names of origins and parents that move: connections follow, however busy they are kept."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from harness.client import until
from harness.origin import OriginDouble, Reply
from harness.pop import Pop, running_pop
from harness.valkey import Server

from edgecache.config.valkey_url import parse_url
from edgecache.upstream import resolver
from edgecache.valkey import connection_refresh
from edgecache.valkey.client import Access, Failure, Link

NO_STORE = [("Cache-Control", "no-store")]
NAME = "origin.test"


class Resolver:
    """A resolver that the test tells what to say; it counts how often it is asked."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.asked = 0

    async def addresses_of(self, host: str, port: int) -> frozenset[str]:
        """As `connection_refresh.resolve`."""
        return frozenset(str(address[0]) for _, address in await self.resolve(host, port))

    async def resolve(self, host: str, port: int) -> resolver.Addresses:
        """As `resolver.resolve`."""
        if resolver.is_address(host):
            return [(socket.AF_INET, (host, port))]
        self.asked += 1
        assert host in (NAME, "localhost")
        if not self.addresses:
            raise OSError(socket.EAI_AGAIN, "try again")
        return [(socket.AF_INET, (address, port)) for address in self.addresses]


@pytest.fixture
async def moved(origin: OriginDouble) -> AsyncIterator[OriginDouble]:
    """Where the name leads later: the same port of another address."""
    other = OriginDouble(origin.clock)
    other.host, other.port = "127.0.0.2", origin.port
    await other.start()
    for one, body in ((origin, b"old"), (other, b"new")):
        one.otherwise(Reply(fields=NO_STORE, body=body))
    yield other
    await other.stop()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    """The resolver that a POP asks."""
    names = Resolver("127.0.0.1")
    monkeypatch.setattr(resolver, "resolve", names.resolve)
    monkeypatch.setattr(connection_refresh, "resolve", names.addresses_of)
    return names


async def keep_busy(pop: Pop, until_told: asyncio.Event) -> list[bytes]:
    """What requests get that come one after the other without a pause, so that no connection is ever idle for long."""
    bodies = []
    async with pop.client() as client:
        while not until_told.is_set():
            await client.request("POST", "/form", body=b"x")
            bodies.append((await client.response()).body)
    return bodies


async def test_a_name_that_moves_is_followed_by_busy_connections(
    origin: OriginDouble, moved: OriginDouble, names: Resolver
) -> None:
    """Requests go to the new address within `dns_ttl` and a sweep, though the old connections are always in use."""
    over = asyncio.Event()
    async with running_pop(f"http://{NAME}:{origin.port}", dns_ttl="100ms") as pop:
        busy = [asyncio.get_running_loop().create_task(keep_busy(pop, over)) for _ in range(3)]
        await origin.request_seen(20)
        names.addresses = ("127.0.0.2",)
        await moved.request_seen(50)
        count = len(origin.requests)
        await moved.request_seen(len(moved.requests) + 50)
        over.set()
        bodies = await asyncio.gather(*busy)
    assert len(origin.requests) == count, "the old address is not asked any more"
    assert {body for one in bodies for body in one} == {b"old", b"new"}
    assert all(one == sorted(one, reverse=True) for one in bodies)


async def test_a_parent_that_moves_is_followed_by_busy_connections(
    origin: OriginDouble, names: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is with the name of a parent: its child leaves connections that are always in use."""
    origin.otherwise(Reply(fields=NO_STORE, body=b"page"))
    over, secret = asyncio.Event(), "a-secret-of-this-fleet"
    async with running_pop(origin, pop="shield", pop_secret=secret) as shield:
        reached: list[object] = []

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            reached.append(writer)
            there, here = await asyncio.open_connection("127.0.0.1", shield.port)

            async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
                while data := await source.read(65536):
                    target.write(data)
                target.close()

            await asyncio.gather(copy(reader, here), copy(there, writer))

        async with await asyncio.start_server(relay, "127.0.0.2", shield.port):
            parent = f"http://{NAME}:{shield.port}"
            async with running_pop(origin, pop="edge", parents=parent, pop_secret=secret, dns_ttl="100ms") as edge:
                busy = [asyncio.get_running_loop().create_task(keep_reading(edge, over)) for _ in range(3)]
                await origin.request_seen(20)
                before = set(shield.worker.connections)
                names.addresses = ("127.0.0.2",)
                await until(lambda: bool(reached) and not before & set(shield.worker.connections))
                over.set()
                bodies = await asyncio.gather(*busy)
    assert {body for one in bodies for body in one} == {b"page"}


async def keep_reading(pop: Pop, until_told: asyncio.Event) -> list[bytes]:
    """What GETs get that come one after the other without a pause."""
    bodies = []
    async with pop.client() as client:
        while not until_told.is_set():
            await client.request("GET", "/page")
            bodies.append((await client.response()).body)
    return bodies


@pytest.mark.slow
async def test_a_resolver_that_fails_moves_nothing(
    origin: OriginDouble, moved: OriginDouble, names: Resolver, caplog: pytest.LogCaptureFixture
) -> None:
    """While the name cannot be resolved the last addresses serve, on the connections there are; it is said once."""
    async with running_pop(f"http://{NAME}:{origin.port}", dns_ttl="10ms") as pop:
        await pop.request("POST", "/form")
        names.addresses, asked = (), names.asked
        for _ in range(6):
            await asyncio.sleep(0.25)
            assert (await pop.request("POST", "/form")).body == b"old"
        await until(lambda: names.asked > asked)
        assert origin.connections == 1
    assert caplog.text.count("cannot be resolved") == 1


async def test_a_connection_leaves_at_its_greatest_age(origin: OriginDouble) -> None:
    """A connection that is old takes no other question; what is under way on it has its answer."""
    gate = asyncio.Event()
    origin.otherwise(Reply(fields=NO_STORE))
    origin.on("/slow", Reply(fields=NO_STORE, body=b"whole", wait=gate))
    async with running_pop(origin, origin_connection_age="60s", first_byte_timeout="10m") as pop:
        await pop.request("POST", "/form")
        slow = asyncio.get_running_loop().create_task(pop.request("POST", "/slow"))
        await origin.request_seen(2)
        pop.pass_time(61)
        gate.set()
        assert (await slow).body == b"whole"
        await pop.request("POST", "/form")
        assert [seen.connection for seen in origin.requests] == [0, 0, 1]


async def test_an_address_is_not_resolved(origin: OriginDouble, names: Resolver) -> None:
    """An origin that is named by its address is never asked for again."""
    looked = resolver.Names("127.0.0.1", 80, 0.0, lambda: 0.0)
    assert resolver.is_address("::1")
    assert not looked.is_gone("127.0.0.1")


@pytest.mark.parametrize("why", ["moved", "age"])
async def test_connections_to_a_valkey_leave(
    valkey: Server, names: Resolver, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """Those for commands, for reads and for messages are made anew, while reads and commands go on and none fails."""
    monkeypatch.setattr(connection_refresh, "CHECK_EVERY", 0.05)
    age = 0.3 if why == "age" else 600.0
    link = Link(Access(parse_url(f"valkey://localhost:{valkey.port}"), 5.0, dns_ttl=0.05, connection_age=age))
    line, failures, over = link.mget_connection(), [], asyncio.Event()

    async def traffic() -> None:
        answered = asyncio.Event()

        def done(values: object, error: BaseException | None) -> None:
            failures.extend([error] * (error is not None))
            answered.set()

        line.read((b"a",), done)
        assert await link.run([("SET", "a", "1")]) == [True]
        await answered.wait()

    async def listen() -> None:
        while not over.is_set():
            with suppress(Failure):
                async with link.subscription() as subscription:
                    await subscription.subscribe("news")
                    while not over.is_set():
                        await subscription.get_message(timeout=0.1)

    listening = asyncio.get_running_loop().create_task(listen())
    for _ in range(20):
        await traffic()
        await asyncio.sleep(0.005)
    before = {one["id"] for one in valkey.db.client_list()}
    names.addresses = ("127.0.0.2",) if why == "moved" else names.addresses

    async def all_are_new() -> None:
        while len(left := before & {one["id"] for one in valkey.db.client_list()}) > 1:  # but the test's own
            if why == "moved":  # messages wait: their connection is closed by the second look
                names.addresses = (f"127.0.0.{3 + names.asked % 200}",)
            await traffic()
            await asyncio.sleep(0.01)
        assert left

    try:
        await asyncio.wait_for(all_are_new(), 20)
    finally:
        over.set()
    over.set()
    await listening
    await line.close()
    await link.close()
    assert failures == []
