"""Hostile origins whose fault is a matter of time or of several answers: cuts at every byte, answers nobody asked for.

What one answer's bytes can tell is in `tests/hostile/tables/f_origins.txt`.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from harness.certificates import Authority
from harness.client import RawClient, let_others_run, until
from harness.fault_proxy import running_proxy
from harness.often import one_in, slow
from harness.origin import OriginDouble, ReceivedRequest, Reply, cut, running_origin
from harness.pop import Pop, running_pop
from harness.raw_server import Serve, running_server
from harness.wire import Closed, Truncated
from hostile.arena import CANARY
from hostile.tables import ANSWERS, all_cases

FRESH = ("Cache-Control", "max-age=60")
BODY = b"twenty bytes of body"
SMALL = {  # one small response in each framing, complete
    "length": b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 20\r\n\r\n" + BODY,
    "chunked": b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"c;a=b\r\ntwenty bytes\r\n8\r\n of body\r\n0\r\nX-A: b\r\n\r\n",
    "close": b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n\r\n" + BODY,
    "interim": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 20\r\n\r\n" + BODY,
}


async def outcome(pop: Pop, target: str) -> tuple[int, bytes]:
    """What a client of its own receives: status and body, or 0 where the transfer is visibly broken."""
    async with pop.client() as client:
        await client.request("GET", target)
        try:
            response = await client.response_or_broken()
        except (Closed, Truncated, ConnectionResetError):
            return 0, b""
        return (0, b"") if response.broken else (response.status, response.body)


@asynccontextmanager
async def raw_origin(data: bytes, by: str) -> AsyncIterator[tuple[int, list[int]]]:
    """An origin on a port that answers each head by so many bytes of `data` as `sizes` says next, and then ends."""
    sizes: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        whole = head.startswith(b"GET /clean") or not sizes
        writer.write(data if whole else data[: sizes.pop()])
        await writer.drain()
        if by == "rst" and not whole:
            await let_others_run()  # what was sent is read first: the reset is seen in the middle of the answer
            cut(writer, "rst")

    async with running_server(serve) as port:
        yield port, sizes


@pytest.mark.parametrize("step", [11, slow(1)])
@pytest.mark.parametrize("by", ["fin", "rst"])
@pytest.mark.parametrize("framing", SMALL)
async def test_an_answer_cut_at_every_byte(framing: str, by: str, step: int) -> None:
    """However little of an answer comes, it is 502 or a broken transfer, nothing is stored, the next is answered."""
    data = SMALL[framing]
    body_may_end_anywhere = framing == "close" and by == "fin"  # RFC 9112 §8: only a reset tells
    async with raw_origin(data, by) as (port, sizes), running_pop(f"http://127.0.0.1:{port}") as pop:
        head = len(data) - len(BODY)
        for stored, at in enumerate(range(0, head if body_may_end_anywhere else len(data), step)):
            sizes.append(at)
            status, _ = await outcome(pop, f"/{at}")
            assert status in (0, 502), f"cut at {at}"
            assert len(pop.worker.edge.memory) == stored
            assert await outcome(pop, f"/{at}") == (200, BODY)


@pytest.mark.parametrize("segment", [1, 2, 7])
@pytest.mark.parametrize("framing", SMALL)
async def test_an_answer_in_pieces_is_the_same(origin: OriginDouble, framing: str, segment: int) -> None:
    """However the network cuts an answer, it is the same answer, and stored whole."""
    data = SMALL[framing]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for start in range(0, len(data), segment):
            writer.write(data[start : start + segment])
            await let_others_run(10)

    async with raw_pop(serve) as pop:
        assert [await outcome(pop, "/page") for _ in range(3)] == [(200, BODY)] * 3


async def test_an_interim_response_is_never_the_answer(origin: OriginDouble) -> None:
    """The same 103 in a read of its own, again and again, is always followed by the answer (RFC 9110 §15.2)."""
    gates: list[asyncio.Event] = []

    def answer(request: ReceivedRequest) -> Reply:
        gates.append(asyncio.Event())
        return Reply(200, [("Cache-Control", "no-store")], request.target.encode(), wait=gates[-1], interim=HINTS)

    origin.otherwise(answer)
    async with running_pop(origin) as pop, pop.client() as client:
        for number in range(5):
            await client.request("GET", f"/{number}")
            await origin.request_seen(number + 1)
            await let_others_run(50)
            gates[-1].set()
            response = await client.response()
            assert (response.status, response.body) == (200, f"/{number}".encode())


HINTS = [(103, [("Link", "</a>")])]


@pytest.mark.parametrize("extra", [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", b"evil", b"\r\n", b"0"])
async def test_bytes_on_an_idle_connection_are_nobodys(extra: bytes) -> None:
    """What an origin sends after its answer, unasked, ends that connection and answers nothing (RFC 9112 §9.2)."""
    answered = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (await reader.readuntil(b"\n")) and not answered.is_set():
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood")
            await let_others_run(50)
            writer.write(extra)

    async with raw_pop(serve) as pop, pop.client() as client:
        for number in range(5):
            await client.request("GET", f"/{number}")
            assert (await client.response()).body == b"good"
            await let_others_run(200)
            assert not pop.worker.pool._idle
        answered.set()


async def test_an_answer_before_the_question_poisons_nothing() -> None:
    """An origin that speaks first gets its bytes to no client and into no cache under another URL (RFC 9112 §9.2)."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 4\r\n\r\nevil" * 2)
        await writer.drain()
        await reader.read(65536)

    async with raw_pop(serve, origin_connections=1) as pop:
        outcomes = [await outcome(pop, f"/{number}") for number in range(10)]
        assert not pop.worker.pool._idle

    assert {status for status, _ in outcomes} <= {0, 200, 502}


