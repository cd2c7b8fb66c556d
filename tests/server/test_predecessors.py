"""Workers of a POP whose supervisor was killed: once it is back, purges wait for them no longer."""

from __future__ import annotations

import pytest
from harness.client import until
from harness.pop import environment
from harness.valkey import Server

from edgecache.config.settings import load
from edgecache.invalidation.stream_store import POPS
from edgecache.server.admin import purge_service
from edgecache.server.admin.purge_service import RegionPurgeService
from edgecache.telemetry.metrics import Registry


async def test_silent_workers_of_a_killed_predecessor_are_forgotten(
    valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of this POP that are silent; not those of other POPs, nor those that still speak."""
    monkeypatch.setattr(purge_service, "PREDECESSORS", 0.2)
    seconds, _ = valkey.db.time()
    silent, speaking = b"%d " % ((seconds - 60) * 1000), b"%d " % ((seconds + 60) * 1000)
    valkey.db.hset(POPS, mapping={"here/9.0": silent, "here/10.0": speaking, "there/9.0": silent})
    settings = load(environment("http://origin.test", {"pop": "here", "regional": valkey.url}.items()))
    desk = RegionPurgeService(settings, Registry())
    desk.start()
    try:
        await until(lambda: not valkey.db.hexists(POPS, "here/9.0"), within=10.0)
    finally:
        await desk.close()

    assert set(valkey.db.hkeys(POPS)) == {b"here/10.0", b"there/9.0"}
