"""Several origins: which one is asked, who is left out and comes back, and what may be asked again."""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from harness.certificates import Authority
from harness.client import let_others_run
from harness.origin import OriginDouble, Reply, hang, running_origin
from harness.pop import DEFAULTS, Pop, refusing_port, running_pop
from hypothesis import given
from hypothesis import strategies as st

from edgecache.config.settings import load
from edgecache.semantics.errors import ConfigError
from edgecache.telemetry.metrics import render
from edgecache.upstream.health import Health, least_loaded, may_ask_another
from edgecache.upstream.origin_group import Origins
from edgecache.valkey.circuit_breaker import Breaker, State

NOT_STORED = [("Cache-Control", "no-store")]


# --- the rules


def health(slow_start: float = 10.0) -> Health:
    """A new origin: five failures eject it for 30 s."""
    return Health(Breaker(5, 30.0), fall=3, rise=2, slow_start=slow_start)


@given(st.lists(st.floats(0.0, 1000.0), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_of_two_that_are_drawn_the_less_loaded_is_chosen(loads: list[float], chance: random.Random) -> None:
    """Never the only most loaded one, however it is drawn."""
    chosen = least_loaded(loads, chance.randrange)
    assert 0 <= chosen < len(loads)
    assert len(loads) == 1 or loads[chosen] < max(loads) or loads.count(max(loads)) > 1


def test_latency_rises_at_once_and_falls_slowly() -> None:
    """A peak counts until it has faded."""
    one = health()
    one.answered(0.1, 0.0)
    one.answered(2.0, 1.0)
    assert one.latency == 2.0
    one.answered(0.1, 2.0)
    assert 1.5 < one.latency < 2.0
    one.answered(0.1, 100.0)
    assert one.latency == pytest.approx(0.1, rel=0.01)


def test_load_grows_with_what_is_outstanding_and_while_it_has_just_come_back() -> None:
    """Slow start: a tenth of its share at first, all of it after ten seconds."""
    one = health()
    one.answered(0.1, 0.0)
    assert one.load(3, 0.0) == pytest.approx(0.4)
    for _ in range(5):
        one.failed(1.0)
    assert not one.is_well(may_probe=False, now=40.0)
    assert one.is_well(may_probe=True, now=40.0)
    one.answered(0.1, 40.0)
    assert one.load(0, 40.0) == pytest.approx(10 * one.load(0, 51.0))
    assert one.load(0, 45.0) == pytest.approx(2 * one.load(0, 51.0))


def test_checks_take_an_origin_out_and_bring_it_back() -> None:
    """Three in a row, and two in a row; one of the other kind begins anew."""
    one = health()
    seen = []
    for good in (False, False, True, False, False, False, True, False, True, True):
        one.checked(good, 0.0)
        seen.append(one.is_well(may_probe=True, now=0.0))
    assert seen == [True] * 5 + [False] * 4 + [True]


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"POST", b"PUT", b"DELETE", b"PATCH", b"TRACE"])
def test_only_what_is_safe_or_never_left_goes_to_another(method: bytes) -> None:
    """No unsafe method is sent twice."""
    assert may_ask_another(method, sent=False, has_body=True)
    assert may_ask_another(method, sent=True, has_body=False) == (method in (b"GET", b"HEAD", b"OPTIONS"))
    assert not may_ask_another(method, sent=True, has_body=True)


# --- on real sockets


class Fleet:
    """A POP in front of several origins."""

    def __init__(self, pop: Pop, doubles: list[OriginDouble]) -> None:
        self.pop = pop
        self.doubles = doubles
        self.now = time.monotonic()
        self._numbers: Iterator[int] = iter(range(10**9))
        self.origins.clock = lambda: self.now

    @property
    def origins(self) -> Origins:
        """The product's."""
        pool: Origins = self.pop.worker.pool
        return pool

    def asked(self) -> list[int]:
        """How many requests each origin has seen."""
        return [len(double.requests) for double in self.doubles]

    async def ask(self, count: int, method: str = "GET", body: bytes = b"") -> Counter[int]:
        """So many requests for new URLs, one after the other: the statuses that they got."""
        statuses: Counter[int] = Counter()
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(self.pop.client())
            for _ in range(count):
                await client.request(method, f"/{next(self._numbers)}", (), body)
                statuses[(await client.response()).status] += 1
        return statuses


