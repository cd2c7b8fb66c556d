"""Middleware and the fast path: what it reads keys a hit, and what declares nothing turns the fast path off.

Two POPs are told the same, one of which knows only the long way (`hostile/twins.py`). A middleware that looks at a
cookie is planted in both; no response may go to another cookie than the one that it was made for.
"""

from __future__ import annotations

import random
from typing import Any, ClassVar, Self

import pytest
from harness.often import slow
from harness.origin import OriginDouble, Reply
from harness.pop import running_pop
from hostile.heads import FRESH, OVER_TLS, PROXY, SETTINGS, a_head, fill, head, reads, request, something_happens
from hostile.twins import PEER, Twins

from edgecache.proxy import pipeline
from edgecache.proxy.hooks import BYPASS, NOTHING, Bypass, Context, Middleware
from edgecache.semantics.message import Fields, Request, Response
from edgecache.semantics.unkeyed_fields import HARMLESS
from edgecache.wire.exchange import Exchange
from edgecache.wire.response import FullResponse, local_reply

COOKIES = (b"one", b"two", b"en", b"")


class Planted(Middleware):
    """A middleware that is always configured."""

    order = 850

    @classmethod
    def configured(cls, context: Context) -> Self:
        """Always."""
        return cls()


class KeysByCookie(Planted):
    """Makes the cookie a part of the key, and lets some past the cache; declares nothing."""

    def on_lookup(self, exchange: Exchange) -> bytes | Bypass:
        """What is keyed by."""
        cookie = exchange.request.fields.get(b"cookie") or b""
        return BYPASS if cookie == b"en" else cookie


class RefusesByCookie(Planted):
    """Refuses some cookies; declares nothing."""

    def on_request(self, exchange: Exchange) -> FullResponse | None:
        """What is refused."""
        cookie = exchange.request.fields.get(b"cookie") or b""
        return local_reply(403, "cookie", "not with this cookie") if b"two" in cookie else None


def declared(kind: type[Middleware], *names: bytes) -> type[Middleware]:
    """The same, declaring that it reads these fields."""
    return type(kind.__name__, (kind,), {"reads": frozenset(names)})


def plant(monkeypatch: pytest.MonkeyPatch, kind: type[Middleware]) -> None:
    """Register one more middleware."""
    monkeypatch.setattr(pipeline, "REGISTRY", [*pipeline.REGISTRY, kind])


def store_by_cookie(twins: Twins) -> None:
    """A response of its own for each cookie."""
    for cookie in COOKIES:
        for target in (b"/a", b"/b", b"/j"):
            asked = request(target, (b"Cookie", cookie))
            twins.store(asked._replace(group=group_of(cookie)), [FRESH], b"for " + cookie)


def group_of(cookie: bytes) -> bytes:
    """What the key of a request with that cookie has beside its URL."""
    exchange: Any = type("Asked", (), {"request": request(b"/", (b"Cookie", cookie))})()
    look_up = pipeline.lookup_of((lambda _: cookie,))
    assert look_up is not None
    look_up(exchange)
    group: bytes = exchange.request.group
    return group


async def ask_at_random(twins: Twins, seed: str, count: int) -> None:
    """Generated heads of clients of all kinds."""
    dice = random.Random(seed)
    clients = [(PEER, b"http", b""), (PROXY, b"http", b""), (PEER, b"https", OVER_TLS)]
    for number in range(count):
        if number % 40 == 0:
            something_happens(dice, twins)
            store_by_cookie(twins)
        if number % 60 == 0:
            twins.tell(*dice.choice(clients))
        await twins.agree(*reads(dice, a_head(dice)))
        target, cookie = dice.choice((b"/a", b"/b", b"/j")), dice.choice(COOKIES)
        answer = await twins.agree(head(target, b"Cookie: " + cookie, b"X-Request-Id: %d" % number))
        assert b"\r\n\r\nfor " not in answer or answer.endswith(b"\r\n\r\nfor " + cookie)


