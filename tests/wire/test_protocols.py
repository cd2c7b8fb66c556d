"""A second protocol under another name of ALPN: one more entry in the table, and nothing else."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest
from harness.certificates import Authority
from harness.client import TIMEOUT, until
from harness.origin import OriginDouble, Reply
from harness.pop import running_pop
from harness.tls_client import secured

from edgecache.wire.handler import Site
from edgecache.wire.protocols import PROTOCOLS, Peer

SITE = "www.example.test"


class Upper(asyncio.Protocol):
    """Says all in capitals; a connection like any other to the service."""

    transport: asyncio.Transport

    def __init__(self, site: Site, peer: Peer) -> None:
        self.site, self.described = site, peer
        self.peer, self.admitted = peer.address, peer.admitted
        self.exchanges = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TLS is there."""
        self.transport = cast(asyncio.Transport, transport)
        self.site.joined(self)  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        """Answer."""
        self.transport.write(data.upper())

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        self.site.left(self)  # type: ignore[arg-type]

    def sweep(self, now: float) -> None:
        """It has no deadlines."""

    def cut(self) -> None:
        """End."""
        self.transport.abort()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority that writes into the test's directory."""
    return Authority(tmp_path / "ca")


async def test_alpn_chooses_the_protocol(
    origin: OriginDouble, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTP/1.1 and the other side by side on one listener; without ALPN it is HTTP/1.1."""
    made: list[Upper] = []

    def upper(site: Site, peer: Peer) -> Upper:
        made.append(Upper(site, peer))
        return made[-1]

    monkeypatch.setitem(PROTOCOLS, "upper", upper)
    origin.otherwise(Reply(200, [("Cache-Control", "no-store")], b"http"))
    settings = {"tls_listen": "127.0.0.1:0", "tls_certificates": authority.issue(SITE).pair}
    async with running_pop(origin, **settings) as pop:
        for names in (["upper"], ["upper", "unknown"], ["http/1.1"], ["unknown"], []):
            context = authority.trusting()
            if names:
                context.set_alpn_protocols(names)
            async with secured(pop.tls_port, context, SITE) as client:
                if "upper" in names:
                    await client.send(b"hello")
                    async with asyncio.timeout(TIMEOUT):
                        assert await client.source.receive() == b"HELLO"
                else:
                    assert (await client.ask("/", SITE)).body == b"http"
        await until(lambda: not pop.worker.connections and pop.worker.admission.count == 0)
    assert [one.described for one in made] == [Peer("127.0.0.1", b"https", SITE.encode(), b"", admitted=True)] * 2
