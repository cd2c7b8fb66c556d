"""The harness against itself: client, origin and clock, without the product between them.

The fault proxy and the case format have their tests beside them, in `tests/harness/`.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from harness.client import RawClient, TooLate, connected, let_others_run, request_bytes
from harness.clock import FakeClock
from harness.often import batches, each_case
from harness.origin import RESET, OriginDouble, ReceivedRequest, Reply, but, hang, running_origin
from harness.pop import environment
from harness.wire import NotHTTP, Truncated

HELLO = Reply(200, [("X-A", "1"), ("x-a", "2")], b"hello")


async def test_a_request_arrives_byte_for_byte(origin: OriginDouble) -> None:
    """The origin records the very bytes that the client sent, and parses them."""
    origin.on("/a?b=%20", HELLO)
    sent = b"GET /a?b=%20 HTTP/1.1\r\nhOST: x\r\nX-Odd:  two  words \r\n\r\n"
    async with connected(origin.port) as client:
        await client.send(sent)
        response = await client.response()

    assert bytes(origin.received[0]) == sent
    assert origin.requests[0].raw == sent
    assert origin.requests[0].fields == [("hOST", "x"), ("X-Odd", "two  words")]
    assert (response.status, response.reason, response.body) == (200, "Scripted", b"hello")
    assert response.fields[:2] == [("X-A", "1"), ("x-a", "2")]
    assert (response.get("x-A"), response.all("X-a")) == ("1, 2", ["1", "2"])


async def test_a_request_sent_byte_by_byte_arrives_whole(origin: OriginDouble) -> None:
    """Per-byte segmentation changes nothing of what arrives; a request begins when its head is whole."""
    origin.on("/", HELLO)
    data = request_bytes("POST", "/", body=b"abc")
    async with connected(origin.port) as client:
        await client.send(data[:-4], "POST", segment=1)

        assert origin.requests == []
        await client.send(data[-4:], None, segment=1)
        assert (await client.response()).body == b"hello"

    assert bytes(origin.requests[0].body) == b"abc"


async def test_pipelined_requests_are_answered_in_order(origin: OriginDouble) -> None:
    """Responses are matched with the methods of the requests sent: a HEAD's has no body."""
    origin.on("/1", Reply(body=b"one"))
    origin.on("/2", Reply(body=b"two"))
    async with connected(origin.port) as client:
        await client.request("HEAD", "/1")
        await client.request("GET", "/2")
        first, second = await client.response(), await client.response()

    assert (first.body, first.get("content-length"), second.body) == (b"", "3", b"two")
    assert origin.connections == 1


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_every_framing_is_read(origin: OriginDouble, framing: str) -> None:
    """A body arrives whole by length, by chunks and by close."""
    origin.on("/", Reply(framing=framing, pieces=[b"ab", b"", b"cde"]))  # type: ignore[arg-type]
    async with connected(origin.port) as client:
        await client.request("GET", "/")

        assert (await client.response()).body == b"abcde"
        if framing == "close":
            assert await client.closed() == "fin"


@pytest.mark.parametrize("status", [204, 304])
async def test_a_status_without_body_ends_at_its_head(origin: OriginDouble, status: int) -> None:
    """After 204 and 304 the next response follows at once, whatever Content-Length says."""
    origin.on("/", Reply(status, [("Content-Length", "9")] if status == 304 else []), HELLO)
    async with connected(origin.port) as client:
        await client.request("GET", "/")
        await client.request("GET", "/")

        assert (await client.response()).status == status
        assert (await client.response()).body == b"hello"


async def test_interim_responses_are_kept_apart(origin: OriginDouble) -> None:
    """1xx responses come with the final one, in their order."""
    origin.on("/", but(HELLO, interim=[(103, [("Link", "</a>")]), (102, [])]))
    async with connected(origin.port) as client:
        await client.request("GET", "/")
        response = await client.response()

    assert [(one.status, one.get("link")) for one in response.interim] == [(103, "</a>"), (102, None)]
    assert response.status == 200


async def test_an_expectation_is_met_before_the_body(origin: OriginDouble) -> None:
    """A request with Expect gets 100 before its body is sent."""
    origin.on("/", HELLO)
    async with connected(origin.port) as client:
        await client.request("POST", "/", [("Expect", "100-continue"), ("Content-Length", "2")])
        assert await client.body_bytes(12) == b"HTTP/1.1 100"
        await client.body_bytes(len(b" Interim\r\n\r\n"))
        await client.send(b"ok", None)

        assert (await client.response()).status == 200
    assert bytes(origin.requests[0].body) == b"ok"


async def test_an_early_answer_precedes_the_body(origin: OriginDouble) -> None:
    """A reply `before_body` is sent at the head of the request."""
    origin.on("/", Reply(413, before_body=True))
    async with connected(origin.port) as client:
        await client.request("POST", "/", [("Content-Length", "9")])

        assert (await client.response()).status == 413