@pytest.mark.parametrize("seed", [1, slow(2)])
@pytest.mark.parametrize("name", ["plain", "behind a proxy", "one site"])
@pytest.mark.parametrize("kind", [KeysByCookie, RefusesByCookie])
async def test_what_declares_nothing_shares_nothing(
    kind: type[Middleware], name: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs the fast path, over the generated heads of the twins: no response goes to another cookie."""
    plant(monkeypatch, kind)
    twins = Twins(**SETTINGS[name])
    fill(twins)
    await ask_at_random(twins, f"{name} {seed}", 400)
    assert (twins.quick.alike, len(twins.quick.worker.edge.known)) == (0, 0)
    await twins.end()


@pytest.mark.parametrize("kind", [KeysByCookie, RefusesByCookie])
async def test_what_declares_a_field_is_keyed_by_it(kind: type[Middleware], monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast path stays: cookies key a hit, everything else that is harmless does not."""
    plant(monkeypatch, declared(kind, b"cookie"))
    twins = Twins()
    fill(twins)
    assert twins.quick.worker.pipeline.unkeyed == HARMLESS - {b"cookie"}
    await ask_at_random(twins, "declared", 600)
    assert twins.quick.alike > 50
    await twins.end()


@pytest.mark.parametrize("kind", [KeysByCookie, RefusesByCookie])
async def test_what_declares_another_field_is_found(kind: type[Middleware], monkeypatch: pytest.MonkeyPatch) -> None:
    """These twins do find a response that is shared: by a middleware that declares what it does not read."""
    plant(monkeypatch, declared(kind, b"accept-language"))
    twins = Twins()
    fill(twins)
    with pytest.raises(AssertionError):
        await ask_at_random(twins, "declared", 600)
    await twins.end()


def test_what_adds_fields_by_a_request_is_no_match_for_shared_heads() -> None:
    """All who get a stored response share its head: fields added to it may follow from none of the request's."""

    class Adds(Planted):
        def on_deliver(self) -> None:
            """Add."""

    assert pipeline.is_undeclared(Adds())
    assert pipeline.is_undeclared(declared(Adds, b"cookie")())
    assert not pipeline.is_undeclared(type("Adds", (Adds,), {"reads": NOTHING})())
    assert not pipeline.is_undeclared(Planted())


def test_all_middleware_that_exists_declares_what_it_reads() -> None:
    """So the fast path is on whatever is configured; every class has its own place in the order."""
    assert all(kind.reads is not None for kind in pipeline.REGISTRY)
    assert len({kind.order for kind in pipeline.REGISTRY}) == len(pipeline.REGISTRY)


async def test_what_is_not_configured_costs_nothing() -> None:
    """Without settings, four pieces of middleware are in the way of a parsed head, and none in that of a known one."""
    twins = Twins()
    worker = twins.quick.worker
    worker._tls = None
    worker.compose(worker._settings, None)
    names = [type(one).__name__ for one in worker.pipeline.middleware]
    assert names == ["PeerAuthentication", "ClientClaims", "ForwardingLimits", "Purge"]
    assert worker.answer_known == worker.edge.fast_path.answer
    assert worker.edge.on_lookup is None
    assert worker.answered.__name__ == worker._request_log.answered.__name__
    await twins.end()


class Upstream(Planted):
    """Adds a field to what is asked and to what is stored, and one to what is logged."""

    reads = NOTHING
    logged: ClassVar[list[int]] = []

    def on_fetch(self, request: Request, fields: Fields) -> Fields:
        """Ask with a field more."""
        return fields.plus((b"X-Asked-By", b"middleware"))

    def on_response(self, request: Request, response: Response) -> Response:
        """Store with a field more."""
        return response._replace(fields=response.fields.plus((b"X-Stored-By", b"middleware")))

    def on_log(self, exchange: Exchange, took: float, tally: object) -> None:
        """Note the status."""
        self.logged.append(exchange.status)


@pytest.mark.parametrize("cacheable", ["max-age=60", "no-store"])
async def test_what_goes_upstream_and_comes_from_there_passes_the_hooks(
    cacheable: str, origin: OriginDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of misses, hits and passes; and every response that was no hit of the fast path is logged."""
    plant(monkeypatch, Upstream)
    monkeypatch.setattr(Upstream, "logged", [])
    origin.otherwise(Reply(200, [("Cache-Control", cacheable)], b"x"))
    async with running_pop(origin) as pop:
        for _ in range(4):
            answer = await pop.get("/")
            assert answer.all("X-Stored-By") == ["middleware"]
    assert {asked.get("X-Asked-By") for asked in origin.requests} == {"middleware"}
    assert len(origin.requests) == (1 if cacheable == "max-age=60" else 4)
    assert len(Upstream.logged) >= 1
    assert set(Upstream.logged) == {200}
