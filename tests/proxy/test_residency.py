"""Residency: what clients of one jurisdiction get is never in another's memory, Valkey, parent or origin.

Canaries prove it: each request names its jurisdiction, each answer repeats that, and every place is searched for it.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from harness.origin import OriginDouble, ReceivedRequest, Reply, running_origin
from harness.pop import Pop, refusing_port, running_pop
from harness.valkey import Server, running_valkey

import edgecache.upstream.origin_group
import edgecache.upstream.parent_selection
from edgecache.config.settings import load
from edgecache.semantics.errors import ConfigError
from edgecache.semantics.message import Fields, Request
from edgecache.semantics.residency import Residency
from edgecache.storage.record import Codec, Corrupt

SECRET = "a-secret-of-this-fleet"
JURISDICTIONS = {"eu": "EU", "eu-north": "EU", "us": "US", "ap": "AP"}
CLIENTS = {"EU": "198.51.100.1", "US": "198.51.100.2", "AP": "198.51.100.3"}
PLACES = {
    "geo_overrides": "198.51.100.1=DE,198.51.100.2=US,198.51.100.3=JP",
    "geo_rules": "country:DE=eu,country:US=us,*=ap",
    "residency": ",".join(f"{region}:{name}" for region, name in JURISDICTIONS.items()),
    "trusted_proxies": "127.0.0.1",
    "pop_secret": SECRET,
}
CANARY = re.compile(rb"canary-([A-Z]{2})-")


def answer(request: ReceivedRequest) -> Reply:
    """What an origin says: storable, and bearing the canary of the request, in its head and in its body."""
    canary = f"canary-{request.get('X-Canary')}-{request.target}"
    fields = [("Cache-Control", "public, max-age=600"), ("X-Bears", canary), ("ETag", f'"{canary}"')]
    return Reply(200, fields, canary.encode() * 20)


class World:
    """A fleet: POPs by region, their Valkeys, and the origins of each region."""

    def __init__(self) -> None:
        self.edges: list[Pop] = []
        self.parents: list[Pop] = []
        self.regions: dict[int, str] = {}  # by the POP's port
        self.valkeys: dict[str, Server] = {}
        self.origins: dict[str, list[OriginDouble]] = {}
        self.heard: list[tuple[str, bytes]] = []  # what parents were asked: their jurisdiction, the head
        self.strayed: list[str] = []  # answers to clients that were another jurisdiction's
        self.statuses: Counter[int] = Counter()

    def jurisdiction(self, pop: Pop) -> str:
        """The POP's."""
        return JURISDICTIONS[self.regions[pop.port]]

    def violations(self) -> list[str]:
        """Where something lies that belongs elsewhere."""
        found = self.strayed + [f"parent of {own} was asked {head!r}" for own, head in self.heard if strays(head, own)]
        for pop in (*self.edges, *self.parents):
            own, memory = self.jurisdiction(pop), pop.worker.edge.memory
            for slot in list(memory._slots.values()):
                for entry in getattr(slot, "by_values", {0: slot}).values():
                    parts = entry.segments.parts if entry.segments else ()
                    held = b"".join([entry.content, entry.block, *(content for _, content in parts)])
                    if strays(held, own):
                        found.append(f"memory of {own} holds {held[:60]!r}")
        for region, valkey in self.valkeys.items():
            for key in valkey.db.scan_iter(count=1000):
                value = valkey.db.get(key) if valkey.db.type(key) == b"string" else b""
                if strays(value or b"", JURISDICTIONS[region]):
                    found.append(f"Valkey of {region} holds {value[:60]!r}")
        for region, doubles in self.origins.items():
            asked = [request for double in doubles for request in double.requests]
            canaries = [f"canary-{request.get('X-Canary')}- {request.target}" for request in asked]
            own = JURISDICTIONS[region]
            found += [f"origin of {region} was asked {one}" for one in canaries if strays(one.encode(), own)]
        return found

    def held(self) -> int:
        """How many objects lie in any memory."""
        return sum(len(pop.worker.edge.memory) for pop in (*self.edges, *self.parents))


def strays(text: bytes, own: str) -> bool:
    """Whether a canary of another jurisdiction than `own` is in `text`."""
    return any(name.decode() != own for name in CANARY.findall(text))