@pytest.mark.parametrize("rest", [b"567", b"", b"56789abc"], ids=["short", "none", "long"])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_the_rest_of_an_object_is_as_long_as_it_says(origin: OriginDouble, rest: bytes, framing: str) -> None:
    """A 206 that brings fewer or more bytes than its Content-Range breaks no other response (RFC 9112 §6.3)."""

    def answer(request: ReceivedRequest) -> Reply:
        fields = [("ETag", '"v"'), FRESH]
        if request.get("range") == "bytes=0-4":
            return Reply(206, [*fields, ("Content-Range", "bytes 0-4/10")], b"01234")
        if request.get("range"):
            return Reply(206, [*fields, ("Content-Range", "bytes 5-9/10")], rest, framing=framing)
        return Reply(200, fields, b"clean")

    origin.otherwise(answer)
    async with running_pop(origin) as pop, pop.client() as client:
        await pop.get("/page", ("Range", "bytes=0-4"))
        await client.send(b"GET /page HTTP/1.1\r\nHost: www.example.test\r\n\r\n")
        await client.send(b"GET /other HTTP/1.1\r\nHost: www.example.test\r\n\r\n")
        first = await client.response_or_broken()
        assert first.broken or first.body == b"clean"
        if not first.broken:
            assert (await client.response()).body == b"clean"
        assert await outcome(pop, "/page") == (200, b"clean")


@pytest.mark.parametrize("body", [b"012", b"01234567", b"0" * 40], ids=["short", "long", "longer-than-all"])
async def test_a_part_is_stored_only_as_long_as_it_says(origin: OriginDouble, body: bytes) -> None:
    """Of a chunked 206 that does not match its Content-Range nothing is stored (RFC 9111 §3.3)."""
    fields = [("ETag", '"v"'), FRESH, ("Content-Range", "bytes 0-4/10")]
    origin.otherwise(Reply(206, fields, body, framing="chunked"))
    async with running_pop(origin) as pop:
        await pop.get("/page", ("Range", "bytes=0-4"))

        assert len(pop.worker.edge.memory) == 0


@pytest.mark.parametrize("seed", one_in(4, range(4)))
async def test_no_answer_leaks_into_another(origin: OriginDouble, seed: int) -> None:
    """Among answers with every fault, over shared connections, each client gets its own or a clear failure."""
    chance = random.Random(seed)
    bad = [case.answer for case in all_cases() if case.kind in ANSWERS and len(case.answer) < 4096]
    bad = [answer for answer in bad if b"HTTP/1.0" not in answer[:9]]

    def answer(request: ReceivedRequest) -> Reply:
        kind = request.target.rpartition("/")[2]
        if kind == "bad":
            return Reply(raw=chance.choice(bad))
        return Reply(200, [("Cache-Control", "no-store")], request.target.encode(), framing=chance.choice(FRAMINGS))

    origin.otherwise(answer)
    async with running_pop(origin, origin_connections=4) as pop:
        await asyncio.gather(*(one_client(pop, number, chance) for number in range(12)))


