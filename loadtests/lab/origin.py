"""The origin, a web service of versioned objects (`objects.py`): python -m loadtests.lab.origin PORT

GET  /o/TAG/NAME?…           the object in its present version: ETag, Surrogate-Key, Object-Version
PUT  /o/TAG/NAME?…           a new version of it
POST /_origin/bump?tag=TAG   a new version of every object of the tag; caches are told nothing
GET  /_origin/counts         requests and bytes answered so far
GET  /_origin/asked?tag=TAG  how often each object of a tag was asked for, in full and to validate: the most of any
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter

import uvloop
from aiohttp import web

from loadtests.lab.objects import Orders, body, orders_of, variant

LARGEST_WRITE = 1 << 20
MOST_COUNTED = 100_000  # targets whose questions are counted one by one


class Origin:
    """All state is counters: a version is one more than what was written to the object and bumped of its tag."""

    def __init__(self) -> None:
        self._writes: Counter[str] = Counter()  # by target
        self._bumps: Counter[str] = Counter()  # by tag
        self._counts: Counter[str] = Counter()
        self._full: Counter[str] = Counter()  # whole answers, by target
        self._validated: Counter[str] = Counter()  # 304s, by target

    def version(self, target: str, tag: str) -> int:
        """The present version of an object; it only grows."""
        return 1 + self._writes[target] + self._bumps[tag]

    async def get(self, request: web.Request) -> web.Response:
        """The object, or 304 if the client's copy is of this version."""
        orders = self._orders(request)
        target, version = request.raw_path, self.version(request.raw_path, orders.tag)
        if orders.delay:  # the version was looked at before: what is written meanwhile is not in this answer
            await asyncio.sleep(orders.delay / 1000)
        chosen = variant(orders, request.headers.get("Accept-Language", ""))
        fields = _fields(orders, version, chosen)
        if request.headers.get("If-None-Match") == fields["ETag"]:
            self._count(target, self._validated)
            self._counts["not_modified"] += 1
            return web.Response(status=304, headers=fields)
        content = body(target, version, chosen, orders.size)
        self._count(target, self._full)
        self._counts["bytes"] += len(content)
        return web.Response(body=content, headers={**fields, "Content-Type": "application/octet-stream"})

    async def put(self, request: web.Request) -> web.Response:
        """One more version; says which."""
        orders = self._orders(request)
        await request.read()
        self._writes[request.raw_path] += 1
        self._counts["writes"] += 1
        return _json({"version": self.version(request.raw_path, orders.tag)})

    async def bump(self, request: web.Request) -> web.Response:
        """One more version of every object of a tag; says what is added to each."""
        tag = request.query["tag"]
        self._bumps[tag] += 1
        return _json({"version": 1 + self._bumps[tag]})

    async def counts(self, request: web.Request) -> web.Response:
        """What was answered so far."""
        return _json(dict(self._counts))

    async def asked(self, request: web.Request) -> web.Response:
        """Questions about the objects of a tag."""
        start = f"/o/{request.query['tag']}/"
        full = {target: count for target, count in self._full.items() if target.startswith(start)}
        validated = {target: count for target, count in self._validated.items() if target.startswith(start)}
        return _json(
            {
                "objects": len(full),
                "full": sum(full.values()),
                "most_full": max(full.values(), default=0),
                "validated": sum(validated.values()),
                "most_validated": max(validated.values(), default=0),
            }
        )

    async def ready(self, request: web.Request) -> web.Response:
        """200 as soon as there is somebody to say it."""
        return _json({})

    def _count(self, target: str, among: Counter[str]) -> None:
        self._counts["requests"] += 1
        if target in among or len(among) < MOST_COUNTED:
            among[target] += 1

    @staticmethod
    def _orders(request: web.Request) -> Orders:
        try:
            return orders_of(request.raw_path)
        except ValueError as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from None


def _fields(orders: Orders, version: int, chosen: str) -> dict[str, str]:
    fields = {
        "ETag": f'"{version}-{chosen}"',
        "Cache-Control": f"public, max-age={orders.ttl}"
        + (f", stale-while-revalidate={orders.swr}" if orders.swr else ""),
        "Surrogate-Key": orders.tag,
        "Object-Version": str(version),
    }
    return {**fields, "Vary": "Accept-Language"} if orders.varies else fields


def _json(document: dict[str, int]) -> web.Response:
    return web.json_response(document, headers={"Cache-Control": "no-store"})


def application() -> web.Application:
    """The origin as an aiohttp application."""
    app = web.Application(client_max_size=LARGEST_WRITE)
    origin = Origin()
    app.router.add_get("/o/{tag}/{name:.+}", origin.get)
    app.router.add_put("/o/{tag}/{name:.+}", origin.put)
    app.router.add_post("/_origin/bump", origin.bump)
    app.router.add_get("/_origin/counts", origin.counts)
    app.router.add_get("/_origin/asked", origin.asked)
    app.router.add_get("/_origin/ready", origin.ready)
    return app


def main() -> None:
    """Serve on 127.0.0.1 until SIGTERM."""
    loop = uvloop.new_event_loop()
    web.run_app(application(), host="127.0.0.1", port=int(sys.argv[1]), loop=loop, access_log=None, print=None)


if __name__ == "__main__":
    main()
