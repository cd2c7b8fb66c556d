"""Names that are longer than anything that is stored: they need no register, and no entry that others misread."""

from __future__ import annotations

import pytest
from harness.origin import OriginDouble, ReceivedRequest, Reply
from harness.pop import running_pop
from harness.purging import BEARER, TOKEN, applied
from harness.valkey import Server

from edgecache.invalidation.scopes import LONGEST_SCOPE, LONGEST_TARGET

FRESH = ("Cache-Control", "max-age=60")
LIMITS = {"max_line": "128KiB", "max_head": "256KiB"}
LENGTHS = [LONGEST_TARGET - 1000, LONGEST_TARGET + 100, LONGEST_SCOPE + 100, 100_000]


def page(request: ReceivedRequest) -> Reply:
    """A page that stays; every write succeeds."""
    return Reply(fields=[FRESH, ("ETag", '"1"')], body=b"page" if request.method == "GET" else b"done")


@pytest.mark.parametrize("regional", [False, True], ids=["alone", "regional"])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("body", [b"", b"x" * 1000])
async def test_a_write_with_a_long_name_leaves_all_else_as_it_was(
    origin: OriginDouble, valkey: Server, length: int, regional: bool, body: bytes
) -> None:
    """Nobody's page is asked for again, neither on the same site nor on another."""
    origin.otherwise(page)
    settings = {"regional": valkey.url, "regional_timeout": "2s"} if regional else {}
    async with running_pop(origin, origin.clock, **settings, **LIMITS) as pop:
        if regional:
            await pop.caught_up()
        for host in ("a.test", "b.test"):
            await pop.get("/page", ("Host", host))
        registers = len(pop.worker.edge.log)
        for number in range(3):
            target = f"/{number}?" + "x" * (length - 3)
            assert (await pop.request("POST", target, ("Host", "a.test"), body=body)).status == 200
        asked = len(origin.requests)
        for host in ("a.test", "b.test"):
            assert "hit" in ((await pop.get("/page", ("Host", host))).get("Cache-Status") or "")
        assert len(origin.requests) == asked
        if length > LONGEST_SCOPE:
            assert len(pop.worker.edge.log) == registers
        assert pop.worker.edge.log.writes == 0


@pytest.mark.parametrize("regional", [False, True], ids=["alone", "regional"])
@pytest.mark.parametrize("by", ["PUT", "PURGE"])
async def test_a_long_spelling_of_a_stored_name_reaches_it(
    origin: OriginDouble, valkey: Server, by: str, regional: bool
) -> None:
    """Three times as long as the log takes, and the same URL (RFC 3986 §6.2.2)."""
    origin.otherwise(page)
    settings = {"regional": valkey.url, "regional_timeout": "2s", "region": "eu"} if regional else {}
    async with running_pop(origin, origin.clock, purge_tokens=f"cms={TOKEN}", **settings, **LIMITS) as pop:
        if regional:
            await pop.caught_up()
        stored, spelt = "/" + "a" * 30_000, "/" + "%61" * 30_000
        for target in (stored, "/page"):
            await pop.get(target)
        assert (await pop.request(by, spelt, BEARER)).status == 200
        if regional:
            await applied(pop)
        assert "hit" not in ((await pop.get(stored)).get("Cache-Status") or "")
        assert "hit" in ((await pop.get("/page")).get("Cache-Status") or "")


@pytest.mark.parametrize("field", [[], [("X-Purge-Method", "regex")]], ids=["url", "prefix"])
async def test_a_purge_of_a_long_name_is_refused(
    origin: OriginDouble, valkey: Server, field: list[tuple[str, str]]
) -> None:
    """Nothing of that name is stored: 400 with one sentence, and every page is as it was."""
    origin.otherwise(page)
    settings = {"regional": valkey.url, "regional_timeout": "2s", "purge_tokens": f"cms={TOKEN}"}
    async with running_pop(origin, origin.clock, **settings, **LIMITS) as pop:
        await pop.caught_up()
        await pop.get("/page")
        answer = await pop.request("PURGE", "/" + "x" * 100_000 + ("/.*" if field else ""), BEARER, *field)

        assert (answer.status, b"longer than any that is stored" in answer.body) == (400, True)
        assert "hit" in ((await pop.get("/page")).get("Cache-Status") or "")
