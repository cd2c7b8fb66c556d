"""Traces: who is sampled, what the next hop is told, and the spans that reach a collector."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from random import Random
from typing import Any

import pytest
from harness.client import connected, until
from harness.collector import CollectedSpan, running_collector
from harness.observed import samples
from harness.origin import OriginDouble, Reply
from harness.pop import Pop, refusing_port, running_pop
from harness.pop_process import RunningPop
from harness.pop_process import running_pop as running_process
from opentelemetry.exporter.otlp.common import http as otlp_http

from edgecache.config.settings import load
from edgecache.semantics import trace_context
from edgecache.semantics.errors import ConfigError
from edgecache.semantics.trace_context import TraceParent
from edgecache.server.supervisor import span_exporter
from edgecache.tasks import spawn
from edgecache.telemetry import otlp_exporter
from edgecache.telemetry.metrics import Registry, render
from edgecache.telemetry.otlp_exporter import MOST_QUEUED, Exporter, resource_of
from edgecache.telemetry.tracing import MOST_PENDING, Span, Tracer

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ASKED = f"00-{TRACE}-{SPAN}-01"
UNRECORDED = f"00-{TRACE}-{SPAN}-00"
FRESH = ("Cache-Control", "max-age=60")
# An exporter's thread outlives its test, and draws lots: from its own, for hypothesis lets no one else use `random`.
otlp_http.random = Random()
COLLECTOR = {"otlp_endpoint": "http://127.0.0.1:1"}
TRUSTING = {**COLLECTOR, "trusted_proxies": "127.0.0.0/8", "trace_sample": 0}


@pytest.mark.parametrize(
    ("value", "parent"),
    [
        (ASKED, TraceParent(TRACE.encode(), SPAN.encode(), sampled=True)),
        (UNRECORDED, TraceParent(TRACE.encode(), SPAN.encode(), sampled=False)),
        (f"00-{TRACE}-{SPAN}-03", TraceParent(TRACE.encode(), SPAN.encode(), sampled=True)),
        (f"cc-{TRACE}-{SPAN}-01-what-comes", TraceParent(TRACE.encode(), SPAN.encode(), sampled=True)),
        (f"00-{TRACE}-{SPAN}-01-more", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE}-{SPAN}-1", None),
        (f"{ASKED}, {ASKED}", None),
        (f"{ASKED}\n", None),
        ("", None),
        ("x" * 5000, None),
    ],
)
def test_what_is_no_traceparent_is_no_trace(value: str, parent: TraceParent | None) -> None:
    """W3C Trace Context §3.2.2 and §4.3: one version is known, later ones may say more, zeros are none."""
    assert trace_context.parse(value.encode()) == parent
    if parent is not None and value.endswith(("-00", "-01")):
        assert trace_context.render(parent) == b"00" + value.encode()[2:]


async def told(pop: Pop, origin: OriginDouble, *fields: tuple[str, str]) -> str | None:
    """The `traceparent` that the origin gets for a request with `fields` that is not stored."""
    await pop.get("/a", *fields)
    return origin.requests[-1].get("traceparent")


def spans(pop: Pop) -> list[dict[str, Any]]:
    """The spans that are complete."""
    names = ("trace_id", "span_id", "parent", "name", "kind", "began", "end", "failed", "attributes")
    return [dict(zip(names, span, strict=True)) for span in pop.worker.take_spans(10_000)]


@pytest.mark.parametrize("settings", [{}, TRUSTING, {**COLLECTOR, "trace_sample": 0}])
@pytest.mark.parametrize("value", [UNRECORDED, "something else", None])
async def test_what_is_not_sampled_is_passed_on_as_it_is(
    origin: OriginDouble, settings: dict[str, Any], value: str | None
) -> None:
    """With or without a collector; and nothing is made."""
    async with running_pop(origin, **settings) as pop:
        assert await told(pop, origin, *([("traceparent", value), ("tracestate", "a=b")] if value else [])) == value
        assert spans(pop) == []
    assert origin.requests[-1].get("tracestate") == ("a=b" if value else None)


async def test_without_a_collector_a_recorded_trace_is_passed_on(origin: OriginDouble) -> None:
    """The POP is no part of it."""
    async with running_pop(origin) as pop:
        assert await told(pop, origin, ("traceparent", ASKED)) == ASKED


async def test_a_stranger_cannot_make_us_record(origin: OriginDouble) -> None:
    """The flag of a client that is not trusted counts neither here nor, passed on by us, upstream."""
    async with running_pop(origin, **COLLECTOR, trace_sample=0) as pop:
        value = await told(pop, origin, ("traceparent", ASKED), ("tracestate", "a=b"))
        assert spans(pop) == []
    assert value is not None
    parent = trace_context.parse(value.encode())
    assert parent is not None
    assert (parent.trace_id.decode(), parent.sampled) == (TRACE, False)
    assert parent.span_id.decode() != SPAN


async def test_a_trusted_proxys_trace_goes_on(origin: OriginDouble) -> None:
    """Our span is a child of its span, and the question upstream a child of ours, under the name that it is told."""
    origin.on("/a", Reply(fields=[("Cache-Control", "no-store")], body=b"hello"))
    async with running_pop(origin, **TRUSTING) as pop:
        value = await told(pop, origin, ("traceparent", ASKED))
        server, upstream = spans(pop)
    assert [one["trace_id"] for one in (server, upstream)] == [TRACE, TRACE]
    assert (server["parent"], upstream["parent"]) == (SPAN, server["span_id"])
    assert value == f"00-{TRACE}-{upstream['span_id']}-01"
    assert (server["kind"], upstream["kind"]) == ("server", "client")
    said = server["attributes"]
    assert [said[f"edgecache.{name}"] for name in ("result", "tier", "reason")] == ["miss", "origin", "uri-miss"]
    assert (said["http.response.status_code"], said["http.response.body.size"]) == (200, 5)


async def test_a_pop_that_proves_itself_is_believed(origin: OriginDouble) -> None:
    """A child decides for its questions, signed with the secret of POPs, and the trace goes on through its parent."""
    origin.on("/a", Reply(fields=[FRESH], body=b"hello"))
    pops = {**COLLECTOR, "pop_secret": "a-secret-of-this-fleet"}
    async with (
        running_pop(origin, **pops, pop="shield", trace_sample=0) as shield,
        running_pop(origin, **pops, parents=f"http://127.0.0.1:{shield.port}", trace_sample=1) as edge,
    ):
        value = await told(edge, origin)
        server, upstream = spans(edge)
        theirs, asked = spans(shield)
    assert (theirs["trace_id"], theirs["parent"]) == (server["trace_id"], upstream["span_id"])
    assert server["attributes"]["edgecache.tier"] == "parent"
    assert value == f"00-{server['trace_id']}-{asked['span_id']}-01"


async def test_a_query_is_not_told(origin: OriginDouble) -> None:
    """It may hold a secret; and what a client writes is bounded and printable."""
    async with running_pop(origin, **COLLECTOR, trace_sample=1) as pop:
        await pop.get("/a" + "b" * 5000 + "?token=canary", ("User-Agent", "canary"))
        assert "canary" not in repr(found := spans(pop))
    assert len(found[0]["attributes"]["url.path"]) == 256


async def test_what_a_client_writes_is_bounded_as_it_is_exported(origin: OriginDouble) -> None:
    """Bytes that are no ASCII are told by escapes, which count; what is asked with a hostile trace is answered."""
    hostile = [("tracestate", "a=" + "b" * 6000), ("baggage", "c=" + "d" * 6000), ("traceparent", ASKED)]
    async with running_pop(origin, **COLLECTOR, trace_sample=1) as pop, pop.client() as client:
        await client.send(b"GET /" + b"\xff" * 2000 + b" HTTP/1.1\r\nHost: www.example.test\r\n\r\n")
        await client.response_or_broken()
        await pop.get("/a", *hostile, *hostile)
        found = spans(pop)
    texts = [value for span in found for value in span["attributes"].values() if isinstance(value, str)]
    assert max(map(len, texts)) <= 256
    assert all(text.isascii() for text in texts)
    assert {span["trace_id"] for span in found} & {TRACE} == set()  # two of a field that may come once


async def test_hits_that_are_known_by_their_bytes_are_sampled_too(origin: OriginDouble) -> None:
    """One in so many is, and it neither unlearns nor changes what is known of the others."""
    origin.on("/a", Reply(fields=[FRESH], body=b"hello"))
    async with running_pop(origin, **COLLECTOR, trace_sample=0.5) as pop, pop.client() as client:
        pop.worker._tracer._draw = lambda: 3
        pop.worker._tracer.to_pass = 3
        for _ in range(16):
            await client.request("GET", "/a")
            await client.response()
        hits = [one for one in spans(pop) if one["kind"] == "server"]
        known = pop.worker.watch.requests.known_hits
    assert [one["attributes"]["edgecache.result"] for one in hits] == ["hit"] * 4
    assert len({one["trace_id"] for one in hits}) == 4
    assert known == 16 - 4 - 3  # less the miss and the two before it was known


async def test_a_sampled_question_is_not_repeated_for_others(origin: OriginDouble) -> None:
    """A head that is passed through by its bytes does not carry the trace of the one that it was learnt from."""
    origin.on("/a", Reply(fields=[("Cache-Control", "no-store")], body=b"hello"))
    async with running_pop(origin, **COLLECTOR, trace_sample=1) as pop, pop.client() as client:
        for count in range(6):
            if count == 3:
                pop.worker._tracer.to_pass = 100
            await client.request("GET", "/a")
            await client.response()
    told = [request.get("traceparent") for request in origin.requests]
    assert None not in told[:3]
    assert len(set(told[:3])) == 3
    assert told[3:] == [None] * 3


async def test_what_is_refreshed_behind_the_clients_back_is_no_part_of_its_trace(origin: OriginDouble) -> None:
    """The client has its answer by then: nobody would tell the span that the origin was told of."""
    origin.on("/a", Reply(fields=[("Cache-Control", "max-age=1, stale-while-revalidate=60")], body=b"hello"))
    async with running_pop(origin, **TRUSTING) as pop:
        await pop.get("/a")
        origin.clock.advance(2)
        await pop.get("/a", ("traceparent", ASKED))
        await origin.request_seen(2)
        found = spans(pop)
    assert origin.requests[-1].get("traceparent") is None
    assert [one["attributes"]["edgecache.result"] for one in found] == ["stale"]


@pytest.mark.parametrize("fraction", [0.01, 0.5])
def test_the_fraction_is_kept(fraction: float) -> None:
    """Over many draws, the share of sampled requests is what the operator set."""
    import random

    tracer = Tracer(fraction, lambda exchange: False, lambda: 0.0, random.Random(1).random)
    draws = [tracer._draw() for _ in range(20_000)]
    assert len(draws) / (len(draws) + sum(draws)) == pytest.approx(fraction, rel=0.05)


def test_the_ends_of_the_fraction() -> None:
    """All are sampled, or none."""
    assert Tracer(1.0, lambda exchange: False, lambda: 0.0).to_pass == 0
    assert Tracer(0.0, lambda exchange: False, lambda: 0.0).to_pass == float("inf")


async def test_spans_that_nobody_fetches_are_bounded(origin: OriginDouble) -> None:
    """What no longer fits is counted and lost, and requests are answered."""
    origin.on("/a", Reply(body=b"hello"))
    async with running_pop(origin, **COLLECTOR, trace_sample=1) as pop:
        pop.worker._tracer._spans = [("",)] * (MOST_PENDING - 1)
        assert (await pop.get("/a")).body == b"hello"
        assert len(pop.worker._tracer._spans) == MOST_PENDING - 1
        assert pop.worker._tracer.dropped == 2


def test_the_settings_of_traces() -> None:
    """A collector is a URL, the fraction one."""
    environ = {"EDGECACHE_ORIGIN": "http://origin"}
    good = load({**environ, "EDGECACHE_OTLP_ENDPOINT": "http://jaeger:4318", "EDGECACHE_TRACE_SAMPLE": "0.5"})
    assert (good.otlp_endpoint, good.trace_sample) == ("http://jaeger:4318/v1/traces", 0.5)
    named = load({**environ, "EDGECACHE_OTLP_ENDPOINT": "https://[::1]/otlp/v1/traces"})
    assert named.otlp_endpoint == "https://[::1]/otlp/v1/traces"
    for name, value in (
        ("EDGECACHE_OTLP_ENDPOINT", "jaeger:4318"),
        ("EDGECACHE_OTLP_ENDPOINT", "http://user:secret@jaeger"),
        ("EDGECACHE_TRACE_SAMPLE", "1.5"),
        ("EDGECACHE_TRACE_SAMPLE", "nan"),
    ):
        with pytest.raises(ConfigError, match=name) as refused:
            load({**environ, name: value})
        assert "secret" not in str(refused.value)


def test_without_the_extra_a_collector_refuses_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line that says what to install."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    monkeypatch.delitem(sys.modules, "edgecache.telemetry.otlp_exporter", raising=False)
    settings = load({"EDGECACHE_ORIGIN": "http://origin", "EDGECACHE_OTLP_ENDPOINT": "http://jaeger:4318"})
    with pytest.raises(ConfigError, match=r"EDGECACHE_OTLP_ENDPOINT: .*edgecache\[otel\]"):
        span_exporter(settings, Registry())


def new_span(number: int = 1) -> Span:
    """A span as a worker makes it."""
    return ("a" * 32, f"{number:016x}", "", "GET", "server", 1.0, 1.5, False, {"url.path": "/"})


async def ended(exporter: Exporter) -> None:
    """End `exporter` as the supervisor does."""
    running = spawn(exporter.run())
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait((running,), timeout=2.0)
    assert running.cancelled()


async def test_what_waits_for_the_collector_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What no longer fits is counted and lost; to queue it waits for nothing."""
    monkeypatch.setattr(otlp_exporter, "LAST_PATIENCE", 0.1)
    registry = Registry()
    with socket.create_server(("127.0.0.1", 0)) as mute:  # it accepts, and answers nothing
        exporter = Exporter(f"http://127.0.0.1:{mute.getsockname()[1]}/v1/traces", resource_of("edge", "eu"), registry)
        exporter.take([new_span()] * (MOST_QUEUED + 5))
        text = render(registry.snapshot()).decode()
        await ended(exporter)
    assert f"edgecache_trace_queue {float(MOST_QUEUED)}" in text
    assert 'edgecache_trace_spans_dropped_total{reason="queue"} 5.0' in text


