"""Web Bot Auth on a running POP: signatures of a known bot, and those that are none."""

from __future__ import annotations

import asyncio
import base64
import datetime
import hashlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from harness.client import connected, until
from harness.clock import FakeClock
from harness.origin import OriginDouble, Reply, running_origin
from harness.pop import running_pop
from harness.pop_process import running_pop as running_pop_process
from harness.sites import two_sites
from harness.tokens import PRIVATE, encoded, key_set, public_jwk
from harness.valkey import Server
from http_message_signatures import HTTPMessageSigner, HTTPSignatureKeyResolver, algorithms
from hypothesis import given
from hypothesis import strategies as st

from edgecache.config.sites.model import Bots
from edgecache.proxy.access.admission import AccessRefused, Asked
from edgecache.proxy.access.bot_signatures import BotCheck, directory_keys
from edgecache.proxy.access.key_sets import FileKeys
from edgecache.proxy.access.nonces import MachineNonces, UsedNonces
from edgecache.semantics.message import Fields, Request
from edgecache.semantics.rules.conditions import RequestFacts
from edgecache.semantics.signing.nonces import SLACK, SeenNonces
from edgecache.storage.resident_clock import Clock

WORKER = "edgecache.server.worker:Worker"
HOST = ("Host", "a.test")
RULES = """
[[sites.rules]]
name = "bots"
access.bots = {{ directories = ["{}"], require = true }}
"""


def thumbprint() -> str:
    """The name of the bot's key (RFC 7638)."""
    members = {name: public_jwk("ed")[name] for name in ("crv", "kty", "x")}
    return encoded(hashlib.sha256(json.dumps(members, separators=(",", ":")).encode()).digest())


class Keys(HTTPSignatureKeyResolver):
    """The private key of the bot."""

    def resolve_private_key(self, key_id: str) -> Any:
        """It has but one."""
        return PRIVATE["ed"]


def signed(
    agent: str,
    target: str = "/p",
    *,
    lasts: float = 60,
    tag: str = "web-bot-auth",
    key: str = "",
    covers: Sequence[str] = ("@authority", "signature-agent"),
) -> list[tuple[str, str]]:
    """The fields of a signed request to a.test."""
    headers = {"Host": "a.test", "Signature-Agent": agent}
    message = SimpleNamespace(method="GET", url=f"http://a.test{target}", headers=headers)
    now = datetime.datetime.now(datetime.UTC)
    HTTPMessageSigner(signature_algorithm=algorithms.ED25519, key_resolver=Keys()).sign(
        message,
        key_id=key or thumbprint(),
        created=now + datetime.timedelta(seconds=min(lasts, 0) * 2),
        expires=now + datetime.timedelta(seconds=lasts),
        tag=tag,
        covered_component_ids=covers,
        label="sig1",
        include_alg=True,
    )
    return list(message.headers.items())


async def test_a_known_bot_is_admitted_and_no_other() -> None:
    """As a dictionary and as a string names its agent; the directory is fetched once."""
    async with running_origin(FakeClock()) as operator:
        operator.on("/.well-known/http-message-signatures-directory", Reply(200, [], key_set("ed")))
        async with two_sites(RULES.format(operator.url)) as (pop, a, _):
            for agent in (f'sig1="{operator.url}"', f'"{operator.url}"'):
                fields = signed(agent)
                async with pop.client() as client:
                    for _ in range(4):
                        await client.request("GET", "/p", fields)
                        assert (await client.response()).status == 200
                    await client.request("GET", "/p", [HOST])
                    unsigned = await client.response()
                    assert unsigned.status == 403
                    assert 'tag="web-bot-auth"' in (unsigned.get("accept-signature") or "")
            agent = f'sig1="{operator.url}"'
            good = dict(signed(agent))
            for wrong in (
                {**good, "Host": "b.a.test"},
                {**good, "Signature-Agent": 'sig1="https://other.test"'},
                {**good, "Signature": good["Signature"][:10] + "AAAA" + good["Signature"][14:]},
                {**good, "Signature-Input": good["Signature-Input"].replace("expires=1", "expires=2")},
                {name: value for name, value in good.items() if name != "Signature"},
                {name: value for name, value in good.items() if name != "Signature-Input"},
                dict(signed(agent, lasts=-30)),
                dict(signed(agent, tag="other")),
                dict(signed(agent, key="other")),
                dict(signed(agent, covers=("@authority",))),
                dict(signed(agent, covers=("signature-agent",))),
            ):
                hosts = wrong if wrong.get("Host") == "a.test" else {**wrong, "Host": "x.a.test"}
                for _ in range(3):
                    assert (await pop.get("/p", *hosts.items())).status == 403
            assert len(operator.requests) == 1
            assert len(a.requests) == 1
            assert not [name for name, _ in a.requests[0].fields if name.lower().startswith("signature")]