@asynccontextmanager
async def fleet(*regions: tuple[str, int], dead: str = "", **settings: object) -> AsyncIterator[Fleet]:
    """Origins in each region, so many; the region `dead` has one more, on a port where nobody listens."""
    async with AsyncExitStack() as stack:
        named, doubles = [], []
        for region, count in regions:
            mine = [await stack.enter_async_context(running_origin()) for _ in range(count)]
            doubles += mine
            urls = [double.url for double in mine]
            if region == dead:
                urls.append(f"http://127.0.0.1:{refusing_port()}")
            named.append(f"{region}={'|'.join(urls)}")
        for number, double in enumerate(doubles):
            double.otherwise(Reply(200, NOT_STORED, str(number).encode()))
        pop = await stack.enter_async_context(
            running_pop("", origins=",".join(named), **{"region": "eu", "hit_for_miss": "0s", **settings})
        )
        one = Fleet(pop, doubles)
        one.origins.chance.seed(7)
        yield one


async def test_the_origins_of_a_region_share_its_requests() -> None:
    """All of them are asked, nobody of another region is."""
    async with fleet(("eu", 3), ("us", 1)) as one:
        assert await one.ask(60) == {200: 60}
        assert min(one.asked()[:3]) >= 5
        assert one.asked()[3] == 0


async def test_the_region_follows_the_clients_place() -> None:
    """By the rules, and by the POP's own region where none says."""
    settings = {
        "trusted_proxies": "127.0.0.1",
        "geo_overrides": "198.51.100.1=DE,198.51.100.2=US",
        "geo_rules": "country:US=us",
    }
    async with fleet(("us", 1), ("eu", 1), **settings) as one:
        for address, body in (("198.51.100.1", b"1"), ("198.51.100.2", b"0"), ("198.51.100.3", b"1")) * 2:
            assert (await one.pop.get("/", ("X-Forwarded-For", address))).body == body


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_bad_origin_is_ejected_after_five_failures_and_tried_again_after_thirty_seconds(status: int) -> None:
    """Less than one in a hundred goes to it then; and when it is well again, it is asked again."""
    async with fleet(("eu", 3)) as one:
        one.doubles[0].otherwise(Reply(status, NOT_STORED))
        await one.ask(80)
        assert len(one.doubles[0].requests) == 5
        one.now += 20
        assert await one.ask(100) == {200: 100}
        assert len(one.doubles[0].requests) == 5

        one.now += 20  # a probe, which fails
        await one.ask(100)
        assert len(one.doubles[0].requests) == 6

        one.doubles[0].otherwise(Reply(200, NOT_STORED))
        one.now += 40
        assert await one.ask(20) == {200: 20}
        assert one.origins.members[0].health.breaker.state is State.CLOSED
        one.now += 20
        await one.ask(100)
        assert len(one.doubles[0].requests) > 15


async def test_what_a_dead_origin_does_not_take_another_answers() -> None:
    """No request fails, with a body or without; nobody sees one twice."""
    async with fleet(("eu", 2), dead="eu") as one:
        assert await one.ask(40, "POST", b"x" * 1000) == {200: 40}
        assert sum(one.asked()) == 40
        assert all(request.body == b"x" * 1000 for double in one.doubles for request in double.requests)
        assert await one.ask(40) == {200: 40}
        assert sum(one.asked()) == 80


async def test_a_region_that_is_down_is_stood_in_for_by_another() -> None:
    """And comes back into its own."""
    async with fleet(("eu", 0), ("us", 1), dead="eu") as one:
        assert await one.ask(30) == {200: 30}
        assert await one.ask(10, "DELETE") == {200: 10}
        assert len(one.doubles[0].requests) == 40


async def test_an_unsafe_request_that_was_sent_is_never_sent_again() -> None:
    """The origin hangs up after it has read it: the client gets an error, no other origin gets the request."""
    async with fleet(("eu", 3)) as one:
        for double in one.doubles:
            double.otherwise(Reply(cut_head_at=0))
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            before = sum(one.asked())
            assert await one.ask(3, method, b"x") == {502: 3}
            assert sum(one.asked()) == before + 3