async def test_no_more_of_an_answer_is_read_than_its_beginning() -> None:
    """A collector that answers without end costs neither memory nor its turn: the spans are taken."""
    registry, sent = Registry(), 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while sent < 1 << 26:
                writer.write(bytes(1 << 16))
                await writer.drain()
                sent += 1 << 16
        writer.transport.abort()

    server = await asyncio.start_server(endless, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/traces"
        exporter = Exporter(url, resource_of("edge", "eu"), registry)
        exporter.take([new_span()])
        await until(lambda: samples(registry.snapshot())["edgecache_trace_spans_exported_total"] == 1)
        await ended(exporter)
    assert sent < 1 << 26


@pytest.mark.parametrize("fault", ["refuses", "answers nothing", "redirects"])
async def test_the_end_does_not_wait_for_a_collector_that_fails(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The POP ends in its time, whatever the SDK still waits for."""
    monkeypatch.setattr(otlp_exporter, "LAST_PATIENCE", 0.1)
    registry = Registry()
    async with running_collector() as collector:
        collector.status = 302
        with socket.create_server(("127.0.0.1", 0)) as mute:
            port = mute.getsockname()[1] if fault == "answers nothing" else refusing_port()
            url = collector.url if fault == "redirects" else f"http://127.0.0.1:{port}"
            exporter = Exporter(f"{url}/v1/traces", resource_of("edge", "eu"), registry)
            exporter.take([new_span()])
            await until(lambda: samples(registry.snapshot())["edgecache_trace_collector_up"] == 0 or fault[0] == "a")
            await ended(exporter)
    assert samples(registry.snapshot())["edgecache_trace_spans_exported_total"] == 0


# --- in processes, to a collector


@pytest.mark.slow
async def test_one_trace_from_the_client_to_the_origin(origin: OriginDouble) -> None:
    """Client → edge → shield → a third POP → origin: one trace, each hop the child of the one before it."""
    origin.on("/a", Reply(fields=[FRESH], body=b"hello"))
    async with running_collector() as collector:
        common = {"worker": "edgecache.server.worker:Worker", "otlp_endpoint": collector.url, "access_log": "off"}
        common["store"] = "off"  # a look into it would be a span, too
        trusting = {**common, "trusted_proxies": "127.0.0.0/8", "trace_sample": 0}
        with (
            running_process(pop="third", origin=origin.url, **trusting) as third,
            running_process(pop="shield", origin=url(third), **trusting) as shield,
            running_process(pop="edge", origin=url(shield), trace_sample=1, **common) as edge,
        ):
            for pop in (third, shield, edge):
                await asyncio.to_thread(pop.expect_worker)
            async with connected(edge.port) as client:
                await client.request("GET", "/a", [("traceparent", UNRECORDED)])
                assert (await client.response()).body == b"hello"
            found = await collector.has(6)
    assert {span.trace_id for span in found} == {TRACE}
    assert chain(found, SPAN) == [
        *("edge server", "edge upstream", "shield server", "shield upstream", "third server", "third upstream")
    ]
    last = next(span for span in found if span.pop == "third" and span.name == "upstream")
    assert origin.requests[0].get("traceparent") == f"00-{TRACE}-{last.span_id}-01"
    served = [span for span in found if span.kind == 2]
    assert {span.attributes["edgecache.result"] for span in served} == {"miss"}


def chain(spans: list[CollectedSpan], parent: str) -> list[str]:
    """The spans from `parent` down, each the only child of the one before."""
    found = []
    while children := [span for span in spans if span.parent == parent]:
        (child,) = children
        found.append(f"{child.pop} {'server' if child.kind == 2 else child.name}")
        parent = child.span_id
    return found


def url(pop: RunningPop) -> str:
    """Where it serves."""
    return f"http://127.0.0.1:{pop.port}"


@pytest.mark.slow
async def test_an_unreachable_collector_is_said_once(origin: OriginDouble) -> None:
    """Serving goes on; when the collector is there, it gets what was kept, and a refusal for good loses the batch."""
    origin.on("/a", Reply(fields=[FRESH], body=b"hello", date=False))
    async with running_collector() as collector:
        collector.status = 503
        settings = {"worker": "edgecache.server.worker:Worker", "access_log": "off", "trace_sample": 1, "store": "off"}
        with running_process(origin=origin.url, otlp_endpoint=collector.url, **settings) as pop:
            await asyncio.to_thread(pop.expect_worker)
            async with connected(pop.port) as client:
                for _ in range(20):
                    await client.request("GET", "/a")
                    assert (await client.response()).status == 200
            assert "it answered 503" in await asyncio.to_thread(pop.expect, r"the trace collector.*")
            assert await asyncio.to_thread(pop.metric, "edgecache_trace_collector_up") == 0
            collector.status = 200
            assert len(await collector.has(21)) == 21  # one was asked of the origin
            await asyncio.to_thread(pop.expect, "accepts spans again")
            assert "does not accept" not in pop.log
            assert await asyncio.to_thread(pop.metric, "edgecache_trace_collector_up") == 1
            assert await asyncio.to_thread(pop.metric, "edgecache_trace_spans_total") == 21
            collector.status = 400
            async with connected(pop.port) as client:
                await client.request("GET", "/a")
                assert (await client.response()).status == 200
            assert "it answered 400" in await asyncio.to_thread(pop.expect, r"the trace collector.*")
            assert await asyncio.to_thread(pop.metric, 'edgecache_trace_spans_dropped_total{reason="collector"}') == 1
            pop.process.terminate()
            assert await asyncio.to_thread(pop.exit_code) == 0
