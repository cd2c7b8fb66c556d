"""Spans on their way from the workers to a collector: by OpenTelemetry's SDK, in a thread of the supervisor.

    worker ──► `take` ──► the SDK's queue, bounded ──► its thread: batches, OTLP over HTTP, repeated for `RETRIED_FOR`

A batch that the collector has not taken by then, and spans that no longer fit the queue, are counted and dropped. A
collector that fails is reported once, and once that it takes spans again. Needs the extra `otel`.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from urllib3.exceptions import HTTPError

from edgecache import __version__
from edgecache.telemetry.metrics import Registry
from edgecache.telemetry.tracing import Span

log = logging.getLogger("edgecache.traces")

MOST_QUEUED: Final = 16384  # spans
BATCH: Final = 512  # spans in one request
PAUSE: Final = 500  # milliseconds that spans are gathered
MOST_ANSWERED: Final = 64 * 1024  # bytes that are read of an answer, of which the status counts
RETRIED_FOR: Final = 30.0  # seconds, after which a batch is given up
LAST_PATIENCE: Final = 1.0  # seconds for what is left when the POP ends
SCOPE: Final = InstrumentationScope("edgecache", __version__)
KINDS: Final = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT}


class Collector(requests.Session):
    """The collector, and whether its last answer was that it takes spans. No proxy or .netrc of the environment."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.trust_env = False
        self.failing = False
        self._url = url

    def request(self, *args: Any, **options: Any) -> requests.Response:
        """Send a request, and note what comes of it."""
        try:
            response = super().request(*args, **{**options, "stream": True})
        except requests.RequestException as error:
            self._failed(str(error) or type(error).__name__)
            raise
        with suppress(HTTPError, OSError):
            response.raw.read(MOST_ANSWERED)
        response.close()  # and the connection, unless that was all
        if response.status_code >= 300:
            self._failed(f"it answered {response.status_code}")
        elif self.failing:
            self.failing = False
            log.info("the trace collector accepts spans again url=%s", self._url)
        return response

    def _failed(self, why: str) -> None:
        if not self.failing:
            self.failing = True
            log.warning("the trace collector does not accept spans, serving continues url=%s: %s", self._url, why)


class CountingExporter(SpanExporter):
    """The SDK's exporter, with counts of what the collector has taken and what was given up."""

    def __init__(self, url: str, registry: Registry) -> None:
        self._collector = collector = Collector(url)
        self._exporter = OTLPSpanExporter(
            url,
            certificate_file=ssl.get_default_verify_paths().cafile,  # the system's, as for all other connections
            headers={"User-Agent": f"edgecache/{__version__}"},
            timeout=RETRIED_FOR,
            session=collector,
        )
        # It reports each attempt, which `Collector` does once; what it cannot encode is a bug of ours.
        logging.getLogger(OTLPSpanExporter.__module__).addFilter(lambda record: "encode" in str(record.msg))
        self.finished = 0  # spans that were taken, or given up
        self._taken = registry.counter("edgecache_trace_spans_exported", "Spans that the collector has accepted.")
        self._lost = dropped(registry, "collector")
        up = "1 while the collector takes spans, or was not yet asked."
        registry.gauge("edgecache_trace_collector_up", up, read=lambda: float(not collector.failing))

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send `spans`; returns when they are taken, or given up."""
        try:
            result = self._exporter.export(spans)
            if self._collector.failing:  # the SDK takes a redirection for success
                result = SpanExportResult.FAILURE
            (self._taken if result is SpanExportResult.SUCCESS else self._lost).value += len(spans)
            return result
        finally:
            self.finished += len(spans)

    def shutdown(self) -> None:
        """Wait for no attempt any more."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]


class Exporter:
    """Takes spans at any time; while `run` runs they are sent. Mutable state: the processor, and spans taken so far."""

    def __init__(self, url: str, origin: Mapping[str, str], registry: Registry) -> None:
        self._resource = Resource(dict(origin))
        self._exporter = CountingExporter(url, registry)
        self._processor: BatchSpanProcessor | None = None
        self._taken = 0
        self._full = dropped(registry, "queue")
        registry.gauge("edgecache_trace_queue", "Spans waiting for the collector.", read=lambda: self._queued)

    @property
    def _queued(self) -> int:
        return self._taken - self._exporter.finished

    def take(self, spans: Iterable[Sequence[Any]]) -> None:
        """Queue spans as they come from a worker."""
        if self._processor is None:
            self._processor = BatchSpanProcessor(self._exporter, MOST_QUEUED, PAUSE, BATCH)
        for span in spans:
            if self._queued >= MOST_QUEUED:
                self._full.value += 1
            else:
                self._taken += 1
                self._processor.on_end(readable(tuple(span), self._resource))

    async def run(self) -> None:
        """Wait; when cancelled, give what is left a last chance."""
        try:
            await asyncio.Event().wait()
        finally:
            if self._processor is not None:
                await self._end(self._processor)

    @staticmethod
    async def _end(processor: BatchSpanProcessor) -> None:
        """Shut `processor` down, in a thread of its own: a collector that fails may take it half a minute."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            processor.shutdown()  # type: ignore[no-untyped-call]
            if not loop.is_closed():
                loop.call_soon_threadsafe(ended.set)

        threading.Thread(target=shut_down, daemon=True).start()
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), LAST_PATIENCE)


def dropped(registry: Registry, reason: str) -> Any:
    """The counter of spans lost for `reason`."""
    return registry.counter("edgecache_trace_spans_dropped", "Spans lost, by reason.", reason=reason)


def readable(span: Span, resource: Resource) -> ReadableSpan:
    """`span` as the SDK has it."""
    trace_id, span_id, parent, name, kind, began, end, failed, attributes = span
    return ReadableSpan(
        name,
        _context(trace_id, span_id, remote=False),
        _context(trace_id, parent, remote=kind == "server") if parent else None,
        resource,
        attributes,
        kind=KINDS[kind],
        status=Status(StatusCode.ERROR if failed else StatusCode.UNSET),
        start_time=int(began * 1e9),
        end_time=int(end * 1e9),
        instrumentation_scope=SCOPE,
    )


def _context(trace_id: str, span_id: str, *, remote: bool) -> SpanContext:
    return SpanContext(int(trace_id, 16), int(span_id, 16), remote, TraceFlags(TraceFlags.SAMPLED))


def resource_of(pop: str, region: str) -> dict[str, str]:
    """The resource attributes of the spans of a POP."""
    return {
        "service.name": "edgecache",
        "service.version": __version__,
        "service.instance.id": pop,
        "edgecache.pop": pop,
        "edgecache.region": region,
    }
