"""The project's own table of RFC cases: each transcript in `tests/cases/` is played against a POP in process."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from random import Random

import pytest
from harness.client import let_others_run
from harness.clock import FakeClock
from harness.expect import Found
from harness.often import one_in
from harness.origin import OriginDouble, ReceivedRequest, Reply
from harness.play import play
from harness.pop import running_pop
from harness.ranged import RangedOrigin
from harness.transcript import Case, read_cases

FILES = sorted((Path(__file__).parents[1] / "cases").glob("*.txt"))
CASES = [case for path in FILES for case in read_cases(path)]


def as_diff(case: Case, lines: list[Found]) -> str:
    """The transcript of a case as a diff: `-` is what was expected, `+` what happened."""
    text = [f"{case.id} ({case.where}): {case.title} [{case.clause}]"]
    for line in lines:
        if line.holds:
            text.append(f"    {line.expected}")
            continue
        text += [f"  - {line.expected}"] * bool(line.expected) + [f"  + {line.actual}"] * bool(line.actual)
    return "\n".join(text)


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
async def test_rfc_case(case: Case) -> None:
    """The client receives, and the origin is asked, what the transcript says."""
    lines = await play(case)

    if not all(line.holds for line in lines):
        pytest.fail(as_diff(case, lines), pytrace=False)


def test_ids_are_unique() -> None:
    """No two cases share an id, so that each can be run alone."""
    ids = [case.id for case in CASES]

    assert sorted(set(ids)) == sorted(ids)


def test_every_case_names_its_clause() -> None:
    """A case cites the RFC and its section, or a page of docs/."""
    sources = ("RFC ", "docs/", "No-Vary-Search")
    unnamed = [case.id for case in CASES if not case.clause.startswith(sources)]

    assert unnamed == []


# What a transcript cannot tell, because the order of things in time is the point.


async def test_continue_comes_before_the_body(origin: OriginDouble) -> None:
    """A client that waits for 100 (Continue) is told to go on before it sends its body (RFC 9110 §10.1.1)."""
    origin.on("/form", Reply(body=b"done"))
    async with running_pop(origin) as pop, pop.client() as client:
        await client.request("POST", "/form", [("Expect", "100-continue"), ("Content-Length", "4")])
        assert (await client.body_bytes(12)) == b"HTTP/1.1 100"
        while await client.source.line("the interim response"):
            pass
        await client.send(b"body", None)

        assert (await client.response()).body == b"done"
    assert bytes(origin.requests[0].body) == b"body"


async def test_an_expectation_may_be_refused(origin: OriginDouble) -> None:
    """A final response instead of 100 (Continue) reaches a client that has not sent its body (RFC 9110 §10.1.1)."""
    origin.on("/form", Reply(417, body=b"no", before_body=True, close=True))
    async with running_pop(origin) as pop, pop.client() as client:
        await client.request("POST", "/form", [("Expect", "100-continue"), ("Content-Length", "4")])
        response = await client.response()

    assert (response.status, response.body) == (417, b"no")


async def test_early_hints_are_early(origin: OriginDouble) -> None:
    """A 103 reaches the client although the final response has not left the origin (RFC 8297 §2)."""
    gate = asyncio.Event()
    origin.on("/page", Reply(interim=[(103, [("Link", "</a>")])], wait=gate, body=b"one"))
    async with running_pop(origin) as pop, pop.client() as client:
        await client.request("GET", "/page")
        assert await client.body_bytes(12) == b"HTTP/1.1 103"
        while await client.source.line("the interim response"):
            pass
        gate.set()

        assert (await client.response()).body == b"one"


async def test_events_arrive_as_they_are_sent(origin: OriginDouble) -> None:
    """Each server-sent event reaches the client before the next one leaves the origin."""
    gates = [asyncio.Event() for _ in range(3)]
    events = [b"data: %d\n\n" % number for number in range(3)]
    fields = [("Content-Type", "text/event-stream"), ("Cache-Control", "no-cache")]
    origin.on("/events", Reply(fields=fields, framing="chunked", pieces=events, gates=gates))
    async with running_pop(origin) as pop, pop.client() as client:
        await client.request("GET", "/events")
        await client.response_head()
        for gate, event in zip(gates, events, strict=True):
            gate.set()
            assert await client.body_bytes(len(event) + 5) == b"9\r\n" + event + b"\r\n"


async def test_a_request_body_streams(origin: OriginDouble) -> None:
    """A large upload arrives whole, sent on while it comes (RFC 9112 §6)."""
    origin.on("/upload", Reply(201, body=b"done"))
    body = bytes(range(256)) * 8192
    async with running_pop(origin) as pop:
        response = await pop.request("PUT", "/upload", body=body)

    assert (response.status, bytes(origin.requests[0].body)) == (201, body)


async def test_an_upgraded_connection_is_a_tunnel(origin: OriginDouble) -> None:
    """After 101 bytes pass both ways untouched, and an end of one side ends the other (RFC 9110 §7.8)."""
    handshake = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n\x81\x02hi"
    origin.on("/chat", Reply(raw=handshake, tunnel=True))
    asked = [("Upgrade", "websocket"), ("Connection", "keep-alive, Upgrade"), ("Sec-WebSocket-Version", "13")]
    async with running_pop(origin) as pop, pop.client() as client:
        await client.request("GET", "/chat", asked)
        response = await client.response_head()
        assert (response.status, response.get("upgrade")) == (101, "websocket")
        assert await client.body_bytes(4) == b"\x81\x02hi"
        await client.send(b"\x00GET / HTTP/1.1\r\n\r\n", None)
        assert await client.body_bytes(19) == b"\x00GET / HTTP/1.1\r\n\r\n"
        client.half_close()

        assert await client.closed() == "fin"
    assert origin.requests[0].get("upgrade") == "websocket"
    assert "upgrade" in (origin.requests[0].get("connection") or "").lower()


async def test_a_refused_upgrade_is_an_ordinary_answer(origin: OriginDouble) -> None:
    """An origin may answer an Upgrade by any other status, and the connection goes on as HTTP (RFC 9110 §7.8)."""
    origin.on("/chat", Reply(426, body=b"no"))
    origin.on("/page", Reply(body=b"one"))
    async with running_pop(origin) as pop, pop.client() as client:
        await client.request("GET", "/chat", [("Upgrade", "websocket"), ("Connection", "Upgrade")])
        assert (await client.response()).status == 426
        await client.request("GET", "/page")

        assert (await client.response()).body == b"one"


async def test_a_loop_is_cut(origin: OriginDouble) -> None:
    """A request that comes back with what the POP itself wrote into CDN-Loop is refused by 508 (RFC 8586 §2)."""
    origin.otherwise(origin.echo)
    async with running_pop(origin) as pop:
        await pop.get("/page")
        mine = origin.requests[0].get("cdn-loop") or ""
        response = await pop.get("/page", ("CDN-Loop", mine))
        assert response.status == 508
        response = await pop.get("/page", ("CDN-Loop", "first.example"), ("CDN-Loop", f"second.example, {mine}"))
        assert response.status == 508
        assert len(origin.requests) == 1

        assert (await pop.get("/page", ("CDN-Loop", f"x{mine}"))).status == 200


async def test_a_connection_is_reused(origin: OriginDouble) -> None:
    """Requests one after another share connections, to the client and to the origin (RFC 9112 §9.3)."""
    origin.otherwise(origin.echo)
    async with running_pop(origin) as pop, pop.client() as client:
        for number in range(5):
            await client.request("GET", f"/{number}")
            await client.response()

    assert (len(origin.requests), origin.connections) == (5, 1)


async def test_a_get_on_a_connection_that_just_closed_is_asked_again(origin: OriginDouble) -> None:
    """An idle connection that the origin closed in between costs a GET nothing (RFC 9112 §9.3.1)."""
    origin.otherwise(origin.echo)
    async with running_pop(origin) as pop:
        assert (await pop.get("/1")).status == 200
        await origin.stop()
        await origin.start()

        assert (await pop.get("/2")).status == 200


async def test_a_client_that_half_closes_is_answered(origin: OriginDouble) -> None:
    """A client that has nothing more to send still receives its answer (RFC 9112 §9.6)."""
    gate = asyncio.Event()
    origin.on("/page", Reply(body=b"one", wait=gate))
    async with running_pop(origin) as pop, pop.client() as client:
        await client.request("GET", "/page")
        client.half_close()
        await origin.request_seen()
        await let_others_run()
        gate.set()

        assert (await client.response()).body == b"one"
        assert await client.closed() == "fin"


async def test_problem_details_are_json(origin: OriginDouble) -> None:
    """Our own errors are RFC 9457 problem details: JSON with a title and the status."""
    await origin.stop()
    async with running_pop(origin) as pop:
        response = await pop.get("/page")

    problem = json.loads(response.body)
    assert response.get("content-type") == "application/problem+json"
    assert (problem["status"], bool(problem["title"])) == (502, True)


@pytest.mark.parametrize(
    "condition", [("If-None-Match", '"v1"'), ("If-Modified-Since", "Tue, 14 Nov 2023 20:00:00 GMT")]
)
async def test_a_condition_on_a_cold_key_gains_a_304(origin: OriginDouble, condition: tuple[str, str]) -> None:
    """A client that holds the present version receives 304, and the next one without it the whole (RFC 9111 §4.3.2)."""

    def answer(request: ReceivedRequest) -> Reply:
        fields = [("Cache-Control", "max-age=60"), ("ETag", '"v1"'), ("Last-Modified", "Tue, 14 Nov 2023 20:00:00 GMT")]
        holds = request.get("if-none-match") == '"v1"' or request.get("if-modified-since") is not None
        return Reply(304, fields) if holds else Reply(200, fields, b"one")

    origin.otherwise(answer)
    async with running_pop(origin) as pop:
        first, second = await pop.get("/page", condition), await pop.get("/page")

    assert (first.status, first.body) == (304, b"")
    assert (second.status, second.body) == (200, b"one")


async def test_pipelined_requests_of_every_kind_are_answered_in_order(origin: OriginDouble) -> None:
    """Hits, misses, HEADs, ranges, 304s and posts in one write come back in the order asked (RFC 9112 §9.3.2)."""

    def answer(request: ReceivedRequest) -> Reply:
        fields = [("Cache-Control", "max-age=60" if request.target == "/hit" else "no-store"), ("ETag", '"v1"')]
        return Reply(200, fields, request.target.encode())

    origin.otherwise(answer)
    kinds: list[tuple[str, str, list[tuple[str, str]], int, bytes]] = [
        ("GET", "/hit", [], 200, b"/hit"),
        ("GET", "/miss", [], 200, b"/miss"),
        ("HEAD", "/hit", [], 200, b""),
        ("HEAD", "/miss", [], 200, b""),
        ("GET", "/hit", [("If-None-Match", '"v1"')], 304, b""),
        ("GET", "/hit", [("Range", "bytes=1-2")], 206, b"hi"),
        ("POST", "/form", [("Content-Length", "0")], 200, b"/form"),
    ]
    questions = [kinds[number * 5 % len(kinds)] for number in range(70)]
    async with running_pop(origin) as pop, pop.client() as client:
        await pop.get("/hit")
        for method, target, fields, _, _ in questions:
            await client.request(method, target, fields)
        responses = [await client.response() for _ in questions]

    assert [(one.status, one.body) for one in responses] == [(status, body) for *_, status, body in questions]


async def test_age_is_never_negative(origin: OriginDouble, clock: FakeClock) -> None:
    """A wall clock that is set back makes no negative Age (RFC 9111 §5.1)."""
    origin.otherwise(origin.versioned)
    async with running_pop(origin) as pop:
        await pop.get("/page")
        clock.jump(-1000)
        response = await pop.get("/page")

    assert response.status == 200
    assert (response.get("age") or "0").isdigit()


@pytest.mark.parametrize("etag", ['"v1"', 'W/"v1"', None])
@pytest.mark.parametrize("seed", one_in(4, range(20)))
async def test_ranges_in_any_order_are_slices_of_the_whole(origin: OriginDouble, seed: int, etag: str | None) -> None:
    """Whatever was asked before, each answer is the whole or the very bytes it says it is (RFC 9111 §3.3, §3.4)."""
    chance = Random(seed)
    content = b"abcdefghijklmnopqrst"
    origin.otherwise(served := RangedOrigin(content, etag))
    async with running_pop(origin) as pop:
        for number in range(12):
            if number == 8:  # a new version, of another length
                served.content, served.etag = b"ABCDEFGHIJKLMNOPQ", etag and etag.replace("v1", "v2")
                pop.clock.advance(61)
            first = chance.randrange(16)
            asked = chance.choice([f"bytes={first}-{chance.randrange(first, 25)}", f"bytes={first}-", "bytes=-3", None])
            response = await pop.get("/page", *([("Range", asked)] if asked else []))
            span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.get("content-range") or "")

            assert (response.status == 206) == (span is not None), served.asked
            if span is None:
                assert (response.status, response.body) == (200, served.content), served.asked
            else:
                assert asked is not None
                assert response.body == served.content[int(span[1]) : int(span[2]) + 1], served.asked
                assert int(span[3]) == len(served.content)
