"""What one client's writes may do to others: real POPs, a real Valkey."""

from __future__ import annotations

import pytest
from harness.origin import OriginDouble, ReceivedRequest, Reply
from harness.pop import Pop, running_pop
from harness.valkey import Server, running_valkey

from edgecache.rules.log_entries import Draft
from edgecache.rules.purge_log import Kind
from edgecache.rules.scopes import EVERYTHING, url

FRESH = ("Cache-Control", "max-age=60")


def page(request: ReceivedRequest) -> Reply:
    """A page that stays; every write succeeds."""
    return Reply(fields=[FRESH, ("ETag", '"1"')], body=b"page") if request.method == "GET" else Reply(body=b"done")


async def status_of(pop: Pop, target: str, host: str) -> str:
    """What the cache did for one page."""
    return (await pop.get(target, ("Host", host))).get("Cache-Status") or ""


async def test_writes_to_one_site_leave_others_their_objects(origin: OriginDouble, valkey: Server) -> None:
    """Three times as many URLs are written as there are registers: the other site's page is a hit, as before."""
    origin.otherwise(page)
    async with running_pop(
        origin, origin.clock, regional=valkey.url, regional_timeout="2s", purge_registers=100
    ) as pop:
        await pop.caught_up()
        for host in ("quiet.test", "busy.test"):
            await status_of(pop, "/page", host)
        async with pop.client() as client:
            for number in range(300):
                await client.request("POST", f"/junk?{number}", [("Host", "busy.test")])
                assert (await client.response()).status == 200
        asked = len(origin.requests)

        assert "hit" in await status_of(pop, "/page", "quiet.test")
        assert len(origin.requests) == asked
        assert "hit" not in await status_of(pop, "/page", "busy.test")


async def test_what_waits_for_a_log_that_is_gone_grows_to_sites_not_to_everything(
    origin: OriginDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More invalidations than the outbox holds: the whole site of each waits in their stead."""
    monkeypatch.setattr("edgecache.log_writer.MOST_WAITING", 5)
    with running_valkey() as server:
        async with running_pop(origin, origin.clock, regional=server.url) as pop:
            await pop.caught_up()
            server.stop()
            writer = pop.worker.logs.writer
            for number in range(12):
                writer.append_later(Draft(Kind.END, (url(b"http://a.test/%d" % number),)))
            waiting = [scope for draft in writer.outbox for scope in draft.scopes]

            assert waiting[0] == b"sa.test"
            assert EVERYTHING not in waiting
            assert len(writer.outbox) <= 6
            writer.append_later(Draft(Kind.PURGE, (EVERYTHING,)))
            for number in range(12):
                writer.append_later(Draft(Kind.END, (url(b"http://a.test/%d" % number),)))
            assert EVERYTHING in [scope for draft in writer.outbox for scope in draft.scopes]
            writer.outbox.clear()
