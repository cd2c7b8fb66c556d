"""The fault proxy between the raw client and the origin double."""

from __future__ import annotations

import pytest

from harness.client import TooLate, connected, let_others_run
from harness.fault_proxy import running_proxy
from harness.origin import OriginDouble, Reply

HELLO = Reply(200, [("X-A", "1"), ("x-a", "2")], b"hello")


async def test_the_proxy_relays_unharmed(origin: OriginDouble) -> None:
    """Without faults, the relay changes nothing, half-closing included."""
    origin.on("/", Reply(body=b"x" * 300_000, close=True))
    async with running_proxy(origin.port) as proxy, connected(proxy.port) as client:
        await client.request("GET", "/")
        client.half_close()

        assert len((await client.response()).body) == 300_000
        assert await client.closed() == "fin"
        assert proxy.up.passed == len(origin.received[0])


async def test_latency_and_bandwidth_are_waited_for(origin: OriginDouble) -> None:
    """Latency is asked of the clock once a piece, bandwidth in proportion to its bytes."""
    origin.on("/", HELLO)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async with running_proxy(origin.port, sleep) as proxy, connected(proxy.port) as client:
        proxy.up.latency = 7
        proxy.down.bandwidth = 100
        await client.request("GET", "/")
        response = await client.response()

    assert slept[0] == pytest.approx(7, abs=0.5)
    assert sum(slept[1:]) == pytest.approx((len(response.head.raw) + 5) / 100)


async def test_a_blackhole_swallows_one_direction(origin: OriginDouble) -> None:
    """What goes into a blackhole never arrives, and nobody is told; after `heal` bytes pass again."""
    origin.on("/", HELLO)
    async with running_proxy(origin.port) as proxy, connected(proxy.port, within=0.01) as client:
        proxy.down.blackhole = True
        await client.request("GET", "/")
        await origin.request_seen()
        with pytest.raises(TooLate):
            await client.response()
        proxy.heal()
        client.within = 5
        await client.request("GET", "/")

        assert (await client.response()).body == b"hello"


async def test_a_stall_holds_both_directions_until_healed(origin: OriginDouble) -> None:
    """A stalled relay keeps the bytes and delivers them when it heals."""
    origin.on("/", HELLO)
    async with running_proxy(origin.port) as proxy, connected(proxy.port) as client:
        proxy.stall()
        await client.request("GET", "/")
        await let_others_run()
        assert origin.requests == []
        proxy.heal()

        assert (await client.response()).body == b"hello"


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_the_proxy_cuts_after_a_byte(origin: OriginDouble, how: str) -> None:
    """A connection is cut once so many bytes have passed, and the origin's side with it."""
    origin.on("/", Reply(body=b"x" * 1000))
    async with running_proxy(origin.port) as proxy, connected(proxy.port) as client:
        proxy.down.cut_after, proxy.down.cut_by = 400, how  # type: ignore[assignment]
        await client.request("GET", "/")
        response = await client.response_or_broken()

        assert response.broken is not None
        assert len(response.head.raw) + len(response.body) == 400


async def test_the_proxy_corrupts_one_byte(origin: OriginDouble) -> None:
    """One byte at an offset comes through with its bits flipped."""
    origin.on("/", HELLO)
    async with running_proxy(origin.port) as proxy:
        async with connected(proxy.port) as client:
            await client.request("GET", "/")
            whole = await client.response()
        proxy.down.corrupt_at = len(whole.head.raw) + 1
        async with connected(proxy.port) as client:
            await client.request("GET", "/")

            assert (await client.response()).body == b"h" + bytes([ord("e") ^ 0xFF]) + b"llo"


async def test_the_proxy_resets_what_is_open(origin: OriginDouble) -> None:
    """Every open connection ends by RST at once; new ones are relayed."""
    origin.on("/", HELLO)
    async with running_proxy(origin.port) as proxy, connected(proxy.port) as client:
        await client.request("GET", "/")
        await client.response()
        proxy.reset_all()
        assert await client.closed() == "rst"
        async with connected(proxy.port) as again:
            await again.request("GET", "/")

            assert (await again.response()).status == 200
