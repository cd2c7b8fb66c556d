"""The PROXY protocol on the listener: what a trusted balancer says of its client, and everything that is refused."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest
from harness.client import RawClient, let_others_run
from harness.observed import samples
from harness.often import each_case
from harness.origin import OriginDouble, ReceivedRequest, Reply
from harness.pop import Pop, running_pop
from hypothesis import given
from hypothesis import strategies as st

from edgecache.wire.errors import BadRequest
from edgecache.wire.proxy_protocol import LONGEST_V1, LONGEST_V2, SIGNATURE, ProxyHeader, parse_proxy_header

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
SETTINGS = {"trusted_proxies": "127.0.0.1,10.0.0.0/8", "proxy_protocol": "on"}
CLIENT, CLIENT6 = "203.0.113.9", "2001:db8::9"


def v2(command: int = 0x21, family: int = 0x11, body: bytes | None = None, length: int | None = None) -> bytes:
    """A version 2 header; by default PROXY over TCP and IPv4."""
    if body is None:
        body = bytes([203, 0, 113, 9, 10, 0, 0, 1]) + struct.pack("!HH", 4711, 80)
    return SIGNATURE + struct.pack("!BBH", command, family, len(body) if length is None else length) + body


IP6 = bytes.fromhex("20010db8" + "00" * 11 + "09")
BODY6 = IP6 + bytes(16) + struct.pack("!HH", 4711, 80)
MAPPED = bytes(10) + b"\xff\xff" + bytes([203, 0, 113, 9]) + bytes(16) + struct.pack("!HH", 1, 2)
WHOLE = {
    "v1-tcp4": (b"PROXY TCP4 203.0.113.9 10.0.0.1 4711 80\r\n", CLIENT),
    "v1-tcp6": (b"PROXY TCP6 2001:db8::9 ::1 4711 80\r\n", CLIENT6),
    "v1-mapped": (b"PROXY TCP6 ::ffff:203.0.113.9 ::1 0 65535\r\n", CLIENT),
    "v1-unknown": (b"PROXY UNKNOWN\r\n", ""),
    "v1-unknown-with-more": (b"PROXY UNKNOWN ffff:f 1 2 3\r\n", ""),
    "v2-tcp4": (v2(), CLIENT),
    "v2-tcp6": (v2(family=0x21, body=BODY6), CLIENT6),
    "v2-mapped": (v2(family=0x21, body=MAPPED), CLIENT),
    "v2-local": (v2(command=0x20), ""),
    "v2-local-empty": (v2(command=0x20, family=0, body=b""), ""),
    "v2-local-with-rubbish": (v2(command=0x20, family=0, body=b"\xff" * 40), ""),
    "v2-unspecified": (v2(family=0, body=b""), ""),
    "v2-unix": (v2(family=0x31, body=bytes(216)), ""),
    "v2-tlv": (v2(body=v2()[16:] + b"\x04\x00\x02ab" + b"\x20\x00\x00"), CLIENT),
    "v2-longest": (v2(body=v2()[16:] + b"\x04" + struct.pack("!H", 4081) + bytes(4081)), CLIENT),
}
BROKEN = {
    "http": GET,
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01",
    "v1-lower-case": b"proxy TCP4 203.0.113.9 10.0.0.1 4711 80\r\n",
    "v1-other-word": b"PROXY UDP4 203.0.113.9 10.0.0.1 4711 80\r\n",
    "v1-bare-lf": b"PROXY TCP4 203.0.113.9 10.0.0.1 4711 80\n",
    "v1-two-blanks": b"PROXY TCP4  203.0.113.9 10.0.0.1 4711 80\r\n",
    "v1-blank-at-end": b"PROXY TCP4 203.0.113.9 10.0.0.1 4711 80 \r\n",
    "v1-no-port": b"PROXY TCP4 203.0.113.9 10.0.0.1 4711\r\n",
    "v1-port-too-large": b"PROXY TCP4 203.0.113.9 10.0.0.1 65536 80\r\n",
    "v1-port-with-zero": b"PROXY TCP4 203.0.113.9 10.0.0.1 04711 80\r\n",
    "v1-port-signed": b"PROXY TCP4 203.0.113.9 10.0.0.1 +1 80\r\n",
    "v1-short-address": b"PROXY TCP4 203.0.9 10.0.0.1 4711 80\r\n",
    "v1-octal": b"PROXY TCP4 0203.0.113.9 10.0.0.1 4711 80\r\n",
    "v1-6-in-4": b"PROXY TCP4 2001:db8::9 10.0.0.1 4711 80\r\n",
    "v1-4-in-6": b"PROXY TCP6 203.0.113.9 ::1 4711 80\r\n",
    "v1-bad-target": b"PROXY TCP4 203.0.113.9 10.0.0.999 4711 80\r\n",
    "v1-zone": b"PROXY TCP6 fe80::1%eth0 ::1 4711 80\r\n",
    "v1-nul": b"PROXY UNKNOWN \x00\r\n",
    "v1-unknown-glued": b"PROXY UNKNOWNX\r\n",
    "v1-too-long": b"PROXY UNKNOWN " + b"a" * 92 + b"\r\n",
    "v1-endless": b"PROXY UNKNOWN " + b"a" * 5000,
    "v2-wrong-signature": SIGNATURE[:-1] + b"\r" + v2()[12:],
    "v2-version-1": v2(command=0x11),
    "v2-version-3": v2(command=0x31),
    "v2-command-2": v2(command=0x22),
    "v2-family-4": v2(family=0x41),
    "v2-transport-3": v2(family=0x13),
    "v2-datagram": v2(family=0x12),
    "v2-half-unspecified": v2(family=0x10),
    "v2-unspecified-stream": v2(family=0x01),
    "v2-short-ipv4": v2(body=bytes(11)),
    "v2-short-ipv6": v2(family=0x21, body=bytes(35)),
    "v2-ipv6-as-ipv4-length": v2(family=0x21),
    "v2-short-unix": v2(family=0x31, body=bytes(215)),
    "v2-oversized": v2(length=LONGEST_V2 + 1),
    "v2-most-oversized": v2(command=0x20, length=65535),
    "v2-tlv-cut": v2(body=v2()[16:] + b"\x04\x00"),
    "v2-tlv-beyond": v2(body=v2()[16:] + b"\x04\x00\x03ab"),
}


def test_a_whole_header_is_read_and_every_part_of_it_awaits_the_rest() -> None:
    """Cut at each byte; what follows it is left alone."""
    with each_case() as case:
        for name, (header, client) in WHOLE.items():
            with case(name):
                assert [cut for cut in range(1, len(header)) if parse_proxy_header(header[:cut]) is not None] == []
                assert parse_proxy_header(header) == ProxyHeader(client, len(header))
                assert parse_proxy_header(header + GET) == ProxyHeader(client, len(header))


def refused_from(data: bytes) -> int | None:
    """After how many bytes of `data` it is refused; None if it is not."""
    for cut in range(1, len(data) + 1):
        try:
            assert parse_proxy_header(data[:cut]) is None, cut
        except BadRequest:
            return cut
    return None


def test_a_broken_header_is_refused_however_it_is_cut() -> None:
    """At the latest when all of it has come, and never taken for a shorter one."""
    with each_case() as case:
        for name, data in BROKEN.items():
            with case(name):
                assert refused_from(data) is not None
                with pytest.raises(BadRequest):
                    parse_proxy_header(data)


@given(st.binary(min_size=1, max_size=200) | st.binary(max_size=60).map(lambda rest: SIGNATURE + rest))
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    """The reader ends in a header, a wait that is bounded, or a refusal."""
    try:
        header = parse_proxy_header(data)
    except BadRequest:
        return
    if header is None:
        assert len(data) < (16 + LONGEST_V2 if data.startswith(SIGNATURE[: len(data)]) else LONGEST_V1)
    else:
        assert 0 < header.size <= len(data)


# --- on the listener


def whose(request: ReceivedRequest) -> Reply:
    """The client's address as the origin is told it."""
    return Reply(200, [("Cache-Control", "no-store")], (request.get("X-Forwarded-For") or "").encode())