async def test_a_probe_that_fails_costs_no_client_its_answer() -> None:
    """Even when there is nothing left of the budget: it is asked again of an origin that is well."""
    async with fleet(("eu", 2)) as one:
        one.doubles[0].otherwise(Reply(cut_head_at=0))
        assert await one.ask(20) == {200: 20}
        one.origins.retries.spend = lambda asked, now: False
        for _ in range(3):
            one.now += 70
            assert await one.ask(5) == {200: 5}
        assert len(one.doubles[0].requests) == 8


async def test_a_safe_request_whose_origin_hangs_up_is_asked_of_another() -> None:
    """Within the budget, which ten requests in the window cannot exceed."""
    async with fleet(("eu", 2)) as one:
        one.doubles[0].otherwise(Reply(cut_head_at=0))
        assert await one.ask(12) == {200: 12}
        assert len(one.doubles[0].requests) == 5
        assert one.origins.retries.spent == 4, "what was lost with an origin that is ejected is beside the budget"


async def test_retries_stay_within_their_budget_when_everything_fails() -> None:
    """A fifth more than was asked, and not one request above it."""
    async with fleet(("eu", 3)) as one:
        for double in one.doubles:
            double.otherwise(Reply(503, NOT_STORED))
        assert await one.ask(200) == {503: 200}
        assert sum(one.asked()) <= 200 * 1.2


async def test_good_times_do_not_pay_for_a_storm() -> None:
    """What was not spent before is an advance of twenty retries, which the storm has to earn before it gets more."""
    async with fleet(("eu", 3)) as one:
        await one.ask(400)
        for double in one.doubles:
            double.otherwise(Reply(503, NOT_STORED))
        before = sum(one.asked())
        await one.ask(200)
        assert sum(one.asked()) - before <= 200 * 1.2


async def test_when_all_are_ill_they_are_asked_all_the_same() -> None:
    """Ejection leaves nobody without an origin; and whoever recovers serves at once."""
    async with fleet(("eu", 2)) as one:
        for double in one.doubles:
            double.otherwise(Reply(500, NOT_STORED))
        await one.ask(30)
        assert all(member.health.breaker.state is State.OPEN for member in one.origins.members)
        for double in one.doubles:
            double.otherwise(Reply(200, NOT_STORED))
        assert await one.ask(10) == {200: 10}


async def test_with_one_origin_nothing_that_reached_it_is_asked_again() -> None:
    """There is no other to ask."""
    async with fleet(("eu", 1)) as one:
        one.doubles[0].otherwise(Reply(503, NOT_STORED))
        assert await one.ask(10) == {503: 10}
        assert one.asked() == [10]


async def test_checks_take_an_origin_out_and_bring_it_back_on_sockets() -> None:
    """By what its path answers."""
    async with fleet(("eu", 2), origin_check_path="/health", origin_check_interval="5s") as one:

        async def checks(count: int) -> None:
            for _ in range(count):
                one.now += 6
                one.origins.sweep(one.now)
                for _ in range(10):
                    await let_others_run()

        one.doubles[0].on("/health", *[Reply(503)] * 4, Reply(200))
        await checks(4)
        before = len(one.doubles[0].requests)
        assert await one.ask(20) == {200: 20}
        assert len(one.doubles[0].requests) == before
        assert one.origins.members[0].health.breaker.state is State.CLOSED

        await checks(3)
        one.now += 20
        await one.ask(20)
        assert any(request.target != "/health" for request in one.doubles[0].requests)


@pytest.mark.parametrize(
    ("settings", "host"),
    [
        ({"origin_host": "www.site.test"}, "www.site.test"),
        ({"hosts": "www.site.test,site.test"}, "www.site.test"),
        ({"hosts": "www.site.test", "origin_host": "origin"}, None),
        ({}, None),
    ],
    ids=["fixed", "hosts", "origin", "unknown"],
)
async def test_checks_bear_the_host_that_requests_bear(settings: dict[str, str], host: str | None) -> None:
    """An origin that serves sites by name is asked for the site of the requests, not for its own address."""
    async with fleet(("eu", 1), origin_check_path="/health", **settings) as one:
        one.now += 6
        one.origins.sweep(one.now)
        check = await one.doubles[0].request_seen()
        assert check.get("Host") == (host or one.doubles[0].url.removeprefix("http://"))