async def test_a_directory_that_is_down_opens_nothing() -> None:
    """The answer is a 503."""
    async with running_origin(FakeClock()) as operator:
        operator.otherwise(Reply(500))
        async with two_sites(RULES.format(operator.url)) as (pop, a, _):
            assert (await pop.get("/p", *signed(f'sig1="{operator.url}"'))).status == 503
            assert a.requests == []


CHECK = BotCheck(
    Bots(directories=("https://bot.test",), require=True),
    lambda url: FileKeys(directory_keys(key_set("ed"))),  # type: ignore[arg-type,return-value]
    UsedNonces(lambda: 1.7e9, None),
)
TEXT = st.one_of(st.binary(max_size=80), st.text('sig1="()@authoriyk;=:,AZ09 ', max_size=80).map(str.encode))


@given(TEXT, TEXT, TEXT)
def test_whatever_comes_is_refused_by_a_word(signature: bytes, signature_input: bytes, agent: bytes) -> None:
    """The parsers fail in no other way."""
    lines = [(b"Signature", signature), (b"Signature-Input", signature_input), (b"Signature-Agent", agent)]
    asked = Asked(RequestFacts(Request(b"GET", b"/", b"a.test", Fields(lines)), ""), "", 1.7e9)
    with pytest.raises(AccessRefused) as refused:
        CHECK.admit(asked)
    assert refused.value.reason.startswith("bot-")


def signed_by_hand(components: Sequence[str], parameters: str, agent: str = '"https://bot.test"') -> Fields:
    """The fields of a request whose signature is right, whatever it says of itself."""
    values = {"@authority": "a.test", "signature-agent": agent, "@method": "GET", "@path": "/"}
    said = "(" + " ".join(f'"{name}"' for name in components) + ")" + parameters
    base = "\n".join([*(f'"{name}": {values[name]}' for name in components), f'"@signature-params": {said}'])
    signature = base64.b64encode(PRIVATE["ed"].sign(base.encode())).decode()
    lines = {"Signature-Agent": agent, "Signature-Input": f"sig1={said}", "Signature": f"sig1=:{signature}:"}
    return Fields([(name.encode(), value.encode()) for name, value in lines.items()])


COVERED = ("@authority", "signature-agent")


def parameters(**changes: object) -> str:
    """Parameters of a signature; None leaves one out."""
    now = int(time.time())
    usual = {"created": now, "expires": now + 60, "keyid": f'"{thumbprint()}"', "tag": '"web-bot-auth"'}
    return "".join(f";{name}={value}" for name, value in {**usual, **changes}.items() if value is not None)


def verdict(fields: Fields, check: BotCheck = CHECK) -> str:
    """`accepted`, or why not."""
    asked = Asked(RequestFacts(Request(b"GET", b"/", b"a.test", fields), ""), "", time.time())
    try:
        check.admit(asked)
    except AccessRefused as refused:
        return refused.reason
    return "accepted"


