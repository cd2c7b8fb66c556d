"""Secrets never turn up where they do not belong, and no client forges a line of the log."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from harness.client import RawClient
from harness.origin import RESET, OriginDouble, Reply, hang
from harness.pop import DEFAULTS, Pop, environment, listening_socket, running_pop
from hostile.tables import read_table

from edgecache.config.docs import effective_table
from edgecache.config.settings import load
from edgecache.semantics.errors import ConfigError
from edgecache.semantics.message import Fields, Request
from edgecache.server.worker import Worker
from edgecache.telemetry.metrics import render

CANARY = "c4n4ry-5ecret"
SECRETS = [
    ("Authorization", f"Bearer {CANARY}"),
    ("Cookie", f"session={CANARY}"),
    ("Proxy-Authorization", f"Basic {CANARY}"),
    ("X-Api-Key", CANARY),
]


@asynccontextmanager
async def logging_pop(origin: OriginDouble) -> AsyncIterator[tuple[Pop, list[bytes]]]:
    """A POP with its access log on, and the chunks that it writes; complete once the POP has stopped."""
    chunks: list[bytes] = []
    settings = load({**environment(origin.url, []), "EDGECACHE_ACCESS_LOG": "json"})
    worker = Worker(settings, clock=origin.clock, access_log_write=chunks.append)
    sock = listening_socket()
    await worker.start([sock])
    try:
        yield Pop(worker, sock.getsockname()[1], origin.clock), chunks
    finally:
        await worker.stop()
        sock.close()


ODD = [
    b'GET /%0d%0a{"forged":1} HTTP/1.1\r\nHost: a\r\n\r\n',
    b'GET /\\u000a\\"x HTTP/1.1\r\nHost: a\r\n\r\n',
    b'GET /x HTTP/1.1\r\nHost: a\r\nUser-Agent: \x9b31m\xff\xe2\x80\xa8"},{\r\n\r\n',
    b'GET /x HTTP/1.1\r\nHost: a\r\nReferer: \\\r\nUser-Agent: \t\x85 "\r\n\r\n',
    b"GET /x?" + b"a" * 8000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
]


async def test_a_request_is_one_line_of_the_log(origin: OriginDouble) -> None:
    """Whatever is in it, a request is one line: JSON, printable ASCII, without a field that holds secrets."""
    origin.otherwise(Reply(200, [("Set-Cookie", CANARY)], CANARY.encode()))
    async with logging_pop(origin) as (pop, chunks), pop.client() as client:
        for head in ODD:
            await client.send(head)
            assert (await client.response()).status == 200
        await client.request("GET", "/secrets", SECRETS)
        assert (await client.response()).status == 200

    lines = b"".join(chunks).splitlines()
    assert len(lines) == len(ODD) + 1
    for line in lines:
        assert all(0x20 <= byte < 0x7F for byte in line)
        assert set(json.loads(line)) >= {"method", "target", "status"}
    assert CANARY.encode() not in b"".join(chunks)


async def test_a_refused_request_writes_no_more_than_a_line(origin: OriginDouble) -> None:
    """Refusals are counted; the log holds at most one line for each, and nothing of its bytes unescaped."""
    refused = [case for case in read_table("a7_heads") if case.kind == "R"]
    async with logging_pop(origin) as (pop, chunks):
        for case in refused:
            async with pop.client() as client:
                await client.send(case.data, case.refused_as)
                await client.response()

    text = b"".join(chunks)
    assert len(text.splitlines()) <= len(refused)
    assert all(0x20 <= byte < 0x7F or byte == 0x0A for byte in text)


async def test_ten_thousand_bad_cookies_are_one_refusal(origin: OriginDouble, caplog: pytest.LogCaptureFixture) -> None:
    """A request with ten thousand cookies costs one refusal, and no line each (CVE-2025-69230)."""
    caplog.set_level(logging.DEBUG)
    async with logging_pop(origin) as (pop, chunks), pop.client() as client:
        await client.request("GET", "/", [("Cookie", "=;,\xff=" * 100)] * 100)
        assert (await client.response()).status == 431

    assert len(b"".join(chunks).splitlines()) <= 1
    assert caplog.records == []


async def every_error(pop: Pop, origin: OriginDouble) -> list[bytes]:
    """What clients receive on every way that fails, each with secrets in its request."""
    received: list[bytes] = []

    async def ask(client: RawClient, target: str, body: bytes = b"") -> None:
        await client.request("POST" if body else "GET", target, SECRETS, body)
        response = await client.response_or_broken()
        received.append(response.head.raw + response.body)

    faults = [
        RESET,
        Reply(raw=b"nonsense\r\n\r\n"),
        Reply(raw=b""),
        hang(),
        Reply(206),
        Reply(304),
        Reply(body=b"x", cut_at=0),
    ]
    for number, fault in enumerate(faults):
        origin.on(f"/{number}", fault)
        for body in (b"", CANARY.encode()):
            async with pop.client() as client:
                await ask(client, f"/{number}", body)
    for line in (("X A", "1"), ("Range", "bytes=0-1"), ("Max-Forwards", "0"), ("CDN-Loop", "test")):
        async with pop.client() as client:
            await client.request("OPTIONS", "/", [*SECRETS, line, line])
            received.append((await client.response()).head.raw)
    await origin.stop()
    async with pop.client() as client:
        await ask(client, "/down")
    return received


@pytest.mark.slow
async def test_no_error_tells_a_secret(origin: OriginDouble, caplog: pytest.LogCaptureFixture) -> None:
    """With everything logged, no error path puts a client's secret into a log, a metric or an answer."""
    caplog.set_level(logging.DEBUG)
    origin.otherwise(Reply(200))
    async with running_pop(origin, first_byte_timeout="50ms", admin_token=CANARY) as pop:
        received = await every_error(pop, origin)
        metrics = render(pop.worker.snapshot())

    assert len(received) > 15
    assert CANARY.encode() not in b"".join(received)
    assert CANARY.encode() not in metrics
    assert CANARY not in caplog.text