async def test_checks_name_the_server_that_requests_name(tmp_path: Path) -> None:
    """In the SNI too, whatever Host both send: an origin that chooses its certificate by name shows the right one."""
    authority, seen = Authority(tmp_path), []
    pair = authority.issue("localhost")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pair.certificate, pair.key)
    tls.sni_callback = lambda _, name, __: seen.append(name)
    async with running_origin(tls=tls) as double:
        double.otherwise(Reply(200, [*NOT_STORED, ("Connection", "close")]))
        url = f"https://localhost:{double.port}"
        options = {"origin_check_path": "/health", "origin_host": "www.site.test", "origin_ca": authority.file}
        async with running_pop("", origins=f"eu={url}", region="eu", **options) as pop:
            assert (await pop.get("/")).status == 200
            pop.worker.pool.sweep(time.monotonic() + 6)
            await double.until(lambda: "/health" in {seen.target for seen in double.requests}, "a check")
        assert {request.get("Host") for request in double.requests} == {"www.site.test"}
        assert seen == ["localhost"] * len(double.requests)


async def test_each_origin_may_be_sent_its_own_host() -> None:
    """With EDGECACHE_ORIGIN_HOST=origin."""
    async with fleet(("eu", 2), origin_host="origin") as one:
        await one.ask(20)
        for double in one.doubles:
            assert {request.get("Host") for request in double.requests} == {double.url.removeprefix("http://")}


async def test_a_client_that_leaves_frees_its_place_at_the_origin() -> None:
    """What nobody waits for any more does not count as load."""
    async with fleet(("eu", 1)) as one:
        one.doubles[0].otherwise(hang())
        async with one.pop.client() as client:
            await client.request("POST", "/", ())
            await one.doubles[0].request_seen()
            assert len(one.origins.members[0].attempts) == 1
            client.reset()
        for _ in range(10):
            await let_others_run()
        one.origins.sweep(one.now)
        assert not one.origins.members[0].attempts


async def begun(one: Fleet, method: str = "GET", fields: Iterable[tuple[str, str]] = ()) -> tuple[Any, OriginDouble]:
    """A request under way at one of the origins, which does not answer, and that origin; others answer at once."""
    assert await one.ask(40) == {200: 40}
    for double in one.doubles:
        double.otherwise(hang())
    client = await one.pop.open()
    before = one.asked()
    await client.request(method, "/slow", fields)
    while one.asked() == before:
        await let_others_run()
    slow = next(double for double, count in zip(one.doubles, before, strict=True) if len(double.requests) > count)
    for double in one.doubles:
        if double is not slow:
            double.otherwise(Reply(200, NOT_STORED, b"from the other"))
    return client, slow


async def test_a_slow_origin_is_outrun_by_a_second_one() -> None:
    """The client gets the second answer; the slow one is hung up on, and known to be slow."""
    async with fleet(("eu", 2)) as one:
        client, slow = await begun(one)
        one.now += 3
        one.origins.sweep(one.now)
        response = await client.response()
        assert response.body == b"from the other"
        member = next(member for member in one.origins.members if str(member.origin) == slow.url)
        assert member.health.latency >= 3
        assert not any(member.attempts for member in one.origins.members)
        assert (one.origins.hedged, one.origins.retries.spent) == (1, 1)
        one.origins.sweep(one.now + 3)
        assert one.origins.hedged == 1
        client.close()


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("GET", [("Cookie", "session=1")]),
        ("GET", [("Authorization", "Bearer x")]),
        ("GET", [("Cache-Control", "no-store")]),
        ("OPTIONS", []),
    ],
    ids=["cookie", "authorization", "no-store", "options"],
)
async def test_what_may_be_one_clients_is_never_hedged(method: str, fields: list[tuple[str, str]]) -> None:
    """A question whose answer is not expected to be shared is asked of one origin: it may have effects."""
    async with fleet(("eu", 2)) as one:
        client, _ = await begun(one, method, fields)
        before = sum(one.asked())
        one.now += 3
        one.origins.sweep(one.now)
        assert one.origins.hedged == 0
        assert sum(one.asked()) == before
        client.close()


