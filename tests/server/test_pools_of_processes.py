"""Pools, credentials and certificates of sites where supervisor and workers are processes of their own."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from harness.certificates import Authority
from harness.client import RawClient
from harness.origin import OriginDouble, Reply
from harness.pop_process import RunningPop, running_pop
from harness.serving import REAL
from harness.tls_client import secured

NEVER_STORED = [("Cache-Control", "no-store")]


async def get(pop: RunningPop, target: str = "/") -> int:
    """The status of one GET of a.test."""
    client = await RawClient.connect(pop.port)
    try:
        await client.request("GET", target, [("Host", "a.test")])
        return (await client.response()).status
    finally:
        client.close()


@pytest.mark.slow
async def test_a_server_of_a_site_is_told_and_files_are_read_again(origin: OriginDouble, tmp_path: Path) -> None:
    """Failing and well again, in the log and in readiness; a new secret and a new certificate, without a restart."""
    authority = Authority(tmp_path)
    files, file, secret = authority.issue("a.test"), tmp_path / "sites.toml", tmp_path / "token"
    secret.write_text("first-secret")
    file.write_text(f"""
[credentials.c]
kind = "bearer"
secret = "{secret}"
[[sites]]
name = "a"
hosts = ["a.test"]
origin = "{origin.url}"
certificates = [{{ certificate = "{files.certificate}", key = "{files.key}" }}]
[[sites.rules]]
name = "r"
route = {{ credentials = "c" }}
""")
    origin.otherwise(Reply(fields=NEVER_STORED, body=b"x"))
    settings = {"worker": REAL, "origin": "", "sites": file, "tls_listen": "127.0.0.1:0", "access_log": "off"}
    with running_pop(**settings) as pop:
        await asyncio.to_thread(pop.expect_worker)
        assert await get(pop) == 200
        assert origin.requests[-1].get("authorization") == "Bearer first-secret"
        origin.otherwise(Reply(500, NEVER_STORED))
        for number in range(6):
            assert await get(pop, f"/{number}") == 500
        part = f"origin {origin.url} of site a"
        await asyncio.to_thread(pop.expect, f"WARNING.*the {part} is failing")
        _, told = await asyncio.to_thread(pop.admin, "/readyz")
        assert json.loads(told)["parts"][part] == "failing"
        assert "first-secret" not in told + (await asyncio.to_thread(pop.admin, "/metrics"))[1]
        origin.otherwise(Reply(fields=NEVER_STORED, body=b"x"))
        secret.write_text("second-secret")
        files.replace_with(authority.issue("a.test", "new.a.test"))
        await asyncio.to_thread(pop.expect, "INFO.*EDGECACHE_SITES")
        assert await get(pop) == 200
        assert origin.requests[-1].get("authorization") == "Bearer second-secret"
        async with secured(pop.tls_port, authority.trusting(), "new.a.test") as client:
            names = {value for kind, value in client.info("peercert")["subjectAltName"] if kind == "DNS"}
            assert names == {"a.test", "new.a.test"}
