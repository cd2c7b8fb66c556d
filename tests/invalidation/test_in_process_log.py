"""A POP without a regional tier: what one of its workers invalidates, all know before anybody is answered."""

from __future__ import annotations

import json
from typing import Any

import pytest
from harness.pop_process import RunningPop, running_pop
from harness.purging import TOKEN
from harness.versions import VersionedOrigin, ask

from edgecache.server.worker_main import DEFAULT_WORKER


def all_workers(pop: RunningPop) -> set[bytes]:
    """The page as many connections get it, so that every worker is asked."""
    return {ask(pop.port, "GET", "/page")[1] for _ in range(24)}


def admin(pop: RunningPop, method: str, path: str, what: Any = None) -> tuple[int, Any]:
    """A request of the admin listener."""
    body = b"" if what is None else json.dumps(what).encode()
    status, answer = ask(pop.admin_port, method, path, body, Authorization=f"Bearer {TOKEN}")
    return status, json.loads(answer)


@pytest.mark.slow
def test_what_one_worker_invalidates_all_know(versions: VersionedOrigin) -> None:
    """A write, a PURGE, and a purge by the API: four workers, no Valkey, nothing old once it is answered."""
    versions.may_change.set()
    versions.may_answer.set()
    settings = {"origin": versions.url, "workers": 4, "admin_token": TOKEN, "worker": DEFAULT_WORKER}
    with running_pop(**settings) as pop:
        for _ in range(4):
            pop.expect_worker()
        assert all_workers(pop) == {b"v1"}
        for expected in (b"v2", b"v3", b"v4"):
            assert ask(pop.port, "PUT", "/page", b"x")[0] == 200
            assert all_workers(pop) == {expected}
        versions.version = 5
        assert all_workers(pop) == {b"v4"}
        status, answer = ask(pop.port, "PURGE", "/page", Authorization=f"Bearer {TOKEN}")
        assert (status, json.loads(answer)["status"]) == (200, "ok")
        assert all_workers(pop) == {b"v5"}
        versions.version = 6
        status, done = admin(pop, "POST", "/purges", {"prefixes": ["site/page"]})
        assert (status, done["state"]) == (201, "applied")
        assert all_workers(pop) == {b"v6"}
        assert admin(pop, "GET", f"/purges/{done['id']}")[1]["complete"]
        assert [one["names"] for one in admin(pop, "GET", "/purges")[1]["purges"]] == [["prefix site/page"]]
        assert admin(pop, "GET", "/purges/local:99")[0] == 404