def overhear(world: World, pop: Pop) -> None:
    """Note what a parent is asked by its children."""
    hear = pop.worker.children.hear

    def noting(exchange: Any, client: Any, child: Any) -> None:
        canary = exchange.request.fields.get(b"x-canary")
        if canary is not None:
            world.heard.append((world.jurisdiction(pop), b"canary-%b- %b" % (canary, exchange.request.target)))
        hear(exchange, client, child)

    pop.worker.children.hear = noting


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Server]]:
    """A real Valkey for each region."""
    with running_valkey() as eu, running_valkey() as north, running_valkey() as us, running_valkey() as ap:
        yield {"eu": eu, "eu-north": north, "us": us, "ap": ap}


CLOSED = f"http://127.0.0.1:{refusing_port()}"  # where nobody listens
CLOSED_VALKEY = f"valkey://127.0.0.1:{refusing_port()}"
GONE = f"http://127.0.0.1:{refusing_port(1)}"  # nor there: a parent that is down


@asynccontextmanager
async def random_world(chance: random.Random, servers: dict[str, Server]) -> AsyncIterator[World]:
    """A fleet at random: who is where, who knows whom, who is dead."""
    async with AsyncExitStack() as stack:
        world = World()
        urls: dict[str, list[str]] = {}
        for region in JURISDICTIONS:
            doubles = [await stack.enter_async_context(running_origin()) for _ in range(chance.randrange(2))]
            for double in doubles:
                double.otherwise(answer)
            world.origins[region] = doubles
            urls[region] = [double.url for double in doubles] + [CLOSED] * chance.randrange(2)
            servers[region].db.flushall()
            world.valkeys[region] = servers[region]
        known: dict[str, list[str]] = {}
        for number in range(chance.randint(1, 3)):
            pop = await _random_pop(chance, stack, world, urls, known, f"parent-{number}")
            overhear(world, pop)
            world.parents.append(pop)
            known.setdefault(world.regions[pop.port], []).append(f"http://127.0.0.1:{pop.port}")
        if chance.random() < 0.5:
            known.setdefault(chance.choice(list(JURISDICTIONS)), []).append(GONE)
        for number in range(chance.randint(1, 3)):
            world.edges.append(await _random_pop(chance, stack, world, urls, known, f"edge-{number}"))
        yield world


async def _random_pop(
    chance: random.Random,
    stack: AsyncExitStack,
    world: World,
    urls: dict[str, list[str]],
    known: dict[str, list[str]],
    name: str,
) -> Pop:
    region = chance.choice(list(JURISDICTIONS))
    origins = {place: listed for place, listed in urls.items() if listed and chance.random() < 0.7}
    settings: dict[str, object] = {**PLACES, "region": region, "pop": name}
    if chance.random() < 0.7:
        settings |= {"regional": world.valkeys[region].url, "regional_timeout": "2s"}
    parents = {place: listed for place, listed in known.items() if chance.random() < 0.8}
    if parents:
        settings["parents"] = written(parents)
    if origins:
        settings["origins"] = written(origins)
    sole = "" if origins else next(iter(urls[region]), CLOSED)
    pop = await stack.enter_async_context(running_pop(sole, world_clock(world), **settings))
    world.regions[pop.port] = region
    return pop


def world_clock(world: World) -> Any:
    """The clock of all."""
    from harness.clock import FakeClock

    for doubles in world.origins.values():
        for double in doubles:
            return double.clock
    return FakeClock()


def written(urls: dict[str, list[str]]) -> str:
    """URLs by region, as a setting."""
    return ",".join(f"{region}={'|'.join(listed)}" for region, listed in urls.items())


ASKED = (
    ("GET", ()),
    ("GET", ()),
    ("HEAD", ()),
    ("GET", (("Range", "bytes=0-9"),)),
    ("GET", (("Cache-Control", "no-cache"),)),
    ("GET", (("Cache-Control", "only-if-cached"),)),
    ("GET", (("If-None-Match", '"x"'),)),
    ("POST", ()),
)


async def ask_at_random(chance: random.Random, world: World, count: int) -> None:
    """Clients of all jurisdictions ask all edges; every answer is of the client's own jurisdiction, or none."""
    for _ in range(count):
        own = chance.choice(list(CLIENTS))
        method, fields = chance.choice(ASKED)
        edge = chance.choice(world.edges)
        client = (("X-Forwarded-For", CLIENTS[own]), ("X-Canary", own))
        body = b"x" if method == "POST" else b""
        response = await edge.request(method, f"/{chance.randrange(4)}", *client, *fields, body=body)
        world.statuses[response.status] += 1
        assert response.status in (200, 206, 304, 502, 503, 504)
        if strays(response.head.raw + response.body, own):
            world.strayed.append(f"a client of {own} got {response.body[:60]!r} from {edge.port}")
        if chance.random() < 0.05:
            doubles = [double for listed in world.origins.values() for double in listed]
            if doubles:
                await chance.choice(doubles).stop()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(32))