async def test_a_bug_tells_no_secret(
    origin: OriginDouble, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A traceback of ours, and the answer that goes with it, hold nothing of the request."""

    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    async with running_pop(origin) as pop:
        monkeypatch.setattr(pop.worker, "answer", broken)
        response = await pop.request("POST", "/", *SECRETS, body=CANARY.encode())

    assert response.status == 500
    assert CANARY not in response.body.decode()
    assert "RuntimeError" in caplog.text
    assert CANARY not in caplog.text


def test_a_repr_holds_no_field() -> None:
    """Whoever prints a message, in a debugger or a traceback, prints no field's value."""
    fields = Fields([(name.encode(), value.encode()) for name, value in SECRETS])

    assert CANARY not in repr(fields)
    assert CANARY not in repr(Request(b"GET", b"/", b"a", fields))


@pytest.mark.parametrize(
    "settings",
    [
        {"EDGECACHE_ADMIN_TOKEN": CANARY},
        {"EDGECACHE_ADMIN_TOKEN": f"{CANARY} with blanks\n"},
        {"EDGECACHE_ORIGIN": f"http://user:{CANARY}@127.0.0.1:1"},
    ],
    ids=["token", "bad-token", "origin"],
)
def test_the_settings_tell_no_secret(settings: dict[str, str]) -> None:
    """Neither a repr, nor `check-config`, nor the error about a value shows a secret."""
    environ = {**DEFAULTS, "EDGECACHE_ORIGIN": "http://127.0.0.1:1", **settings}
    try:
        shown = repr(load(environ))
    except ConfigError as error:
        shown = str(error)

    assert CANARY not in shown
    assert CANARY not in effective_table(environ)


async def test_labels_come_from_closed_sets(origin: OriginDouble) -> None:
    """No client makes new series: refusals of any kind, methods and hosts of any name leave a bounded number."""
    origin.otherwise(Reply(200))
    async with running_pop(origin) as pop:
        for number in range(50):
            async with pop.client() as client:
                await client.send(b"M%d /%d HTTP/1.1\r\nHost: h%d\r\n\r\n" % (number, number, number))
                await client.response()
            assert (await pop.get(f"/{number}", ("Host", f"h{number}.test"))).status == 200
        snapshot = pop.worker.snapshot()

    assert max(len(family["series"]) for family in snapshot.values()) < 50
    assert len(snapshot["edgecache_refused"]["series"]) == 1
