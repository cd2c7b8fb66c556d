"""A collector of traces that keeps what it is sent: OTLP over HTTP, in protobuf."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from harness.client import TIMEOUT


@dataclass(frozen=True)
class CollectedSpan:
    """One span, its ids in hexadecimal digits."""

    pop: str
    trace_id: str
    span_id: str
    parent: str
    name: str
    kind: int  # 2 = server, 3 = client
    took: float
    attributes: dict[str, Any]


class Collector:
    """What was sent, and what is answered."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[CollectedSpan] = []
        self.posts = 0
        self.status = 200
        self._more = asyncio.Event()

    async def post(self, request: web.Request) -> web.Response:
        """Take spans, unless told to refuse them."""
        self.posts += 1
        assert request.path == "/v1/traces"
        assert request.content_type == "application/x-protobuf"
        message = ExportTraceServiceRequest.FromString(await request.read())
        if self.status == 200:
            self.spans += [
                _span(one, {attribute.key: attribute.value.string_value for attribute in each.resource.attributes})
                for each in message.resource_spans
                for scope in each.scope_spans
                for one in scope.spans
            ]
        self._more.set()
        return web.Response(status=self.status)

    async def has(self, count: int) -> list[CollectedSpan]:
        """Wait for so many spans."""
        async with asyncio.timeout(2 * TIMEOUT):
            while len(self.spans) < count:
                self._more.clear()
                await self._more.wait()
        return self.spans


def _span(span: Any, resource: dict[str, str]) -> CollectedSpan:
    took = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
    assert resource["service.name"] == "edgecache"
    values = {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}
    return CollectedSpan(
        resource["edgecache.pop"],
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.name,
        span.kind,
        took,
        values,
    )


@asynccontextmanager
async def running_collector() -> AsyncIterator[Collector]:
    """A collector on a free port."""
    collector = Collector()
    app = web.Application()
    app.router.add_post("/{path:.*}", collector.post)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield collector
    finally:
        await runner.cleanup()