async def test_nothing_leaves_its_jurisdiction_in_any_topology(seed: int, servers: dict[str, Server]) -> None:
    """Random fleets, random failures, clients from everywhere: no canary where it does not belong."""
    chance = random.Random(seed)
    async with random_world(chance, servers) as world:
        await ask_at_random(chance, world, 60)
        assert world.violations() == []


@pytest.mark.slow
async def test_the_random_fleets_do_serve_and_do_refuse(servers: dict[str, Server]) -> None:
    """The property is not empty: there are answers, objects that are kept, and refusals."""
    statuses: Counter[int] = Counter()
    held = 0
    for seed in range(4):
        chance = random.Random(seed)
        async with random_world(chance, servers) as world:
            await ask_at_random(chance, world, 60)
            statuses += world.statuses
            held += world.held()
    assert statuses[200] > 40
    assert statuses[503] > 5
    assert held > 4


@pytest.mark.slow
@pytest.mark.parametrize("weakened", ["asked", "kept"])
async def test_the_canaries_find_a_leak(
    weakened: str, servers: dict[str, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the rule that says who may be asked, or the one that says who may store, something is found."""
    if weakened == "asked":
        monkeypatch.setattr(edgecache.upstream.origin_group, "may_serve", lambda own, wanted: True)
        monkeypatch.setattr(edgecache.upstream.parent_selection, "may_serve", lambda own, wanted: True)
    found = []
    for seed in range(8):
        chance = random.Random(seed)
        async with random_world(chance, servers) as world:
            if weakened == "kept":
                for pop in world.edges:
                    monkeypatch.setattr(pop.worker.edge, "_pass_foreign", look_up_all_the_same(pop.worker.edge))
            await ask_at_random(chance, world, 40)
            found += world.violations()
    assert found


def look_up_all_the_same(edge: Any) -> Any:
    """An edge that treats what is of another jurisdiction as its own."""

    def look_up(exchange: Any) -> None:
        exchange.request = exchange.request._replace(jurisdiction=edge.jurisdiction)
        edge.answer(exchange)

    return look_up


# --- by hand


@asynccontextmanager
async def pair(**settings: object) -> AsyncIterator[tuple[Pop, dict[str, OriginDouble]]]:
    """A POP of region eu, before an origin in eu and one in us."""
    async with AsyncExitStack() as stack:
        doubles = {region: await stack.enter_async_context(running_origin()) for region in ("eu", "us")}
        for double in doubles.values():
            double.otherwise(answer)
        origins = ",".join(f"{region}={double.url}" for region, double in doubles.items())
        options = {**PLACES, "region": "eu", "origins": origins, **settings}
        yield await stack.enter_async_context(running_pop("", doubles["eu"].clock, **options)), doubles


def of(jurisdiction: str) -> tuple[tuple[str, str], ...]:
    """The fields of a request of a client there."""
    return ("X-Forwarded-For", CLIENTS[jurisdiction]), ("X-Canary", jurisdiction)


async def test_what_is_foreign_is_passed_on_and_not_kept() -> None:
    """Cache-Status and a counter show it; what is at home is kept as ever."""
    async with pair() as (pop, doubles):
        for _ in range(3):
            response = await pop.get("/", *of("US"))
            assert response.status == 200
            assert response.get("Cache-Status") == "test; fwd=bypass; fwd-status=200; detail=residency"
        for _ in range(3):
            assert (await pop.get("/", *of("EU"))).status == 200
        assert (len(doubles["us"].requests), len(doubles["eu"].requests)) == (3, 1)
        assert pop.worker.edge.foreign == 3
        assert len(pop.worker.edge.memory) == 1


async def test_what_nobody_may_serve_gets_503() -> None:
    """There is no origin in AP; the reason is told, and counted. Nor does the other region stand in for a dead one."""
    async with pair() as (pop, doubles):
        response = await pop.get("/", *of("AP"))
        assert response.status == 503
        assert b'"reason":"residency"' in response.body
        assert "residency" in str(pop.worker.snapshot())
        await doubles["us"].stop()
        assert (await pop.get("/", *of("US"))).status == 502
        assert not doubles["eu"].requests


async def test_two_jurisdictions_do_not_share_an_answer_of_one_url() -> None:
    """Each client gets what its own origin says."""
    async with pair() as (pop, _):
        for _ in range(2):
            for own in ("EU", "US"):
                assert (await pop.get("/same", *of(own))).body.startswith(f"canary-{own}-".encode())


async def test_a_write_of_another_jurisdiction_invalidates_all_the_same() -> None:
    """It goes to its own origin; what it may have changed is named, which is no content."""
    async with pair() as (pop, doubles):
        await pop.get("/a", *of("EU"))
        assert (await pop.request("POST", "/a", *of("US"))).status == 200
        assert [request.method for request in doubles["us"].requests] == ["POST"]
        await pop.get("/a", *of("EU"))
        assert len(doubles["eu"].requests) == 2


@pytest.mark.parametrize(("residency", "given"), [("", {"eu-north", "us"}), (PLACES["residency"], {"eu-north"})])
async def test_a_refresh_is_given_to_regions_of_this_jurisdiction(
    valkey: Server, residency: str, given: set[str]
) -> None:
    """And a write of another one refreshes nothing."""
    peers = f"us={CLOSED_VALKEY},eu-north={CLOSED_VALKEY}"
    places = {"residency": residency, "geo_rules": "country:DE=eu,*=us"}
    settings = {**places, "regional": valkey.url, "peers": peers, "write_through": "refresh"}
    async with pair(**settings) as (pop, _):
        refresher = pop.worker.edge.writes.refresh.__self__
        assert refresher._peers.keys() == given
        assert (await pop.request("POST", "/a", *of("US"))).status == 200
        assert bool(pop.worker.edge.flights.led) is not bool(residency)


async def test_a_pop_that_keeps_no_residency_refuses_what_a_child_says_must_stay(origin: OriginDouble) -> None:
    """Rather than to let it lie about."""
    origin.otherwise(answer)
    async with (
        running_pop(origin, pop="shield", pop_secret=SECRET) as shield,
        running_pop(
            CLOSED, origin.clock, **{**PLACES, "region": "eu", "parents": f"eu=http://127.0.0.1:{shield.port}"}
        ) as edge,
    ):
        assert (await edge.get("/", *of("EU"))).status == 503
        assert not origin.requests
        assert len(shield.worker.edge.memory) == 0


def test_a_record_of_another_jurisdiction_cannot_be_read() -> None:
    """Even if two regions were to share one Valkey."""
    sealed = Codec(scope=b"EU").seal(b"key", b"content")
    assert Codec(scope=b"EU").open(b"key", sealed) == b"content"
    for other in (Codec(scope=b"US"), Codec()):
        with pytest.raises(Corrupt):
            other.open(b"key", sealed)


def test_the_jurisdiction_is_that_of_the_clients_region() -> None:
    """And this POP's own where nothing says."""
    rules = Residency({"eu": "EU", "us": "US"}, "EU")
    plain = Request(b"GET", b"/", b"site", Fields(()))
    assert rules.of(plain) == "EU"
    assert rules.of(plain._replace(place=((b"Edgecache-Geo-Region", b"us"),))) == "US"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"RESIDENCY": "eu:EU,eu:US"}, "EDGECACHE_RESIDENCY: .* names the region eu twice"),
        ({"RESIDENCY": "eu"}, "EDGECACHE_RESIDENCY: .* not region:jurisdiction"),
        ({"RESIDENCY": "eu:E U"}, "EDGECACHE_RESIDENCY: "),
        ({"RESIDENCY": "us:US"}, "EDGECACHE_RESIDENCY: does not say which jurisdiction eu is in"),
        ({"RESIDENCY": "eu:EU", "GEO_RULES": "*=ap"}, "EDGECACHE_RESIDENCY: does not say which jurisdiction ap is in"),
        ({"RESIDENCY": "eu:EU", "PARENTS": "us=http://a"}, "EDGECACHE_RESIDENCY: does not say .* us is in"),
    ],
)
def test_a_bad_configuration_refuses_the_start(settings: dict[str, str], words: str) -> None:
    """In one line that names the variable."""
    environ = {"ORIGIN": "http://origin", "REGION": "eu", "POP_SECRET": SECRET, **settings}
    with pytest.raises(ConfigError, match=words) as caught:
        load({f"EDGECACHE_{name}": value for name, value in environ.items()})
    assert "\n" not in str(caught.value)