NOW = int(time.time())
WRONG: dict[str, tuple[Sequence[str], dict[str, object]]] = {
    "of an unknown algorithm": (COVERED, {"alg": '"none"'}),
    "of an algorithm of secrets": (COVERED, {"alg": '"hmac-sha256"'}),
    "of an algorithm that is no string": (COVERED, {"alg": "ed25519"}),
    "without a host": (("signature-agent", "@method"), {}),
    "without the agent": (("@authority", "@method"), {}),
    "of nothing": ((), {}),
    "for another purpose": (COVERED, {"tag": '"payment"'}),
    "without a purpose": (COVERED, {"tag": None}),
    "of a purpose in another form": (COVERED, {"tag": "web-bot-auth"}),
    "that never ends": (COVERED, {"expires": None}),
    "that has ended": (COVERED, {"created": NOW - 600, "expires": NOW - 300}),
    "that ends at a text": (COVERED, {"expires": '"9999999999"'}),
    "that ends at a fraction": (COVERED, {"expires": f"{NOW + 600}.5"}),
    "of the future": (COVERED, {"created": NOW + 3600, "expires": NOW + 7200}),
    "without its beginning": (COVERED, {"created": None}),
    "of no key": (COVERED, {"keyid": None}),
    "of a key that is a number": (COVERED, {"keyid": 1}),
    "of a key that is a path": (COVERED, {"keyid": '"../../keys"'}),
    "with a parameter of its own": (COVERED, {"trusted": "?1"}),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_right_signature_that_says_the_wrong_thing_is_refused(what: str) -> None:
    """By a closed word each; with what it lacks it is accepted."""
    components, changes = WRONG[what]
    assert verdict(signed_by_hand(components, parameters(**changes))).startswith("bot-"), what
    assert verdict(signed_by_hand(COVERED, parameters(alg='"ed25519"'))) == "accepted"


def test_a_nonce_is_good_once() -> None:
    """A signature with one admits one request; one without admits until it expires."""
    keys = FileKeys(directory_keys(key_set("ed")))
    written = Bots(directories=("https://bot.test",), require=True)
    check = BotCheck(written, lambda url: keys, UsedNonces(lambda: 1.7e9, None))  # type: ignore[arg-type,return-value]
    for nonce in ('"a"', '"b"'):
        fields = signed_by_hand(COVERED, parameters(nonce=nonce))
        assert [verdict(fields, check) for _ in range(3)] == ["accepted", *["bot-signature-replayed"] * 2]
    fields = signed_by_hand(COVERED, parameters())
    assert [verdict(fields, check) for _ in range(3)] == ["accepted"] * 3
    lasting = signed_by_hand(COVERED, parameters(nonce='"d"', expires=int(time.time()) + 90_000))
    assert verdict(lasting, check) == "bot-signature-lasting"
    wrong = signed_by_hand(COVERED, parameters(nonce='"c"', tag='"x"'))
    assert verdict(wrong, check) == "bot-signature-malformed"
    assert (
        verdict(signed_by_hand(COVERED, parameters(nonce='"c"')), check) == "accepted"
    )  # what is refused uses none up


async def test_a_known_head_with_a_nonce_is_refused_too() -> None:
    """Byte for byte the same request, on one connection and on others."""
    async with running_origin(FakeClock()) as operator:
        operator.on("/.well-known/http-message-signatures-directory", Reply(200, [], key_set("ed")))
        async with two_sites(RULES.format(operator.url)) as (pop, a, _):
            fields = signed_by_hand(COVERED, parameters(nonce='"n"'), f'"{operator.url}"')
            lines = [HOST, *((name.decode(), value.decode()) for name, value in fields.lines)]
            statuses = [(await pop.get("/", *lines)).status]
            async with pop.client() as client:
                for _ in range(4):
                    await client.request("GET", "/", lines)
                    statuses.append((await client.response()).status)
            assert statuses == [200, 403, 403, 403, 403]
            assert len(a.requests) == 1


@asynccontextmanager
async def a_site_for_bots(more: str = "") -> AsyncIterator[tuple[str, list[tuple[str, str]], OriginDouble]]:
    """The text of a site for a known bot, the fields of a request that it has signed once, and the site's origin."""
    async with running_origin(FakeClock()) as operator, running_origin(FakeClock()) as origin:
        operator.on("/.well-known/http-message-signatures-directory", *[Reply(200, [], key_set("ed"))] * 9)
        origin.otherwise(Reply(fields=[("Cache-Control", "max-age=60")], body=b"x"))
        text = (
            f'[[sites]]\nname = "a"\nhosts = ["a.test"]\norigin = "{origin.url}"\n' + RULES.format(operator.url) + more
        )
        fields = signed_by_hand(COVERED, parameters(nonce='"n"'), f'"{operator.url}"')
        yield text, [HOST, *((name.decode(), value.decode()) for name, value in fields.lines)], origin


def signed_anew(lines: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The same request with another signature, made now."""
    fields = signed_by_hand(COVERED, parameters(nonce='"anew"'), dict(lines)["Signature-Agent"])
    return [HOST, *((name.decode(), value.decode()) for name, value in fields.lines)]


async def statuses_of(port: int, lines: list[tuple[str, str]], count: int) -> list[int]:
    """Of so many equal requests, each on a connection of its own."""
    found = []
    for _ in range(count):
        async with connected(port) as client:
            await client.request("GET", "/", lines)
            found.append((await client.response()).status)
    return found


@pytest.mark.slow
async def test_workers_share_nonces_through_the_supervisor(caplog: pytest.LogCaptureFixture) -> None:
    """One of them gets it; the supervisor says no more of what was signed before it began; if it is silent, nobody."""
    machine, workers = MachineNonces(lambda: 100.0), [UsedNonces(lambda: 100.0, None) for _ in range(3)]
    for worker in workers:
        worker.send = lambda message, worker=worker: worker.receive(machine.answer(message))  # type: ignore[misc]
    found = await asyncio.gather(*(worker.use(b"n", 100, 200.0) for worker in workers))  # type: ignore[arg-type]
    assert sorted(found) == ["new", "used", "used"]
    assert await workers[0].use(b"m", 99, 200.0) == "unknown"  # type: ignore[misc]
    assert not caplog.records
    workers[1].send = lambda message: None
    assert await workers[1].use(b"o", 100, 200.0) == "unknown"  # type: ignore[misc]
    assert [one.levelname for one in caplog.records] == ["WARNING"]


@pytest.mark.slow
async def test_a_nonce_is_good_once_on_a_machine() -> None:
    """Whichever worker gets its replay, and also once all workers were replaced; the supervisor remembers it."""
    async with a_site_for_bots() as (text, lines, origin):
        with running_pop_process(worker=WORKER, workers=3, sites=text, access_log="off") as pop:
            for _ in range(3):
                await asyncio.to_thread(pop.expect_worker)
            before = await statuses_of(pop.port, lines, 3)  # it was signed before this POP was started
            assert (before[0], 200 in before) == (503, False)
            lines = signed_anew(lines)
            assert await statuses_of(pop.port, lines, 24) == [200] + [403] * 23
            os.kill(pop.process.pid, signal.SIGUSR2)
            for _ in range(3):
                await asyncio.to_thread(pop.expect_worker)
            assert await statuses_of(pop.port, lines, 12) == [403] * 12
            assert len(origin.requests) == 1


async def test_a_nonce_is_good_once_in_a_region(valkey: Server) -> None:
    """Over POPs; while Valkey does not respond, signed requests with a nonce are refused, and others are not."""
    async with a_site_for_bots() as (text, lines, origin), AsyncExitStack() as stack:
        options = {"sites": text, "regional": valkey.url}
        pops = [await stack.enter_async_context(running_pop(origin, Clock(), **options)) for _ in range(3)]
        await until(lambda: bool(valkey.db.keys("ec:{nonce}:since")))
        valkey.db.decrby("ec:{nonce}:since", 60)  # as if it had remembered them for a minute
        assert [(await pop.get("/", *lines)).status for pop in (*pops, *pops)] == [200] + [403] * 5
        (key,) = valkey.db.keys("ec:{nonce}:????????????????????????????????")
        assert 60 <= valkey.db.ttl(key) <= 121
        valkey.db.flushall()
        pops.append(await stack.enter_async_context(running_pop(origin, Clock(), **options)))
        await until(lambda: bool(valkey.db.keys("ec:{nonce}:since")))
        assert (await pops[-1].get("/", *lines)).status == 503  # it may have been used before: nobody knows any more
        valkey.db.decrby("ec:{nonce}:since", 60)
        valkey.db.client_pause(3_000, all=True)
        agent = dict(lines)["Signature-Agent"]
        other = signed_by_hand(COVERED, parameters(nonce='"m"'), agent)
        refused = await pops[0].get("/", HOST, *((name.decode(), value.decode()) for name, value in other.lines))
        assert (refused.status, b"bot-nonce-unknown" in refused.body) == (503, True)
        without = signed_by_hand(COVERED, parameters(), agent)
        answer = await pops[0].get("/", HOST, *((name.decode(), value.decode()) for name, value in without.lines))
        assert answer.status == 200


async def test_an_agent_that_nothing_proves_is_not_passed_on() -> None:
    """Where unsigned requests are admitted: an origin would take it for one that was verified."""
    async with two_sites(RULES.format("https://bot.test").replace("true", "false")) as (pop, a, _):
        assert (await pop.get("/", HOST, ("Signature-Agent", '"https://bot.test"'))).status == 200
        assert a.requests[0].get("signature-agent") is None


async def test_two_rules_use_a_nonce_once() -> None:
    """Both demand the signature of one request; its replay is refused."""
    async with a_site_for_bots(RULES.format("https://other.test").replace('"bots"', '"more"')) as (text, lines, origin):
        text = text.replace("https://other.test", dict(lines)["Signature-Agent"].strip('"'))
        async with running_pop(origin, sites=text) as pop:
            assert [(await pop.get("/", *lines)).status for _ in range(3)] == [200, 403, 403]


def test_no_nonce_is_forgotten_before_its_time() -> None:
    """A memory that is full takes no new ones until old ones have expired."""
    seen = SeenNonces(2, since=5.0)
    assert seen.use(b"a", 4.0, 100.0, 6.0) == "unknown"  # it may have been used before the memory began
    assert [seen.use(name, 5.0, 100.0, 6.0) for name in (b"a", b"b", b"c", b"a")] == ["new", "new", "unknown", "used"]
    assert seen.use(b"a", 5.0, 100.0, 99.0 + SLACK) == "used"
    assert seen.use(b"c", 5.0, 900.0, 100.0 + SLACK) == "new"
    assert len(seen) == 1


async def test_a_directory_is_asked_where_it_is_configured_and_nowhere_else() -> None:
    """Neither where the request says, nor where a redirect leads; a look-alike of the host is another host."""
    async with running_origin(FakeClock()) as operator, running_origin(FakeClock()) as evil:
        evil.otherwise(Reply(200, [], key_set("ed")))
        operator.otherwise(Reply(302, [("Location", f"{evil.url}/.well-known/http-message-signatures-directory")]))
        async with two_sites(RULES.format(operator.url)) as (pop, a, _):
            for agent in (
                evil.url,
                operator.url,
                f"{operator.url}@{evil.url.removeprefix('http://')}",
                "file:///x",
                "",
            ):
                fields = signed_by_hand(COVERED, parameters(), f'"{agent}"')
                lines = [(name.decode(), value.decode()) for name, value in fields.lines]
                assert (await pop.get("/", HOST, *lines)).status in (403, 503), agent
            assert evil.requests == []
            assert a.requests == []