FRAMINGS = ["length", "chunked", "close"]


async def one_client(pop: Pop, number: int, chance: random.Random) -> None:
    """Ask for good and bad answers in turn; a good one must be the right one, whatever came before."""
    for start in range(0, 25, 5):
        async with pop.client() as client:
            for turn in range(start, start + 5):
                if not await one_turn(client, f"/{number}/{turn}/{chance.choice(['good', 'good', 'bad'])}"):
                    break


async def one_turn(client: RawClient, target: str) -> bool:
    """One question and its answer; whether the connection goes on."""
    await client.request("GET", target)
    try:
        response = await client.response_or_broken()
    except (Closed, Truncated, ConnectionResetError):
        response = None
    if target.endswith("good"):
        assert response is not None
        assert not response.broken
        assert response.status == 502 or response.body == target.encode()  # its connection may just have ended
        assert CANARY not in response.head.raw + response.body
    return response is not None and not response.broken and response.get("connection") != "close"


@asynccontextmanager
async def raw_pop(serve: Serve, **settings: object) -> AsyncIterator[Pop]:
    """A POP in front of an origin whose connections are served by `serve`, and closed when it returns or fails."""
    async with running_server(serve) as port, running_pop(f"http://127.0.0.1:{port}", **settings) as pop:
        yield pop


EVIL = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 4\r\n\r\nevil"
OF_EVIL = b"Content-Length: %d\r\n" % len(EVIL)
WITHOUT_CONTENT = {  # heads after which no content may come, but does
    "head-length": ("HEAD", b"200 OK\r\n" + OF_EVIL),
    "head-chunked": ("HEAD", b"200 OK\r\nTransfer-Encoding: chunked\r\n"),
    "head-nothing-said": ("HEAD", b"200 OK\r\n"),
    "head-not-found": ("HEAD", b"404 Not Found\r\n" + OF_EVIL),
    "no-content-length": ("POST", b"204 No Content\r\n" + OF_EVIL),
    "no-content-chunked": ("GET", b"204 No Content\r\nTransfer-Encoding: chunked\r\n"),
    "not-modified-length": ("POST", b"304 Not Modified\r\n" + OF_EVIL),
    "not-modified-chunked": ("POST", b"304 Not Modified\r\nTransfer-Encoding: chunked\r\n"),
    "interim-length": ("GET", b"103 Hints\r\n" + OF_EVIL + b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n"),
    "interim-chunked": ("GET", b"103 Hints\r\nTransfer-Encoding: chunked\r\n\r\nHTTP/1.1 204 No Content\r\n"),
    "close-in-interim": ("GET", b"103 Hints\r\nConnection: close\r\n\r\nHTTP/1.1 204 No Content\r\n"),
}


@pytest.mark.parametrize("case", WITHOUT_CONTENT)
async def test_content_that_must_not_be_answers_nobody(case: str) -> None:
    """What comes after a response that has no content is not the answer to who waits for that connection."""
    method, head = WITHOUT_CONTENT[case]
    answer = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while target := (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1]:
            if target == b"/attack":
                await answer.wait()
                writer.write(b"HTTP/1.1 " + head + b"\r\n")
                await let_others_run(50)
                writer.write(EVIL)
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(target), target))

    async with raw_pop(serve, origin_connections=1) as pop, pop.client() as attacker:
        await attacker.request(method, "/attack", [("If-None-Match", '"a"')])
        await pool_is(pop, busy=1)
        victims = asyncio.gather(*(outcome(pop, f"/{number}") for number in range(3)))
        await pool_is(pop, busy=1, waiting=3)
        answer.set()
        assert await victims == [(200, f"/{number}".encode()) for number in range(3)]


