"""Spans on their way from the workers to a collector: OTLP over HTTP, by the supervisor, which serves no client.

The queue is bounded. While the collector does not answer, what is queued waits and what no longer fits is counted and
dropped; that it fails is said once, and once that it is back. Needs the extra `otel`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from edgecache import __version__
from edgecache.semantics.errors import ConfigError
from edgecache.telemetry.metrics import Registry
from edgecache.telemetry.tracing import Span

if TYPE_CHECKING:
    import aiohttp

log = logging.getLogger("edgecache.traces")

MOST_QUEUED: Final = 16384  # spans
BATCH: Final = 512  # spans in one request
PAUSE: Final = 0.5  # seconds that spans are gathered
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0  # seconds before a collector that failed is tried again
PATIENCE: Final = 10.0  # seconds for one request
LAST_PATIENCE: Final = 1.0  # seconds for what is left when the POP ends
TRY_AGAIN: Final = frozenset((429, 502, 503, 504))  # OTLP/HTTP §Failures: others will not do better the next time


class Refused(Exception):
    """The collector does not take a batch; `for_good` if it never will."""

    def __init__(self, why: str, *, for_good: bool = False) -> None:
        super().__init__(why)
        self.for_good = for_good


class Exporter:
    """Takes spans at any time; `run` sends them. Mutable state: the queue, and whether the collector failed last."""

    def __init__(self, url: str, origin: Mapping[str, str], registry: Registry) -> None:
        self._url = url
        self._queue: deque[Span] = deque()
        self._some = asyncio.Event()
        self._failing = False
        self._encode = encoder(origin)
        self._exported = registry.counter("edgecache_trace_spans_exported", "Spans that the collector has taken.")
        self._dropped = {
            reason: registry.counter("edgecache_trace_spans_dropped", "Spans lost, by reason.", reason=reason)
            for reason in ("queue", "collector")
        }
        registry.gauge("edgecache_trace_queue", "Spans that wait for the collector.", read=lambda: len(self._queue))
        up = "1 while the collector takes spans, or was not yet asked."
        registry.gauge("edgecache_trace_collector_up", up, read=lambda: float(not self._failing))

    def take(self, spans: Iterable[Sequence[Any]]) -> None:
        """Queue spans as they come from a worker."""
        for span in spans:
            if len(self._queue) >= MOST_QUEUED:
                self._dropped["queue"].value += 1
            else:
                self._queue.append(tuple(span))
        self._some.set()

    async def run(self) -> None:
        """Send what is queued, for ever; when cancelled, try once more what is left."""
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=PATIENCE)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            try:
                await self._send_all(session)
            except asyncio.CancelledError:
                with suppress(Refused, TimeoutError):
                    await asyncio.wait_for(self._send_rest(session), LAST_PATIENCE)
                raise

    async def _send_rest(self, session: aiohttp.ClientSession) -> None:
        while self._queue and not self._failing:
            await self._send(session)

    async def _send_all(self, session: aiohttp.ClientSession) -> None:
        wait = FIRST_WAIT
        while True:
            await self._some.wait()
            await asyncio.sleep(PAUSE)
            try:
                while self._queue:
                    await self._send(session)
                    self._is_well()
                    wait = FIRST_WAIT
                self._some.clear()
            except Refused as error:
                self._fails(str(error))
                if not error.for_good:
                    await asyncio.sleep(wait)
                    wait = min(2 * wait, LONGEST_WAIT)

    async def _send(self, session: aiohttp.ClientSession) -> None:
        """Send the oldest spans; they leave the queue when they are taken, or will never be."""
        batch = [self._queue[index] for index in range(min(BATCH, len(self._queue)))]
        try:
            await self._post(session, self._encode(batch))
        except Refused as error:
            if error.for_good:
                self._forget(len(batch))
                self._dropped["collector"].value += len(batch)
            raise
        self._forget(len(batch))
        self._exported.value += len(batch)

    def _forget(self, count: int) -> None:
        for _ in range(count):
            self._queue.popleft()

    async def _post(self, session: aiohttp.ClientSession, message: bytes) -> None:
        import aiohttp

        headers = {"Content-Type": "application/x-protobuf", "User-Agent": f"edgecache/{__version__}"}
        try:
            async with session.post(self._url, data=message, headers=headers, allow_redirects=False) as answer:
                status = answer.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Refused(str(error) or type(error).__name__) from None
        if status >= 300:
            raise Refused(f"it answered {status}", for_good=status not in TRY_AGAIN)

    def _fails(self, why: str) -> None:
        if not self._failing:
            self._failing = True
            log.warning("the collector of traces does not take spans, serving goes on url=%s: %s", self._url, why)

    def _is_well(self) -> None:
        if self._failing:
            self._failing = False
            log.info("the collector of traces takes spans again url=%s", self._url)


def encoder(origin: Mapping[str, str]) -> Any:
    """What makes an OTLP request of spans that come from `origin`; raises ConfigError if the extra is not installed."""
    try:
        from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
    except ModuleNotFoundError:
        raise ConfigError("EDGECACHE_OTLP_ENDPOINT", "needs the extra: pip install 'edgecache[otel]'") from None

    resource = Resource(dict(origin))
    scope = InstrumentationScope("edgecache", __version__)
    kinds = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT}

    def context(trace_id: str, span_id: str, *, remote: bool) -> SpanContext:
        return SpanContext(int(trace_id, 16), int(span_id, 16), remote, TraceFlags(TraceFlags.SAMPLED))

    def readable(span: Span) -> ReadableSpan:
        trace_id, span_id, parent, name, kind, began, end, failed, attributes = span
        return ReadableSpan(
            name,
            context(trace_id, span_id, remote=False),
            context(trace_id, parent, remote=kind == "server") if parent else None,
            resource,
            attributes,
            kind=kinds[kind],
            status=Status(StatusCode.ERROR if failed else StatusCode.UNSET),
            start_time=int(began * 1e9),
            end_time=int(end * 1e9),
            instrumentation_scope=scope,
        )

    def encode(spans: Sequence[Span]) -> bytes:
        message: bytes = encode_spans([readable(span) for span in spans]).SerializeToString()
        return message

    return encode


def resource_of(pop: str, region: str) -> dict[str, str]:
    """The resource attributes of the spans of a POP."""
    return {
        "service.name": "edgecache",
        "service.version": __version__,
        "service.instance.id": pop,
        "edgecache.pop": pop,
        "edgecache.region": region,
    }