@pytest.mark.parametrize("segment", [None, 1, 13])
async def test_the_origin_is_told_the_client_that_the_balancer_names(origin: OriginDouble, segment: int | None) -> None:
    """On every request of the connection; if it names none, it speaks for itself."""
    origin.otherwise(whose)
    async with running_pop(origin, **SETTINGS) as pop:
        with each_case() as case:
            for name, (header, client) in WHOLE.items():
                with case(name):
                    await tells(pop, header, client, 999 if len(header) > 1000 and segment == 1 else segment)


async def tells(pop: Pop, header: bytes, client: str, segment: int | None) -> None:
    """A connection that begins by `header` is the client's."""
    async with pop.client() as balancer:
        await balancer.send(header, None, segment)
        for _ in range(3):
            await balancer.send(GET, segment=segment)
            assert (await balancer.response()).body.decode() == (client or "127.0.0.1")


async def test_header_and_pipelined_requests_may_come_at_once(origin: OriginDouble) -> None:
    """No byte after the header is lost."""
    origin.otherwise(whose)
    async with running_pop(origin, **SETTINGS) as pop, pop.client() as balancer:
        await balancer.send(WHOLE["v2-tcp6"][0] + GET + GET)
        assert (await balancer.response()).body.decode() == CLIENT6
        assert (await balancer.response("GET")).body.decode() == CLIENT6


async def is_refused(pop: Pop, origin: OriginDouble, data: bytes) -> None:
    """One 4xx, closed, the origin saw nothing, the next clean request succeeds, a counter names the reason."""
    before, refused = len(origin.requests), refusals(pop)
    async with pop.client() as balancer:
        await balancer.send(data + GET)
        response = await balancer.response_or_broken()
        assert response.status == 400
        await balancer.closed()
    assert len(origin.requests) == before
    async with pop.client() as balancer:
        await balancer.send(WHOLE["v1-tcp4"][0] + GET)
        assert (await balancer.response()).status == 200
    assert refusals(pop) == refused + 1


