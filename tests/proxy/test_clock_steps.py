"""The wall clock is set by an hour, forwards or backwards: no limit is reset by it, and nobody is locked out or let in.

What lasts a while (rates, verdicts, guesses) is counted by a clock that nobody sets. What others have dated, such as
the expiry of a token, is compared with the wall clock of the moment.
"""

from __future__ import annotations

from base64 import b64encode

import bcrypt
import jwt as pyjwt
import pytest
from harness.clock import FakeClock
from harness.origin import Reply, running_origin
from harness.pop import Pop
from harness.sites import two_sites
from harness.tokens import PRIVATE, public_pem
from harness.valkey import Server

from edgecache.proxy.rate_limits import LEND, PRESENT

HOUR = 3600
HOST = ("Host", "a.test")
BASIC = """
[[sites.rules]]
name = "staging"
access.basic = {{ realm = "staging", users = {{ ann = '{}' }} }}
"""


async def statuses(pop: Pop, count: int, *fields: tuple[str, str], target: str = "/p") -> list[int]:
    """Of so many equal requests on one connection."""
    async with pop.client() as client:
        found = []
        for _ in range(count):
            await client.request("GET", target, [HOST, *fields])
            found.append((await client.response()).status)
        return found


@pytest.mark.parametrize("step", [HOUR, -HOUR])
async def test_rates(step: int) -> None:
    """A client that is refused stays refused as long as it would have been, and no longer."""
    rules = '[[sites.rules]]\nname = "r"\nlimits = [{ rate = "1/m", burst = 4 }]\n'
    async with two_sites(rules) as (pop, _, _b):
        assert await statuses(pop, 5) == [200] * 4 + [429]
        pop.clock.jump(step)
        assert await statuses(pop, 2) == [429] * 2
        pop.clock.advance(59)
        assert await statuses(pop, 2) == [429] * 2
        pop.clock.advance(2)
        assert await statuses(pop, 2) == [200, 429]


@pytest.mark.parametrize("step", [HOUR, -HOUR])
async def test_guesses_of_passwords(step: int) -> None:
    """Ten wrong ones, and a minute's wait; the right one is admitted all the time."""
    hashed = bcrypt.hashpw(b"right", bcrypt.gensalt(4)).decode()
    async with two_sites(BASIC.format(hashed)) as (pop, _, _b):
        right = ("Authorization", "Basic YW5uOnJpZ2h0")
        assert await statuses(pop, 4, right) == [200] * 4
        for number in range(10):
            assert await statuses(pop, 1, wrong(number)) == [401]
        assert await statuses(pop, 1, wrong(10)) == [429]
        pop.clock.jump(step)
        assert await statuses(pop, 1, wrong(11)) == [429]
        assert await statuses(pop, 3, right) == [200] * 3
        pop.clock.advance(61)
        assert await statuses(pop, 1, wrong(12)) == [401]


def wrong(number: int) -> tuple[str, str]:
    """Credentials of nobody."""
    return "Authorization", "Basic " + b64encode(b"ann:%d" % number).decode()


@pytest.mark.parametrize("step", [HOUR, -HOUR])
async def test_verdicts_of_another_server(step: int) -> None:
    """They hold for ten seconds, by the slow way and by known heads."""
    async with running_origin(FakeClock()) as decider:
        decider.otherwise(Reply(204))
        rules = f"""
[[sites.rules]]
name = "r"
access.forward_auth = {{ url = "{decider.url}/check", cache = "10s" }}
"""
        async with two_sites(rules) as (pop, _, _b):
            assert await statuses(pop, 4) == [200] * 4
            decider.otherwise(Reply(403))
            pop.clock.jump(step)
            assert await statuses(pop, 4) == [200] * 4
            assert await statuses(pop, 1, ("Accept-Language", "de")) == [200]
            assert len(decider.requests) == 1
            pop.clock.advance(11)
            assert await statuses(pop, 4) == [403] * 4
            assert await statuses(pop, 1, ("Accept-Language", "de")) == [403]


async def test_tokens_expire_by_the_wall_clock() -> None:
    """Another machine has dated them: they hold by the clock of the moment, and nothing sticks when it is set back."""
    rules = f"""
[[sites.rules]]
name = "r"
access.jwt = {{ keys = '''{public_pem("rsa").decode()}''', algorithms = ["RS256"] }}
"""
    async with two_sites(rules) as (pop, _, _b):
        now = int(pop.clock())
        token = pyjwt.encode({"exp": now + HOUR // 2}, PRIVATE["rsa"], "RS256", headers={"kid": "rsa"})
        bearer = ("Authorization", f"Bearer {token}")
        for step, status in ((0, 200), (HOUR, 401), (-HOUR, 200), (-HOUR, 200), (HOUR, 200)):
            pop.clock.jump(step)
            assert await statuses(pop, 3, bearer) == [status] * 3
        pop.clock.advance(HOUR)
        assert await statuses(pop, 3, bearer) == [401] * 3


def lent(valkey: Server, spent: int, wanted: int = 0, backlog: float = 0.0) -> tuple[int, float]:
    """Tokens granted, and the backlog in requests; at one a minute, five at once."""
    minute = 60_000_000
    granted, left = valkey.db.eval(LEND, 1, "k", minute, 5 * minute, spent, wanted, int(backlog * minute))
    return granted, round(left / minute, 1)


def set_back(valkey: Server, seconds: int) -> None:
    """Have what is stored look as it does after the clock of Valkey was set back by so many seconds."""
    due, written = (int(part) + 1_000_000 * seconds for part in valkey.db.get("k").split())
    valkey.db.set("k", f"{due} {written}")


async def test_the_clock_of_valkey_is_set_back(valkey: Server) -> None:
    """A key's number goes with it: it is not an hour to wait, and not nothing."""
    assert lent(valkey, 3) == (0, 3.0)
    set_back(valkey, HOUR)
    assert lent(valkey, 1, 5) == (1, 5.0)
    assert lent(valkey, 0, 5) == (0, 5.0)


async def test_the_clock_of_valkey_is_set_forward(valkey: Server) -> None:
    """The number has expired: what workers know takes its place; a round trip's worth less is no reason."""
    assert lent(valkey, 3) == (0, 3.0)
    set_back(valkey, -HOUR)
    assert lent(valkey, 1, 5, backlog=3.0) == (1, 5.0)
    valkey.db.delete("k")
    assert lent(valkey, 0, 5, backlog=4.0) == (1, 5.0)
    assert lent(valkey, 0, 0, backlog=5.004) == (0, 5.0)


async def test_workers_of_a_time_to_come_are_none(valkey: Server) -> None:
    """The share of a worker is not of those who were there before the clock was set back."""
    valkey.db.zadd("w", {"old": 10_000_000_000.0, "gone": 1.0})
    assert valkey.db.eval(PRESENT, 1, "w", 15, "me") == 1
