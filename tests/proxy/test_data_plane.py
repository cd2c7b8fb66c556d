"""Bytes both ways, end to end over real sockets: what passes through a POP besides plain requests."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from pathlib import Path

import pytest
from harness.client import RawClient, request_bytes, until
from harness.origin import OriginDouble, Reply, running_origin
from harness.pop import running_pop
from harness.raw_server import running_server

MAX_AGE = ("Cache-Control", "max-age=60")
NO_STORE = ("Cache-Control", "no-store")


async def switching_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An origin that switches protocols and then sends back what it gets, in upper case."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    while data := await reader.read(1000):
        writer.write(data.upper())


async def test_an_upgrade_joins_both_sides() -> None:
    """After a 101 every byte goes through, in both directions, until one side ends (RFC 9110 §7.8)."""
    async with running_server(switching_echo) as port, running_pop(f"http://127.0.0.1:{port}") as pop:
        reader, writer = await asyncio.open_connection("127.0.0.1", pop.port)
        writer.write(request_bytes("GET", "/chat", [("Upgrade", "websocket"), ("Connection", "Upgrade")], b"", "1.1"))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        writer.write(b"hello")
        first = await asyncio.wait_for(reader.readexactly(5), 5)
        writer.write(b"GET / not a request\r\n\r\n")
        second = await asyncio.wait_for(reader.readexactly(23), 5)
        writer.close()
        await writer.wait_closed()

    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"Upgrade: websocket" in head
    assert (first, second) == (b"HELLO", b"GET / NOT A REQUEST\r\n\r\n")


async def test_events_arrive_one_by_one(origin: OriginDouble) -> None:
    """Server-Sent Events reach the client while the origin has not sent the next one."""
    second = asyncio.Event()
    events = [b"data: 1\n\n", b"data: 2\n\n"]
    kind = ("Content-Type", "text/event-stream")
    origin.on("/events", Reply(fields=[kind, NO_STORE], pieces=events, gates=[None, second], framing="chunked"))
    async with running_pop(origin) as pop:
        reader, writer = await asyncio.open_connection("127.0.0.1", pop.port)
        writer.write(request_bytes("GET", "/events", [], b"", "1.1"))
        await asyncio.wait_for(reader.readuntil(b"data: 1\n\n"), 5)
        second.set()
        await asyncio.wait_for(reader.readuntil(b"data: 2\n\n"), 5)
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_large_upload_arrives_whole(origin: OriginDouble, chunked: bool) -> None:
    """A request body of 5 MiB reaches the origin byte for byte, whichever way it is framed."""
    body = bytes(range(256)) * 20480
    origin.on("/up", Reply(body=b"thanks"))
    async with running_pop(origin) as pop, pop.client() as client:
        if chunked:
            pieces = [body[n : n + 60000] for n in range(0, len(body), 60000)]
            framed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
            head = request_bytes("POST", "/up", [("Transfer-Encoding", "chunked")], b"", "1.1")
            await client.send(head + framed, "POST")
        else:
            await client.request("POST", "/up", [], body)
        response = await client.response()

    assert response.body == b"thanks"
    assert bytes((await origin.request_seen()).body) == body


async def test_the_origin_sees_nothing_of_a_chunked_body_that_is_malformed(origin: OriginDouble) -> None:
    """However it is cut, a bad chunk size is refused before anything goes upstream (RFC 9112 §7.1)."""
    head = request_bytes("POST", "/up", [("Transfer-Encoding", "chunked")], b"", "1.1")
    async with running_pop(origin) as pop:
        for segment in (None, 1):
            async with pop.client() as client:
                await client.send(head + b"5\r\nhello\r\n0x5\r\nhello\r\n0\r\n\r\n", "POST", segment)
                response = await client.response()
                await client.closed()
                assert response.status == 400

    assert origin.bytes_received == 0


async def test_pipelined_requests_are_answered_in_their_order(origin: OriginDouble) -> None:
    """Hits, misses and a POST in one write come back in the order in which they were asked (RFC 9112 §9.3.2)."""
    for number in range(20):
        origin.on(f"/{number}", Reply(fields=[MAX_AGE], body=b"%d" % number))
    origin.on("/post", Reply(body=b"posted"))
    wanted = [b"%d" % (number % 20) for number in range(100)]
    async with running_pop(origin) as pop, pop.client() as client:
        await client.send(
            b"".join(request_bytes("GET", f"/{number % 20}", [], b"", "1.1") for number in range(100))
            + request_bytes("POST", "/post", [], b"x", "1.1")
        )
        got = [(await client.response("GET")).body for _ in range(100)]
        last = await client.response("POST")

    assert got == wanted
    assert last.body == b"posted"


async def test_a_client_that_stops_reading_stops_the_origin(origin: OriginDouble) -> None:
    """Of a large answer that is not stored, only a bounded part is taken from the origin ahead of the client."""
    piece = b"x" * 65536
    sent = 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: %d\r\n\r\n" % (65536 * 800))
        for _ in range(800):
            writer.write(piece)
            await writer.drain()
            sent += len(piece)

    async with running_server(pour) as port, running_pop(f"http://127.0.0.1:{port}") as pop:
        client = await RawClient.connect(pop.port, receive_buffer=16384, within=20)
        await client.request("GET", "/big")
        before = -1
        while sent != before:  # until nothing moves any more
            before = sent
            await asyncio.sleep(0.2)
        stalled_at = sent
        response = await client.response()
        client.close()

    assert stalled_at < 40 * 2**20
    assert len(response.body) == 65536 * 800


async def test_a_stored_answer_is_completed_although_its_client_left(origin: OriginDouble) -> None:
    """The client that caused a fill may leave; the next one is a hit."""
    rest = asyncio.Event()
    origin.on("/page", Reply(fields=[MAX_AGE], pieces=[b"one", b"two"], gates=[None, rest]))
    async with running_pop(origin) as pop:
        reader, writer = await asyncio.open_connection("127.0.0.1", pop.port)
        writer.write(request_bytes("GET", "/page", [], b"", "1.1"))
        await asyncio.wait_for(reader.readuntil(b"one"), 5)
        writer.close()
        await writer.wait_closed()
        rest.set()
        response = await pop.get("/page")

    assert response.body == b"onetwo"
    assert len(origin.requests) == 1


async def test_connections_to_the_origin_are_kept(origin: OriginDouble) -> None:
    """Requests one after the other take one connection."""
    origin.on("/page", *[Reply(fields=[NO_STORE], body=b"x")] * 10)
    async with running_pop(origin) as pop, pop.client() as client:
        for _ in range(10):
            await client.request("GET", "/page")
            await client.response()

    assert origin.connections == 1


async def test_a_download_ends_while_the_worker_drains(origin: OriginDouble) -> None:
    """A drain lets what is under way end, says `Connection: close`, and takes no new connections."""
    rest = asyncio.Event()
    origin.on("/page", Reply(fields=[NO_STORE], pieces=[b"one", b"two"], gates=[None, rest]))
    origin.on("/last", Reply(fields=[NO_STORE], body=b"last"))
    async with running_pop(origin) as pop, pop.client() as client, pop.client() as other:
        await client.request("GET", "/page")
        await client.response_head()
        await other.request("GET", "/last")
        await other.response()
        origin.on("/last", Reply(fields=[NO_STORE], body=b"last"))
        drained = asyncio.ensure_future(pop.worker.drain())  # noqa: TID251 (the test holds it)
        await asyncio.sleep(0)
        await other.request("GET", "/last")
        last = await other.response()
        assert not drained.done()
        rest.set()
        assert await client.body_bytes(6) == b"onetwo"
        pop.pass_time(3)  # neither client hangs up
        await asyncio.wait_for(drained, 10)

    assert last.head.get("Connection") == "close"


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=origin.test"
    subprocess.run(
        [*command.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)],
        check=True,
        capture_output=True,
    )
    return cert, key


async def test_the_origins_certificate_is_verified(tmp_path: Path) -> None:
    """An origin with a certificate of an unknown authority is 502; with the authority named it is served."""
    cert, key = certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)

    async with running_origin(tls=tls) as origin:
        origin.on("/page", Reply(body=b"secret"))
        async with running_pop(origin) as pop:
            refused = await pop.get("/page")
        async with running_pop(origin, origin_ca=cert) as pop:
            served = await pop.get("/page")

    assert refused.status == 502
    assert refused.head.get("Content-Type") == "application/problem+json"
    assert served.body == b"secret"


async def test_an_origin_whose_name_is_unknown_is_502() -> None:
    """A name that does not resolve is our client's 502, as problem details."""
    async with running_pop("http://nowhere.invalid") as pop:
        response = await pop.get("/page")

    assert response.status == 502
    assert b'"reason":"dns"' in response.body


