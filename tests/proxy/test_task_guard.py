"""A bug on the way costs one request: it is answered with a 500 and logged; nobody hangs, the next one is served."""

from __future__ import annotations

import pytest
from harness.origin import OriginDouble, Reply
from harness.pop import running_pop


@pytest.mark.parametrize("method", ["GET", "HEAD", "PURGE"])
async def test_a_bug_is_one_failed_request(
    origin: OriginDouble, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    """Whatever a task that answers a request raises, its client is told, and its connection goes on."""
    origin.on("/a", Reply(fields=[("Cache-Control", "max-age=60")], body=b"hello"))
    secret = "a-token-of-sixteen-characters-and-more"
    async with running_pop(origin, purge_tokens=f"ci={secret}") as pop, pop.client() as client:
        edge = pop.worker.edge
        broken = {
            "GET": (edge.fetcher, "collapse"),
            "HEAD": (edge.relays, "pass_on"),
            "PURGE": (pop.worker.purges, "_purge"),
        }

        def fails(*arguments: object, **more: object) -> None:
            raise ZeroDivisionError("a bug")

        async def fails_later(*arguments: object) -> None:
            fails()

        with monkeypatch.context() as patch:
            patch.setattr(*broken[method], fails_later if method == "PURGE" else fails)
            fields = {"PURGE": [("Authorization", f"Bearer {secret}")], "HEAD": [("Cache-Control", "no-store")]}
            await client.request(method, "/a", fields.get(method, []))
            got = await client.response(method)
        assert got.status == 500
        assert "a bug" not in got.body.decode()
        assert any("a bug" in record.getMessage() or record.exc_info for record in caplog.records)
        assert (await pop.get("/a")).body == b"hello"
