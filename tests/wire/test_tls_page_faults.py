"""What TLS costs of the allocator: reads of a kept connection, and handshakes, map no memory of their own."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
from harness.certificates import Authority
from harness.origin import OriginDouble, Reply
from harness.pop_process import RunningPop, running_pop
from harness.tls_client import secured

SITE = "www.example.test"
REQUESTS = 1000
HANDSHAKES = 100
WARM_UP = 200


def page_faults(pid: int) -> int:
    """The pages that the kernel has had to map for a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])


async def ask(pop: RunningPop, context: ssl.SSLContext, times: int) -> None:
    """Ask for one cached object, again and again, on one connection."""
    async with secured(pop.tls_port, context, SITE) as client:
        for _ in range(times):
            assert (await client.ask("/", SITE)).status == 200


@pytest.mark.slow
async def test_neither_reads_nor_handshakes_fault_pages(origin: OriginDouble, tmp_path: Path) -> None:
    """With a mapping for each read, 1,000 requests would fault 2,000 pages; a handshake faults a few of its own."""
    origin.otherwise(lambda _: Reply(200, [("Cache-Control", "max-age=600")], b"a" * 1000))
    authority = Authority(tmp_path / "ca")
    settings = {"tls_listen": "127.0.0.1:0", "tls_certificates": authority.issue(SITE).pair, "access_log": "off"}
    context = authority.trusting()
    with running_pop(worker="edgecache.server.worker:Worker", origin=origin.url, **settings) as pop:
        worker = await asyncio.to_thread(pop.expect_worker)
        await ask(pop, context, WARM_UP)
        before = page_faults(worker)
        await ask(pop, context, REQUESTS)
        assert page_faults(worker) - before < REQUESTS // 4
        for _ in range(HANDSHAKES):
            await ask(pop, context, 1)
        before = page_faults(worker)
        for _ in range(HANDSHAKES):
            await ask(pop, context, 1)
        assert page_faults(worker) - before < 8 * HANDSHAKES
