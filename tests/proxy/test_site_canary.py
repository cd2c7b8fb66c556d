"""A share of the clients goes to a canary pool: each stays where it was, and neither sees the other's responses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from harness.client import ReceivedResponse
from harness.origin import Reply
from harness.pop import Pop, environment, running_pop
from harness.site_pools import Sites, filled, site, sites

from edgecache.config.settings import load
from edgecache.semantics.message import Fields, Request
from edgecache.semantics.rules.actions import Canary
from edgecache.semantics.rules.canary import NUMBERS, is_in_share, number_of
from edgecache.semantics.rules.conditions import RequestFacts
from edgecache.server.explain import report, request_of

CANARY = site(
    'origin = "{0}"\n[[sites.rules]]\nname = "r"\nroute = { canary = { pool = "new", share = 0.1, cookie = "c" } }'
)
TEXT = '[pools.new]\nservers = ["{1}"]\n' + CANARY
NUMBER = re.compile(r"c=([0-9]+); Path=/; Max-Age=2592000; HttpOnly; SameSite=Lax")


def draws(pop: Pop, *numbers: int) -> None:
    """Have `pop` draw these numbers."""
    drawn: Iterator[int] = iter(numbers)
    (rules,) = [one for one in pop.worker.pipeline.middleware if hasattr(one, "draw")]
    rules.draw = lambda below: next(drawn)


async def ask(pop: Pop, target: str, cookie: str = "", method: str = "GET") -> ReceivedResponse:
    """One request of a.test."""
    fields = (("Cookie", cookie),) if cookie else ()
    response: Any = await pop.request(method, target, ("Host", "a.test"), *fields)
    return response


async def test_a_client_stays_with_its_pool() -> None:
    """By its number, however often it asks, from memory and from upstream; whoever has none draws one."""
    async with sites(TEXT, 2) as run:
        draws(run.pop, 99, 100)
        for number, body in ((99, b"1"), (100, b"0")):
            first = await ask(run.pop, "/")
            assert first.body == body
            given = NUMBER.fullmatch(first.get("set-cookie") or "")
            assert given is not None
            assert int(given[1]) == number
            for target in ("/", "/other", "/", "/"):
                again = await ask(run.pop, target, f"a=b; c={number}")
                assert again.body == body
                assert again.get("set-cookie") is None
        assert run.targets(0) == run.targets(1) == ["/", "/other"]


async def test_a_number_is_given_to_one_client_only() -> None:
    """A hit, a known head and a follower have none that is another's; every client without one draws its own."""
    async with sites(TEXT, 2) as run:
        numbers = [500, 501, 502, 503, 7, 504, 8, 505]
        draws(run.pop, *numbers)
        async with run.pop.client() as client:
            for number in numbers:
                await client.request("GET", "/", [("Host", "a.test")])
                response = await client.response()
                assert response.all("set-cookie") == [f"c={number}; Path=/; Max-Age=2592000; HttpOnly; SameSite=Lax"]
                assert response.body == (b"1" if number < 100 else b"0")
            for number in (5, 600, 5, 600, 5, 600, 5, 600):
                await client.request("GET", "/", [("Host", "a.test"), ("Cookie", f"c={number}")])
                response = await client.response()
                assert response.get("set-cookie") is None
                assert response.body == (b"1" if number < 100 else b"0")
        assert run.pop.worker.watch.requests.known_hits > 0
        assert len(run.origins[0].requests) == len(run.origins[1].requests) == 1


async def test_writes_and_purges_concern_both() -> None:
    """A write goes to the client's pool, and what both have stored of its URL is not used any more."""
    async with sites(TEXT, 2) as run:
        for cookie in ("c=1", "c=900"):
            await ask(run.pop, "/", cookie)
        run.origins[1].on("/", Reply(200, body=b"written"), Reply(200, [("Cache-Control", "max-age=60")], b"new"))
        assert (await ask(run.pop, "/", "c=1", "POST")).body == b"written"
        for cookie, body in (("c=1", b"new"), ("c=900", b"0")):
            response = await ask(run.pop, "/", cookie)
            assert response.body == body
            assert "hit" not in (response.get("cache-status") or "")
        assert [request.method for request in run.origins[0].requests] == ["GET", "GET"]


async def test_a_number_of_another_form_is_none() -> None:
    """The client gets one."""
    async with sites(TEXT, 2) as run:
        wrong = ("c=x", "c=", "c=1000", "c=-1", "c=\u00b2", "d=1")
        draws(run.pop, *[900] * len(wrong))
        for cookie in wrong:
            assert NUMBER.fullmatch((await ask(run.pop, "/", cookie)).get("set-cookie") or ""), cookie


@pytest.mark.parametrize(("share", "numbers"), [(0.0, 0), (0.0005, 1), (0.05, 50), (0.333, 333), (1.0, NUMBERS)])
def test_the_share(share: float, numbers: int) -> None:
    """In steps of a thousandth; a larger share holds the smaller one."""
    canary = Canary("p", share, b"c")
    members = {number for number in range(NUMBERS) if is_in_share(number, canary)}
    assert members == set(range(numbers))
    facts = RequestFacts(Request(b"GET", b"/", b"a", Fields([(b"Cookie", b"c=12")])), "")
    assert number_of(facts, canary) == 12


async def test_a_parent_knows_what_its_child_has_drawn() -> None:
    """Child and parent agree on the pool, and on the key, though the parent is sent no cookie."""
    secret = {"pop_secret": "a-secret-of-this-fleet", "region": "eu"}
    async with sites(TEXT, 2, pop="shield", **secret) as run:
        above = Sites(run.pop, run.origins)
        url = f"http://127.0.0.1:{above.pop.port}"
        text = filled(TEXT, run.origins)
        async with running_pop(run.origins[0], sites=text, pop="edge", parents=url, **secret) as edge:
            draws(edge, 3, 700)
            for body in (b"1", b"0"):
                first = await ask(edge, "/")
                assert first.body == body
                assert len(first.all("set-cookie")) == 1
            for cookie, body in (("c=3", b"1"), ("c=700", b"0")):
                assert (await ask(edge, "/", cookie)).body == body
                assert (await ask(above.pop, "/", cookie)).body == body
            assert run.targets(0) == run.targets(1) == ["/"]
            assert edge.worker._switch.counts.bypassed == 0


def test_check_config_says_it() -> None:
    """The pool is that of the client whose cookie is given."""
    text = TEXT.replace("{0}", "http://x").replace("{1}", "http://y")
    settings = load(environment("http://x", {"sites": text}.items()))
    for headers, pool in (([], "site a"), (["Cookie: c=0"], "new"), (["Cookie: c=100"], "site a")):
        lines = report(settings, request_of("a.test", "/", "GET", headers, ""), "").splitlines()
        assert f"pool: {pool}" in lines
        assert "canary: 10.0% of the clients go to the pool new, by the cookie c" in lines