async def test_what_is_known_not_to_be_shared_is_never_hedged() -> None:
    """Nor is a question that is passed through because the last answer was one client's."""
    async with fleet(("eu", 2), hit_for_miss="60s") as one:
        await one.pop.get("/slow")
        client, _ = await begun(one)
        one.now += 3
        one.origins.sweep(one.now)
        assert one.origins.hedged == 0
        client.close()


@pytest.mark.parametrize("fields", [[], [("Cookie", "a=b")]], ids=["plain", "cookie"])
async def test_the_validation_of_a_stored_answer_is_hedged(fields: list[tuple[str, str]]) -> None:
    """What is stored has been shared: whoever asks for it again, a second origin may be asked too."""
    async with fleet(("eu", 2)) as one:
        for double in one.doubles:
            double.on("/slow", Reply(200, [("Cache-Control", "max-age=1"), ("ETag", '"a"')], b"stored"))
        await one.pop.get("/slow")
        one.pop.clock.advance(10)
        for double in one.doubles:
            double.on("/slow", hang())
        client, _ = await begun(one, "GET", fields)
        one.now += 3
        one.origins.sweep(one.now)
        assert one.origins.hedged == 1
        client.close()


async def test_an_unsafe_request_is_never_hedged() -> None:
    """However long it takes."""
    async with fleet(("eu", 2)) as one:
        client, _ = await begun(one, "POST")
        before = sum(one.asked())
        one.now += 3
        one.origins.sweep(one.now)
        assert one.origins.hedged == 0
        assert sum(one.asked()) == before
        client.close()


async def test_nothing_is_hedged_before_it_is_slow_or_when_it_is_switched_off() -> None:
    """Slow is what 95 of 100 answers were not."""
    async with fleet(("eu", 2), origin_hedge="off") as one:
        client, _ = await begun(one)
        one.now += 3
        one.origins.sweep(one.now)
        assert one.origins.hedged == 0
        client.close()
    async with fleet(("eu", 2)) as one:
        client, _ = await begun(one)
        one.origins.sweep(one.now)
        assert one.origins.hedged == 0
        client.close()


async def test_a_region_that_falls_silent_is_left_for_another() -> None:
    """Nothing comes from either of its origins: what waits there, more than the budget pays for, is asked elsewhere."""
    async with fleet(("eu", 2), ("us", 1)) as one:
        assert await one.ask(40) == {200: 40}
        for double in one.doubles[:2]:
            double.otherwise(hang())
            double.on("/last", Reply(200, NOT_STORED))
        asking = [asyncio.ensure_future(one.pop.get(f"/silent/{number}")) for number in range(60)]  # noqa: TID251
        while sum(one.asked()[:2]) < 100:
            await let_others_run()
        one.now += 0.1
        for _ in range(8):  # what was asked before falls silent, too
            assert (await one.pop.get("/last")).status == 200
        for _ in range(3):
            one.now += 2
            one.origins.sweep(one.now)
            for _ in range(5):
                await let_others_run()
        assert [response.status for response in await asyncio.gather(*asking)] == [200] * 60
        assert all(member.health.breaker.opened == 1 for member in one.origins.members[:2])
        assert len(one.doubles[2].requests) == 60


async def test_an_origin_that_still_answers_others_is_not_silent() -> None:
    """However long a few of its answers take."""
    async with fleet(("eu", 2), origin_hedge="off") as one:
        assert await one.ask(40) == {200: 40}
        for double in one.doubles:
            for number in range(16):
                double.on(f"/slow/{number}", hang())
        clients = [await one.pop.open() for _ in range(16)]
        for number, client in enumerate(clients):
            await client.request("GET", f"/slow/{number}", ())
        while sum(len(member.attempts) for member in one.origins.members) < 16:
            await let_others_run()
        one.now += 1
        assert await one.ask(20) == {200: 20}
        one.now += 1
        one.origins.sweep(one.now)
        assert all(member.health.breaker.opened == 0 for member in one.origins.members)
        for client in clients:
            client.reset()


