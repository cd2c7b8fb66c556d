"""Connections for reads of many values: which are open, and when."""

from __future__ import annotations

import asyncio

from harness.client import let_others_run
from harness.raw_server import running_server
from redis.exceptions import ReadOnlyError

from edgecache.config.valkey_url import parse_url
from edgecache.valkey.client import Access, Link


async def test_what_is_closed_is_not_opened_again_by_a_command_that_meets_the_wrong_server() -> None:
    """Lanes are closed one after the other; commands of those still open may drop every connection meanwhile."""
    connected: list[asyncio.StreamWriter] = []

    async def welcoming(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.append(writer)
        while data := await reader.read(65536):
            writer.write(b"+OK\r\n" * data.count(b"*"))

    async with running_server(welcoming) as port:
        link = Link(Access(parse_url(f"valkey://127.0.0.1:{port}"), timeout=5.0))
        lanes = [link.mget_connection() for _ in range(3)]
        for lane in lanes:
            lane.open()
        while len(connected) < 3:
            await let_others_run(1)
        await lanes[0].close()
        await lanes[1].close()
        await link.drop(ReadOnlyError("of a command under way"))
        while len(connected) < 4:  # the open lane's
            await let_others_run(1)
        await let_others_run(50)

        assert len(connected) == 4
        await lanes[2].close()
        await link.close()