async def test_gates_hold_pieces_of_a_body(origin: OriginDouble) -> None:
    """A piece of the body arrives when its gate opens, not before."""
    gate = asyncio.Event()
    origin.on("/", Reply(pieces=[b"one", b"two"], gates=[None, gate]))
    async with connected(origin.port) as client:
        await client.request("GET", "/")
        await client.response_head()
        assert await client.body_bytes(3) == b"one"
        await let_others_run()
        assert not client.source.buffer
        gate.set()

        assert await client.body_bytes(3) == b"two"


async def test_a_gate_holds_the_whole_reply(origin: OriginDouble) -> None:
    """A reply that waits is sent once its event is set; until then a bounded wait ends with a clear error."""
    wait = asyncio.Event()
    origin.on("/", but(HELLO, wait=wait))
    async with connected(origin.port, within=0.01) as client:
        await client.request("GET", "/")
        await origin.request_seen()
        with pytest.raises(TooLate, match=r"no a response within 0\.01 s"):
            await client.response()
        wait.set()
        client.within = 5

        assert (await client.response()).body == b"hello"


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_a_cut_body_is_a_broken_transfer(origin: OriginDouble, how: str) -> None:
    """A reply that is cut, either way, never reads as whole."""
    origin.on("/", Reply(body=b"x" * 100, cut_at=40, cut_by=how))  # type: ignore[arg-type]
    async with connected(origin.port) as client:
        await client.request("GET", "/")
        response = await client.response_or_broken()

        assert response.broken is not None
        assert len(response.body) == 40
    async with connected(origin.port) as client:
        await client.request("GET", "/")
        with pytest.raises(Truncated):
            await client.response()


@pytest.mark.parametrize(
    ("reply", "what"),
    [
        (Reply(body=b"abc", content_length=9, close=True), "too short"),
        (Reply(framing="chunked", body=b"abc", cut_at=8), "no last chunk"),
        (RESET, "nothing at all"),
    ],
    ids=["content-length", "chunked", "reset"],
)
async def test_lies_are_seen(origin: OriginDouble, reply: Reply, what: str) -> None:
    """A wrong length, an unfinished chunked body and a reset are errors to the client."""
    origin.on("/", reply)
    async with connected(origin.port) as client:
        await client.request("GET", "/")
        with pytest.raises((Truncated, ConnectionResetError)):
            await client.response()


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\n",
    ],
)
async def test_the_reader_is_strict(origin: OriginDouble, raw: bytes) -> None:
    """What RFC 9112 does not allow, the client's reader refuses."""
    origin.on("/", Reply(raw=raw))
    async with connected(origin.port) as client:
        await client.request("GET", "/")
        with pytest.raises(NotHTTP):
            await client.response()