async def pool_is(pop: Pop, busy: int, waiting: int = 0) -> None:
    """Wait until so many connections are busy, and so many questions wait."""
    await until(lambda: (pop.worker.pool.busy, pop.worker.pool.waiting) == (busy, waiting))


async def test_interim_responses_are_counted_by_the_question(origin: OriginDouble) -> None:
    """An origin that sends one 103 with each answer may do so for ever on one connection."""
    fields = [("Cache-Control", "no-store"), ("Date", "Tue, 14 Nov 2023 22:13:20 GMT")]
    gates: list[asyncio.Event] = []

    def answer(request: ReceivedRequest) -> Reply:
        gates.append(asyncio.Event())
        return Reply(200, fields, b"page", wait=gates[-1], interim=HINTS)

    origin.otherwise(answer)
    async with running_pop(origin) as pop, pop.client() as client:
        for number in range(40):
            await client.request("GET", "/page")
            await origin.request_seen(number + 1)
            await let_others_run(20)  # the 103 is a read of its own, so that the answer is one, too
            gates[-1].set()
            assert (await client.response()).status == 200
        assert origin.connections == 1


@pytest.mark.parametrize("close", ["Connection: close\r\n", ""], ids=["close", "open"])
@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("HEAD", 200), ("POST", 408)])
async def test_a_408_that_crosses_the_question_is_no_answer_to_it(method: str, status: int, close: str) -> None:
    """What ends an idle connection may be asked again, once and only if that is safe (RFC 9110 §15.5.9)."""
    farewell = f"HTTP/1.1 408 Request Timeout\r\n{close}Content-Length: 0\r\n\r\n".encode()
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            heads.append(head)
            if len(heads) == 2:
                writer.write(farewell)
                return
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with raw_pop(serve) as pop:
        await pop.get("/first")
        assert (await pop.request(method, "/page")).status == status
        assert len(heads) == (3 if status == 200 else 2)


async def test_a_408_on_a_new_connection_is_an_answer(origin: OriginDouble) -> None:
    """It may be true, and is not asked again."""
    origin.otherwise(Reply(408, [("Connection", "close")], close=True))
    async with running_pop(origin) as pop:
        assert (await pop.get("/page")).status == 408

    assert len(origin.requests) == 1


async def test_a_body_until_the_close_is_not_whole_if_it_is_we_who_close(origin: OriginDouble) -> None:
    """A pool that ends cuts answers short visibly, and nothing of them is stored as a whole (RFC 9112 §8)."""
    origin.otherwise(Reply(200, [FRESH], pieces=[b"half", b"rest"], gates=[None, asyncio.Event()], framing="close"))
    async with running_pop(origin) as pop, pop.client() as client:
        await client.request("GET", "/page")
        await client.response_head()
        await let_others_run(50)
        pop.worker.pool.close()
        await let_others_run(50)
        assert await client.body_bytes(9) == b"4\r\nhalf\r\n"
        assert await client.closed() in ("fin", "rst")
        assert len(pop.worker.edge.memory) == 0


@pytest.mark.parametrize(
    ("framing", "sent"),
    [("length", b"page"), ("chunked", b"4\r\npage\r\n0\r\n\r\n"), ("close", b"4\r\npage\r\n")],
)
async def test_tls_that_ends_without_saying_so_is_cut_short(framing: Any, sent: bytes, tmp_path: Path) -> None:
    """A FIN without `close_notify` may be an attacker's: a body that only the end delimits is not whole (§9.8)."""
    authority = Authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    files = authority.issue("localhost")
    context.load_cert_chain(files.certificate, files.key)
    async with running_origin(tls=context) as origin, running_proxy(origin.port) as relay:
        origin.otherwise(Reply(200, [FRESH], b"page", framing=framing, hang=True))  # it sends no close_notify
        async with running_pop(f"https://localhost:{relay.port}", origin_ca=str(authority.file)) as pop:
            async with pop.client() as client:
                await client.request("GET", "/page")
                await client.response_head()
                assert await client.body_bytes(len(sent)) == sent
                relay.finish_all()
                if framing == "close":
                    assert await client.closed() in ("fin", "rst")
                await let_others_run()
            assert len(pop.worker.edge.memory) == (framing != "close")
