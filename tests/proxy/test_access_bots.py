"""Web Bot Auth on a running POP: signatures of a known bot, and those that are none."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from harness.clock import FakeClock
from harness.origin import Reply, running_origin
from harness.sites import two_sites
from harness.tokens import PRIVATE, encoded, key_set, public_jwk
from http_message_signatures import HTTPMessageSigner, HTTPSignatureKeyResolver, algorithms
from hypothesis import given
from hypothesis import strategies as st

from edgecache.config.sites.model import Bots
from edgecache.proxy.access.admission import AccessRefused, Asked
from edgecache.proxy.access.bot_signatures import BotCheck, directory_keys
from edgecache.proxy.access.key_sets import FileKeys
from edgecache.semantics.message import Fields, Request
from edgecache.semantics.rules.conditions import RequestFacts

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