async def test_bytes_after_the_last_response_are_an_error(origin: OriginDouble) -> None:
    """`closed` accepts only the end of the connection."""
    origin.on("/", Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nmore"))
    async with connected(origin.port) as client:
        await client.request("GET", "/")
        await client.response()
        with pytest.raises(NotHTTP, match="bytes after the end"):
            await client.closed()


async def test_what_is_not_http_is_recorded_and_closed(origin: OriginDouble) -> None:
    """The origin notes a malformed request and answers nothing."""
    async with connected(origin.port) as client:
        await client.send(b"GET  / HTTP/1.1\r\n\r\n")
        assert await client.closed() == "fin"

    assert origin.violations == ["not a request line: b'GET  / HTTP/1.1'"]
    assert origin.requests == []


async def test_scripts_run_in_order_and_the_last_stays(origin: OriginDouble) -> None:
    """Several replies are a queue whose last one repeats; a path without script gets a telling 500."""
    origin.on("/", Reply(body=b"1"), Reply(body=b"2"))
    async with connected(origin.port) as client:
        for target in ("/", "/", "/", "/none"):
            await client.request("GET", target)
        bodies = [(await client.response()).body for _ in range(4)]

    assert bodies[:3] == [b"1", b"2", b"2"]
    assert b"scripted no answer" in bodies[3]
    assert (len(origin.requests), origin.connections) == (4, 1)


async def test_a_callable_answers_by_the_request(origin: OriginDouble) -> None:
    """A script may be a function, and versions and echoes are at hand."""
    origin.on("/v", origin.versioned)
    origin.otherwise(origin.echo)
    async with connected(origin.port) as client:
        await client.request("GET", "/v")
        first = await client.response()
        origin.version += 1
        await client.request("GET", "/v")
        second = await client.response()
        await client.request("GET", "/e", [("X-Me", "you")])
        echo = json.loads((await client.response()).body)

    assert [(one.body, one.get("x-ver")) for one in (first, second)] == [
        (b"version 1", "1"),
        (b"version 2", "2"),
    ]
    assert (echo["target"], ["X-Me", "you"] in echo["fields"]) == ("/e", True)


async def test_an_async_callable_may_wait(origin: OriginDouble) -> None:
    """A script may be a coroutine function."""

    async def slow(request: ReceivedRequest) -> Reply:
        await let_others_run()
        return Reply(body=request.target.encode())

    origin.otherwise(slow)
    async with connected(origin.port) as client:
        await client.request("GET", "/x")

        assert (await client.response()).body == b"/x"


async def test_waiting_for_a_request_that_does_not_come_says_so(origin: OriginDouble) -> None:
    """`request_seen` fails within its bound and tells what it saw instead."""
    with pytest.raises(TooLate, match=r"request number 1 within 0\.01 s; 0 seen"):
        await origin.request_seen(within=0.01)


async def test_a_stopped_origin_refuses_and_comes_back_on_its_port(origin: OriginDouble) -> None:
    """An origin can die with requests in flight, and be restarted where it was."""
    origin.on("/", hang(), HELLO)
    async with connected(origin.port) as client:
        await client.request("GET", "/")
        await origin.request_seen()
        await origin.stop()
        assert await client.closed() in ("fin", "rst")
    with pytest.raises(ConnectionRefusedError):
        await RawClient.connect(origin.port)
    await origin.start()
    async with connected(origin.port) as client:
        await client.request("GET", "/")

        assert (await client.response()).body == b"hello"


async def test_a_client_that_leaves_is_noticed(origin: OriginDouble) -> None:
    """A request cut in its body is counted as broken, not recorded as whole."""
    origin.on("/", HELLO)
    async with connected(origin.port) as client:
        await client.request("POST", "/", [("Content-Length", "9")])
        await origin.request_seen()
        client.half_close()
        assert await client.closed() == "fin"

    assert (origin.broken, origin.requests[0].whole) == (1, False)


async def test_a_small_receive_buffer_holds_the_sender_back(origin: OriginDouble) -> None:
    """A client that does not read leaves the origin with bytes it cannot send."""
    origin.on("/", Reply(body=b"x" * 20_000_000))
    async with connected(origin.port, receive_buffer=4096) as client:
        await client.request("GET", "/")
        await client.response_head()
        await let_others_run(200)

        assert len(client.source.seen) < 200_000
        assert len(await client.body_bytes(20_000_000)) == 20_000_000


async def test_an_origin_may_speak_tls(clock: FakeClock, tmp_path: Path) -> None:
    """With a context the origin double answers over TLS, and says https in its URL."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {key} -out {cert}"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)  # noqa: ASYNC221
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    trust = ssl.create_default_context(cafile=str(cert))
    async with running_origin(clock, context) as origin:
        origin.on("/", but(HELLO, close=True))
        reader, writer = await asyncio.open_connection("127.0.0.1", origin.port, ssl=trust)
        writer.write(request_bytes("GET", "/"))

        assert (await reader.read()).endswith(b"hello")
        assert origin.url.startswith("https://127.0.0.1:")
        writer.close()


def test_the_clock_moves_only_when_told() -> None:
    """Time passes forwards by `advance`, and either way by `jump`."""
    clock = FakeClock()
    assert clock() == clock() == 1_700_000_000.0
    clock.advance(1.5)
    assert clock() == 1_700_000_001.5
    clock.jump(-100)
    assert clock() == 1_699_999_901.5
    assert FakeClock().http_date(10) == "Tue, 14 Nov 2023 22:13:30 GMT"
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(-1)


def test_settings_become_an_environment() -> None:
    """A keyword is the setting's name in lower case; the tests' defaults hold where it says nothing."""
    env = environment("http://127.0.0.1:1", {"max_head": "16KiB", "pop": "other"}.items())

    assert env["EDGECACHE_MAX_HEAD"] == "16KiB"
    assert env["EDGECACHE_POP"] == "other"
    assert env["EDGECACHE_ORIGIN"] == "http://127.0.0.1:1"
    assert env["EDGECACHE_ACCESS_LOG"] == "off"


def test_every_case_of_a_table_is_judged() -> None:
    """All that fail are told by their names, each with what it failed by; where none does, nothing is raised."""
    judged = []

    def all_of_them() -> None:
        with each_case() as case:
            for number, name in enumerate(("one", "two", "three", "four")):
                with case(name):
                    judged.append(name)
                    assert number % 2 == 0, f"{number} is odd"

    with pytest.raises(ExceptionGroup, match=r"^cases two, four fail") as failure:
        all_of_them()
    assert judged == ["one", "two", "three", "four"]
    assert [str(error).splitlines()[0] for error in failure.value.exceptions] == ["1 is odd", "3 is odd"]
    with each_case() as case, case("one"):
        pass


def test_no_case_is_left_out_of_the_batches() -> None:
    """Each is in one of them, in order, and a batch is called by its first and last."""
    some = batches("abcdefg", str, size=3)

    assert "".join(one for batch in some for one in batch.values[0]) == "abcdefg"
    assert [batch.id for batch in some] == ["a..c", "d..f", "g..g"]
