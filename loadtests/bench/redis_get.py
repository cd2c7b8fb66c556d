"""The baseline of the regional scenario: aiohttp on uvloop, and for each request one `GET` by redis-py with hiredis.

Run as a script (`redis_get.py PORT VALKEY_PORT`). What it answers lies in Valkey under `plain:` and the path.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiohttp import web
from redis.asyncio import Redis

FIELDS = {
    "Cache-Control": "max-age=3600",
    "ETag": '"65f1c2aa-400"',
    "Last-Modified": "Wed, 13 Mar 2024 16:21:14 GMT",
    "Content-Type": "text/html",
    "Age": "0",
    "Cache-Status": "baseline; hit; ttl=3600",
}
PREFIX = "plain:"


async def serve(port: int, valkey_port: int) -> None:
    """Serve until the process is ended."""
    client = Redis(host="127.0.0.1", port=valkey_port, protocol=2)

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/ready":
            return web.Response()
        value = await client.get(PREFIX + request.path)
        if value is None:
            return web.Response(status=404)
        return web.Response(body=value, headers=FIELDS)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