async def test_of_two_that_race_the_one_that_fails_steps_aside() -> None:
    """The client gets the answer of the slow one after all."""
    async with fleet(("eu", 2)) as one:
        gate = asyncio.Event()
        assert await one.ask(40) == {200: 40}
        for double in one.doubles:
            double.otherwise(Reply(200, NOT_STORED, b"slow but good", wait=gate))
        client = await one.pop.open()
        before = one.asked()
        await client.request("GET", "/slow", ())
        while one.asked() == before:
            await let_others_run()
        for double, count in zip(one.doubles, before, strict=True):
            if len(double.requests) == count:
                double.otherwise(Reply(503, NOT_STORED))
        one.now += 3
        one.origins.sweep(one.now)
        while sum(member.attempts != set() for member in one.origins.members) != 1:
            await let_others_run()
        gate.set()
        assert (await client.response()).body == b"slow but good"
        client.close()


async def test_how_each_origin_is_doing_is_exported() -> None:
    """By name and region."""
    async with fleet(("eu", 1), ("us", 1)) as one:
        one.doubles[0].otherwise(Reply(500, NOT_STORED))
        await one.ask(8)
        text = str(one.pop.worker.snapshot())
        assert one.doubles[0].url in text
        assert "edgecache_origin_up" in text
        assert "edgecache_origin_ejections" in text


async def test_a_failed_check_is_no_failure_of_a_request() -> None:
    """An origin that nobody asks anything fails no request, however many of its checks do; that it is out is told."""
    async with fleet(("eu", 1), ("us", 1), origin_check_path="/health", origin_check_interval="5s") as one:
        await one.doubles[1].stop()
        for _ in range(4):
            one.now += 6
            one.origins.sweep(one.now)
            await let_others_run(50)
        text = render(one.pop.worker.snapshot()).decode()
    down = one.doubles[1].url
    assert f'edgecache_origin_up{{origin="{down}",region="us"}} 0.0' in text
    failures = [line for line in text.splitlines() if line.startswith("edgecache_origin_failures_total{")]
    assert {line.rpartition(" ")[2] for line in failures} == {"0.0"}


# --- settings


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ORIGINS": "eu=http://a,eu=http://b"}, "EDGECACHE_ORIGINS: .* twice"),
        ({"ORIGINS": "eu=http://a|http://a:80"}, "EDGECACHE_ORIGINS: .* twice"),
        ({"ORIGINS": "eu"}, "EDGECACHE_ORIGINS: .* not name=value"),
        ({"ORIGINS": "eu=http://a|"}, "EDGECACHE_ORIGINS: "),
        ({"ORIGINS": "eu=ftp://a"}, "EDGECACHE_ORIGINS: "),
        ({"ORIGINS": ","}, "EDGECACHE_ORIGINS: names no origin"),
        ({"ORIGINS": "eu=http://a", "ORIGIN": "http://b"}, "EDGECACHE_ORIGINS: .* one of them"),
        ({"ORIGINS": "eu=http://a", "GEO_RULES": "*=us"}, "EDGECACHE_GEO_RULES: names us"),
        ({"ORIGINS": "eu=http://a|http://127.0.0.1:8080"}, "EDGECACHE_ORIGINS: is this POP itself"),
        ({"ORIGINS": "eu=http://a", "ORIGIN_CHECK_PATH": "health"}, "EDGECACHE_ORIGIN_CHECK_PATH: "),
        ({"ORIGINS": "eu=http://a", "ORIGIN_CHECK_PATH": "/a\r\nb"}, "EDGECACHE_ORIGIN_CHECK_PATH: "),
        ({}, "EDGECACHE_ORIGIN: is required"),
    ],
)
def test_a_bad_configuration_refuses_the_start(settings: dict[str, str], words: str) -> None:
    """In one line that names the variable."""
    with pytest.raises(ConfigError, match=words) as caught:
        load({f"EDGECACHE_{name}": value for name, value in settings.items()})
    assert "\n" not in str(caught.value)


def test_several_origins_need_no_single_one() -> None:
    """The first stands for it."""
    settings = load({**DEFAULTS, "EDGECACHE_ORIGINS": "eu=https://a|https://b:8443, us=http://c"})
    assert str(settings.origin) == "https://a"
    assert {region: list(map(str, origins)) for region, origins in settings.origins.items()} == {
        "eu": ["https://a", "https://b:8443"],
        "us": ["http://c"],
    }