def refusals(pop: Pop) -> float:
    """How many headers of the protocol were refused."""
    return samples(pop.worker.snapshot()).get("edgecache_refused_total,proxy-header", 0)


async def test_what_is_broken_is_refused_before_any_request(origin: OriginDouble) -> None:
    """The reject oracle, for each."""
    origin.otherwise(whose)
    async with running_pop(origin, **SETTINGS) as pop:
        with each_case() as case:
            for name, data in BROKEN.items():
                with case(name):
                    await is_refused(pop, origin, data)


@pytest.mark.parametrize("name", ["v1-tcp4", "v2-tcp4", "v2-local"])
async def test_nobody_else_may_say_it(origin: OriginDouble, name: str) -> None:
    """From a peer that is not trusted it is a malformed request, whether the protocol is on or off."""
    origin.otherwise(whose)
    for settings in ({"trusted_proxies": "10.0.0.0/8", "proxy_protocol": "on"}, {"trusted_proxies": "127.0.0.1"}):
        async with running_pop(origin, **settings) as pop, pop.client() as client:
            await client.send(WHOLE[name][0] + GET)
            assert (await client.response_or_broken()).status == 400
    assert origin.requests == []


async def test_others_are_served_without_it(origin: OriginDouble) -> None:
    """Only who is trusted has to say it."""
    origin.otherwise(whose)
    async with running_pop(origin, trusted_proxies="10.0.0.0/8", proxy_protocol="on") as pop:
        assert (await pop.get("/")).body == b"127.0.0.1"


async def test_a_client_named_by_the_header_is_not_believed_more(origin: OriginDouble) -> None:
    """Trust goes by the address that it names: its own X-Forwarded-For counts only if that is trusted."""
    origin.otherwise(whose)
    forged = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 198.51.100.66\r\n\r\n"
    async with running_pop(origin, **SETTINGS) as pop, pop.client() as balancer:
        await balancer.send(WHOLE["v1-tcp4"][0] + forged)
        assert (await balancer.response()).body.decode() == CLIENT


async def test_who_waits_when_the_worker_drains_may_still_say_it(origin: OriginDouble) -> None:
    """Connections that wait to be accepted begin as all others do, and are answered."""
    origin.otherwise(whose)
    async with running_pop(origin, **SETTINGS) as pop:
        with socket.create_connection(("127.0.0.1", pop.port)) as balancer:  # the event loop does not turn meanwhile
            balancer.sendall(WHOLE["v1-tcp4"][0] + GET)
            balancer.shutdown(socket.SHUT_WR)
            await asyncio.wait_for(pop.worker.drain(), 10)
            balancer.settimeout(5)
            answer = balancer.makefile("rb").read()

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(CLIENT.encode())


async def held(pop: Pop, data: bytes) -> RawClient:
    """A connection that has said so much."""
    client = await pop.open()
    if data:
        await client.send(data, None)
    for _ in range(10):
        await let_others_run()
    return client


@pytest.mark.parametrize("said", [b"", b"PROXY TCP4 203", SIGNATURE[:5], v2()[:-1]])
async def test_who_does_not_finish_it_is_cut_off(origin: OriginDouble, said: bytes) -> None:
    """After the deadline of a head; and one that leaves is forgotten."""
    async with running_pop(origin, **SETTINGS, head_timeout="10s") as pop:
        slow, gone = await held(pop, said), await held(pop, said)
        assert len(pop.worker._listeners.pending) == 2
        gone.close()
        for _ in range(10):
            await let_others_run()
        (waiting,) = pop.worker._listeners.pending
        waiting.sweep(pop.worker.clock() + 9)
        assert pop.worker._listeners.pending
        waiting.sweep(pop.worker.clock() + 11)
        assert (await slow.response_or_broken("GET")).status == 408
        assert not pop.worker._listeners.pending
        slow.close()


async def test_the_client_that_it_names_counts_for_the_bound_by_address(origin: OriginDouble) -> None:
    """Not the balancer; and whoever leaves makes room."""
    origin.otherwise(whose)
    async with running_pop(origin, **SETTINGS, max_connections_per_address="1") as pop:
        for _ in range(3):
            async with pop.client() as first, pop.client() as second, pop.client() as other:
                for client, header, status in (
                    (first, "v1-tcp4", 200),
                    (second, "v2-tcp4", 503),
                    (other, "v2-tcp6", 200),
                ):
                    await client.send(WHOLE[header][0] + GET)
                    assert (await client.response_or_broken()).status == status
            for _ in range(10):
                await let_others_run()


async def test_stopping_ends_who_has_said_nothing_yet(origin: OriginDouble) -> None:
    """No connection is left behind."""
    async with running_pop(origin, **SETTINGS) as pop:
        client = await held(pop, b"PROXY")
    await client.closed()
    client.close()