async def test_silent_and_dripping_clients_are_ended(origin: OriginDouble) -> None:
    """A head must come whole within its time; who sends nothing at all is closed without a word."""
    async with running_pop(origin, head_timeout="10s") as pop, pop.client() as silent, pop.client() as slow:
        await slow.send(b"GET / HTTP/1.1\r\nHost", method="GET")
        await until(lambda: any(connection.unread for connection in pop.worker.connections))
        pop.pass_time(11)
        response = await slow.response()
        await silent.closed()

    assert response.status == 408


async def test_requests_wait_in_a_bounded_line_for_the_origin(origin: OriginDouble) -> None:
    """Beyond the connections and the line, a request is 503 at once; in the line it is served in its turn."""
    gate = asyncio.Event()
    replies = [Reply(fields=[NO_STORE], body=b"x", wait=gate)] * 3
    for number in range(3):
        origin.on(f"/{number}", replies[number])
    async with running_pop(origin, origin_connections=1, origin_queue=1) as pop:  # noqa: SIM117
        async with pop.client() as one, pop.client() as two, pop.client() as three:
            await one.request("GET", "/0")
            await origin.request_seen()
            await two.request("GET", "/1")
            await until(lambda: pop.worker.pool.waiting == 1)
            await three.request("GET", "/2")
            refused = await three.response()
            gate.set()
            first, second = await one.response(), await two.response()

    assert refused.status == 503
    assert (first.status, second.status) == (200, 200)
