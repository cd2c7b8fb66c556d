"""HTTP Basic on a running POP: by hashes, in threads, remembered, and limited."""

from __future__ import annotations

import base64
import threading
from pathlib import Path

import argon2
import bcrypt
import pytest
from harness.pop import Pop
from harness.sites import two_sites

from edgecache.config.sites.model import Basic
from edgecache.config.sites.parser import SitesError, parsed
from edgecache.config.sites.scalars import PasswordHash
from edgecache.proxy.access import passwords
from edgecache.proxy.access.admission import AccessRefused, Asked, Grant
from edgecache.proxy.access.passwords import PasswordCheck, verify_password
from edgecache.proxy.middleware.access import Access
from edgecache.semantics.message import Fields, Request
from edgecache.semantics.rules.conditions import RequestFacts

HOST = ("Host", "a.test")
ARGON2 = argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash("right")
BCRYPT = bcrypt.hashpw(b"right:too", bcrypt.gensalt(4)).decode()
RULES = f"""
[[sites.rules]]
name = "staging"
access.basic = {{ realm = "staging", users = {{ ann = '{ARGON2}', bob = '{BCRYPT}' }} }}
"""


def basic(name: str, password: str) -> tuple[str, str]:
    """The field that a client sends."""
    return "Authorization", "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


async def status_of(pop: Pop, *fields: tuple[str, str], times: int = 1) -> set[int]:
    """The statuses of equal requests on one connection."""
    async with pop.client() as client:
        found = set()
        for _ in range(times):
            await client.request("GET", "/p", [HOST, *fields])
            found.add((await client.response()).status)
        return found


async def test_users_share_what_is_stored() -> None:
    """By either hash; what is wrong in any way gets a challenge."""
    async with two_sites(RULES) as (pop, a, _):
        assert await status_of(pop, basic("ann", "right"), times=4) == {200}
        assert await status_of(pop, basic("bob", "right:too"), times=4) == {200}
        assert len(a.requests) == 1
        assert a.requests[0].get("authorization") is None
        for wrong in (
            [],
            [basic("ann", "wrong")],
            [basic("bob", "right")],
            [basic("eve", "right")],
            [("Authorization", "Basic !")],
            [("Authorization", "Basic " + base64.b64encode(b"ann").decode())],
            [("Authorization", "Bearer " + base64.b64encode(b"ann:right").decode())],
        ):
            response = await pop.get("/p", HOST, *wrong)
            assert response.status == 401
            assert response.get("www-authenticate") == 'Basic realm="staging", charset="UTF-8"'
            assert response.get("cache-status") is None


async def test_each_credential_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a thread, right or wrong, until five minutes are over; a user that is none costs the same."""
    hashed: list[tuple[str, bytes]] = []

    def counted(known: str, password: bytes) -> bool:
        assert threading.current_thread() is not threading.main_thread()
        hashed.append((known, password))
        return verify_password(known, password)

    monkeypatch.setattr(passwords, "verify_password", counted)
    async with two_sites(RULES) as (pop, _, _b):
        for _ in range(3):
            await status_of(pop, basic("ann", "right"), times=4)
            await status_of(pop, basic("ann", "wrong"), times=2)
            await status_of(pop, basic("nobody", "right"), times=2)
        assert hashed == [(ARGON2, b"right"), (ARGON2, b"wrong"), (ARGON2, b"right")]
        pop.clock.advance(301)
        assert await status_of(pop, basic("ann", "right")) == {200}
        assert len(hashed) == 4


async def test_guesses_are_limited() -> None:
    """After ten wrong passwords from an address no other is looked at for a minute; what is known stays open."""
    async with two_sites(RULES) as (pop, _, _b):
        assert await status_of(pop, basic("ann", "right")) == {200}
        for number in range(10):
            assert await status_of(pop, basic("ann", str(number))) == {401}
        assert await status_of(pop, basic("ann", "11")) == {429}
        assert await status_of(pop, basic("bob", "right:too")) == {429}
        assert await status_of(pop, basic("ann", "right"), times=3) == {200}
        pop.clock.advance(61)
        assert await status_of(pop, basic("bob", "right:too")) == {200}


async def test_few_wait_for_a_hash() -> None:
    """A crowd with different passwords is turned away before it fills the memory."""
    allowed = threading.Event()
    written = Basic(users={"ann": PasswordHash(ARGON2)})
    check = PasswordCheck(written, lambda known, password: allowed.wait(20))
    waiting = []
    for number in range(passwords.MOST_WAITING):
        later = check.admit(asked(f"{number}"))
        assert not isinstance(later, Grant)
        waiting.append(passwords.asyncio.ensure_future(later))  # type: ignore[arg-type]
    await passwords.asyncio.sleep(0)
    with pytest.raises(AccessRefused) as refused:
        check.admit(asked("one more"))
    assert refused.value.reason == "passwords-busy"
    allowed.set()
    await passwords.asyncio.gather(*waiting)


def asked(password: str) -> Asked:
    """A request with a password."""
    name, value = basic("ann", password)
    request = Request(b"GET", b"/", b"a.test", Fields([(name.encode(), value.encode())]))
    return Asked(RequestFacts(request, "192.0.2.1"), "192.0.2.1", 0.0)


def test_a_plain_password_is_refused_and_not_quoted() -> None:
    """Where the text is read; the hashes are in no representation, and not in the report of a request."""
    text = '[[sites]]\nname = "a"\nhosts = ["*"]\norigin = "http://a"\n[[sites.rules]]\nname = "r"\n{}'
    with pytest.raises(SitesError) as refused:
        parsed(text.format('access.basic = { users = { ann = "hunter2hunter2" } }'))
    assert "must be a hash by argon2 or bcrypt" in str(refused.value)
    assert "hunter2" not in str(refused.value)
    document = parsed(text.format(f"access.basic = {{ users = {{ ann = '{ARGON2}' }} }}"))
    assert "argon2" not in repr(document)


def test_check_config_shows_no_hash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even of a rule that keys the cache by what else it does."""
    from edgecache.server.cli import main

    sites = tmp_path / "sites.toml"
    keyed = 'when = { header = { X-A = true } }\nresponse_headers = { set = { X-B = "1" } }'
    start = '[[sites]]\nname = "a"\nhosts = ["a.test"]\norigin = "http://127.0.0.1:1"\n'
    sites.write_text(start + RULES + keyed)
    monkeypatch.setenv("EDGECACHE_SITES", str(sites))
    assert main(["check-config", "--site", "a.test", "--url", "/", "--header", "X-A: 1"]) == 0
    printed = capsys.readouterr().out
    assert "access: set" in printed
    assert ARGON2[-20:] not in printed
    assert BCRYPT[-20:] not in printed


def test_the_middleware_is_for_clients_only() -> None:
    """Other POPs are authenticated by themselves, and their clients were checked there."""
    assert Access.for_peers is False
    assert Access.order == 860
