"""JSON Web Tokens: what is accepted and what is refused, beside PyJWT, by fuzzing and on a running POP."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from harness.clock import FakeClock
from harness.origin import Reply, running_origin
from harness.pop import Pop
from harness.sites import two_sites
from harness.tokens import ALGORITHM, PRIVATE, SECRET, encoded, key_set, public_jwk, public_pem, raw_token
from hypothesis import given
from hypothesis import strategies as st

from edgecache.config.sites.compiler import glob
from edgecache.config.sites.model import Jwt
from edgecache.proxy.access.admission import AccessRefused, Asked
from edgecache.proxy.access.json_web_tokens import Claims, Refused, TokenCheck, taken_apart
from edgecache.proxy.access.key_sets import FileKeys
from edgecache.semantics.message import Fields, Request
from edgecache.semantics.rules.conditions import RequestFacts
from edgecache.semantics.signing.token_keys import keys_of

HOST = ("Host", "a.test")
NOW = 1_700_000_000
ALGORITHMS = ("RS256", "ES256", "EdDSA", "HS256")


def signed(name: str = "rsa", /, headers: dict[str, Any] | None = None, algorithm: str = "", **claims: Any) -> str:
    """A token that the key of that name has signed; `exp` is in an hour unless it is given."""
    key = SECRET if name == "secret" else PRIVATE[name]
    claims = {name: value for name, value in {"exp": NOW + 3600, **claims}.items() if value is not None}
    return pyjwt.encode(claims, key, algorithm or ALGORITHM[name], headers={"kid": name, **(headers or {})})


def check_of(*names: str, **options: Any) -> TokenCheck:
    """A check by the keys of these names."""
    written = Jwt(keys="x", **{"algorithms": ALGORITHMS, **options})
    return TokenCheck(written, FileKeys(keys_of(key_set(*names))), Claims(written, glob))


def verdict(check: TokenCheck, token: bytes | str, *more: tuple[bytes, bytes]) -> str:
    """`accepted`, or why not."""
    value = token if isinstance(token, bytes) else token.encode()
    fields = Fields([(b"Authorization", b"Bearer " + value), *more])
    asked = Asked(RequestFacts(Request(b"GET", b"/", b"a.test", fields), "192.0.2.1"), "192.0.2.1", NOW)
    try:
        check.admit(asked)
    except AccessRefused as refused:
        return refused.reason
    return "accepted"


FORGED = {
    "a good one": (signed(), "accepted"),
    "of ECDSA": (signed("p256"), "accepted"),
    "of Ed25519": (signed("ed"), "accepted"),
    "with the audience among others": (signed(aud=["x", "y"]), "token-audience"),
    "expired": (signed(exp=NOW - 31), "token-expired"),
    "expired within the leeway": (signed(exp=NOW - 29), "accepted"),
    "not yet valid": (signed(nbf=NOW + 31), "token-not-yet-valid"),
    "alg none": (raw_token({"alg": "none"}, {"exp": NOW + 9}), "token-algorithm"),
    "alg None": (raw_token({"alg": "NonE"}, {"exp": NOW + 9}), "token-algorithm"),
    "alg none with a signature": (raw_token({"alg": "none"}, {"exp": NOW + 9}, b"x"), "token-algorithm"),
    "no alg": (raw_token({"kid": "rsa"}, {"exp": NOW + 9}, b"x"), "token-malformed"),
    "alg is a list": (raw_token({"alg": ["RS256"]}, {}, b"x"), "token-malformed"),
    "an algorithm that is not listed": (signed(algorithm="RS512"), "token-algorithm"),
    "another key": (signed("rsa-2", {"kid": "rsa"}), "token-signature"),
    "an unknown key": (signed("rsa-2"), "token-key"),
    "its own key": (signed("rsa-2", {"kid": "x", "jwk": public_jwk("rsa-2")}), "token-key"),
    "its own key set": (signed("rsa-2", {"kid": "x", "jku": "http://127.0.0.1/"}), "token-key"),
    "a path for a kid": (signed("rsa-2", {"kid": "../../dev/null"}), "token-key"),
    "critical extensions": (signed(headers={"crit": ["x"], "x": 1}), "token-malformed"),
    "an unencoded payload": (signed(headers={"b64": False}), "token-malformed"),
    "no signature": (signed().rpartition(".")[0] + ".", "token-signature"),
    "two parts": (signed().rpartition(".")[0], "token-malformed"),
    "four parts": (signed() + ".x", "token-malformed"),
    "no JSON": (f"{encoded(b'x')}.{encoded(b'y')}.", "token-malformed"),
    "huge": (signed(x="x" * 9000), "token-too-long"),
    "deep": (f"{encoded(b'[' * 3000)}.{encoded(b'{}')}.x", "token-malformed"),
}


@pytest.mark.parametrize("what", FORGED)
def test_forged_tokens_are_refused(what: str) -> None:
    """By a closed word each."""
    token, expected = FORGED[what]
    check = check_of("rsa", "p256", "ed")
    assert verdict(check, token) == expected
    assert verdict(check, token) == expected  # by memory, too


def hmac_by_public_key(pem: bytes, kid: str | None) -> str:
    """A token signed by HMAC with a public key as the secret (CVE-2015-9235)."""
    import hashlib
    import hmac

    header = {"alg": "HS256"} | ({"kid": kid} if kid else {})
    start = raw_token(header, {"exp": NOW + 9}).rpartition(".")[0]
    return start + "." + encoded(hmac.digest(pem, start.encode(), hashlib.sha256))


def test_a_public_key_is_no_secret() -> None:
    """Neither named, nor unnamed, nor out of a PEM file, though HS256 is listed and a secret is in the set."""
    for kid in ("rsa", None):
        token = hmac_by_public_key(public_pem("rsa"), kid)
        assert verdict(check_of("rsa", "secret"), token) in ("token-key", "token-signature")
        written = Jwt(keys="x", algorithms=("RS256", "HS256"))
        pem = TokenCheck(written, FileKeys(keys_of(public_pem("rsa"))), Claims(written, glob))
        assert verdict(pem, token) == "token-key"
        assert verdict(pem, signed()) == "accepted"


def test_claims_are_matched() -> None:
    """Issuer, audience, and others by globs, through dots and in lists."""
    check = check_of("rsa", issuer="me", audience="us", claims={"realm.roles": ("admin", "edit*"), "n": "1"})
    good = {"iss": "me", "aud": ["us", "them"], "realm": {"roles": ["x", "editor"]}, "n": 1}
    assert verdict(check, signed(**good)) == "accepted"
    for change, reason in (
        ({"iss": "you"}, "token-issuer"),
        ({"iss": None}, "token-issuer"),
        ({"iss": ["me"]}, "token-issuer"),
        ({"aud": "them"}, "token-audience"),
        ({"aud": None}, "token-audience"),
        ({"aud": ["us", 1]}, "token-audience"),
        ({"realm": {"roles": "viewer"}}, "token-claims"),
        ({"realm": "admin"}, "token-claims"),
        ({"n": True}, "token-claims"),
        ({"nbf": "now"}, "token-malformed"),
        ({"exp": True}, "token-malformed"),
    ):
        token = signed_anyhow({**good, **change})
        assert verdict(check, token) == reason, change


def signed_anyhow(claims: dict[str, Any]) -> str:
    """A token of claims that PyJWT would not sign."""
    claims = {name: value for name, value in {"exp": NOW + 9, **claims}.items() if value is not None}
    start = raw_token({"alg": "RS256", "kid": "rsa"}, claims).rpartition(".")[0]
    return start + "." + encoded(PRIVATE["rsa"].sign(start.encode(), padding.PKCS1v15(), hashes.SHA256()))


def test_verdicts_are_those_of_pyjwt(monkeypatch: pytest.MonkeyPatch) -> None:
    """600 tokens, good and bad in one way or several: accepted by both or by neither."""
    lots = random.Random(1)
    names = ("rsa", "p256", "ed", "secret")
    keys = {name: pyjwt.PyJWK(public_jwk(name) | {"alg": ALGORITHM[name]}) for name in names}
    check = check_of(*names, issuer="me", audience="us")
    shift = time.time() - NOW
    accepted = 0
    for _ in range(600):
        name = lots.choice(names)
        claims: dict[str, Any] = {"exp": lots.choice((NOW + 3600, NOW + 60, NOW - 20, NOW - 60, None))}
        claims["nbf"] = lots.choice((None, None, NOW - 5, NOW + 20, NOW + 60))
        claims["iss"] = lots.choice(("me", "me", "me", "you", None))
        claims["aud"] = lots.choice(("us", ["us", "x"], "us", "them", ["x"], None))
        claims["n"] = lots.random()
        token = altered(lots, signed(name, **claims))
        try:
            later = pyjwt.decode(
                token,
                keys[name],
                [ALGORITHM[name]],
                audience="us",
                issuer="me",
                leeway=30,
                options={"verify_exp": False, "verify_nbf": False, "verify_iat": False, "strict_aud": False},
            )
            oracle = later.get("exp", NOW + 1) + 30 > NOW and later.get("nbf", 0) - 30 <= NOW
        except pyjwt.PyJWTError:
            oracle = False
        accepted += oracle
        assert (verdict(check, token) == "accepted") is oracle, (token, claims)
    assert 50 < accepted < 400, shift


def altered(lots: random.Random, token: str) -> str:
    """Every third token with one character changed, a part swapped or cut."""
    if lots.random() > 0.33:
        return token
    at = lots.randrange(len(token) - 2)
    parts = token.split(".")
    return lots.choice(
        (
            token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :],
            ".".join([parts[0], encoded(b'{"iss":"me","aud":"us"}'), parts[2]]),
            token[:at],
            ".".join([parts[0], parts[1], parts[2][::-1]]),
        )
    )


@given(st.one_of(st.binary(max_size=300), st.text("abcAZ019-_.=", max_size=300).map(str.encode)))
def test_whatever_comes_is_refused_by_a_word(token: bytes) -> None:
    """The parser fails in no other way, and accepts nothing."""
    with suppress(Refused):
        taken_apart(token)
    assert verdict(CHECK, token).startswith("token-")


CHECK = check_of("rsa")


RULES = """
[[sites.rules]]
name = "api"
access.jwt = {{ {} }}
"""


async def status_of(pop: Pop, *fields: tuple[str, str], target: str = "/p", times: int = 1) -> set[int]:
    """The statuses of equal requests on one connection."""
    async with pop.client() as client:
        found = set()
        for _ in range(times):
            await client.request("GET", target, [HOST, *fields])
            found.add((await client.response()).status)
        return found


def bearer(token: str) -> tuple[str, str]:
    """The field that a client sends."""
    return "Authorization", f"Bearer {token}"


async def test_one_stored_response_for_all_tokens(tmp_path: Path) -> None:
    """It is fetched without the token, shared by all who have one, and refused to all others, known heads too."""
    (tmp_path / "keys").write_bytes(key_set("rsa"))
    async with two_sites(RULES.format(f'keys = "{tmp_path}/keys", cookie = "t"')) as (pop, a, _):
        for number in range(4):
            token = signed(sub=str(number))
            assert await status_of(pop, bearer(token), times=4) == {200}
            assert await status_of(pop, ("Cookie", f"x=1; t={token}"), times=4) == {200}
        assert await status_of(pop, times=4) == {401}
        assert await status_of(pop, bearer(signed("rsa-2")), times=4) == {401}
        assert len(a.requests) == 1
        assert a.requests[0].get("authorization") is None
        assert "t=" not in (a.requests[0].get("cookie") or "")
        hit = await pop.get("/p", HOST, bearer(signed()))
        assert "hit" in (hit.get("cache-status") or "")


async def test_a_known_head_is_refused_once_its_token_has_expired(tmp_path: Path) -> None:
    """At the second, leeway included; a repeated field and other schemes are refused."""
    (tmp_path / "keys").write_bytes(key_set("rsa"))
    async with two_sites(RULES.format(f'keys = "{tmp_path}/keys"')) as (pop, _, _b):
        token = signed(exp=NOW + 20)
        async with pop.client() as client:
            for _ in range(5):
                await client.request("GET", "/p", [HOST, bearer(token)])
                assert (await client.response()).status == 200
            pop.clock.advance(49)
            await client.request("GET", "/p", [HOST, bearer(token)])
            assert (await client.response()).status == 200
            pop.clock.advance(2)
            await client.request("GET", "/p", [HOST, bearer(token)])
            response = await client.response()
            assert response.status == 401
            assert 'error="invalid_token"' in (response.get("www-authenticate") or "")
        assert await status_of(pop, bearer(signed()), bearer(signed())) <= {400, 401}
        assert await status_of(pop, ("Authorization", f"Bearer {signed()}, Bearer x")) == {401}
        assert await status_of(pop, ("Authorization", "Basic dTpw")) == {401}


async def test_credentials_that_are_passed_are_not_shared(tmp_path: Path) -> None:
    """With `pass_credentials` RFC 9111 §3.5 holds: the origin gets the token, and what it says is for one client."""
    (tmp_path / "keys").write_bytes(key_set("rsa"))
    async with two_sites(RULES.format(f'keys = "{tmp_path}/keys", pass_credentials = true')) as (pop, a, _):
        for number in range(3):
            assert await status_of(pop, bearer(signed(sub=str(number))), times=2) == {200}
        assert len(a.requests) == 6
        assert all((request.get("authorization") or "").startswith("Bearer ") for request in a.requests)


async def test_key_sets_rotate() -> None:
    """Fetched once, again for an unknown key at most every 30 seconds, kept while the server is down."""
    clock = FakeClock()
    async with running_origin(clock) as issuer:
        names = ["rsa"]
        issuer.on("/jwks", lambda _: Reply(200, [], key_set(*names)))
        async with two_sites(RULES.format(f'jwks = "{issuer.url}/jwks"')) as (pop, _, _b):
            old, new = bearer(signed("rsa")), bearer(signed("rsa-2"))
            for _ in range(3):
                assert await status_of(pop, old, times=3) == {200}
                assert await status_of(pop, new) == {401}
            assert len(issuer.requests) == 1
            names[:] = ["rsa-2"]
            assert await status_of(pop, new) == {401}
            pop.clock.advance(31)
            assert await status_of(pop, new, times=3) == {200}
            assert len(issuer.requests) == 2
            assert await status_of(pop, old) == {401}  # it is known no more, in no memory
            issuer.on("/jwks", Reply(500))
            for _ in range(3):
                pop.clock.advance(100)
                assert await status_of(pop, new) == {200}
                assert await status_of(pop, bearer(signed("ed", exp=NOW + 9999))) == {401}
            assert len(issuer.requests) == 5


async def test_without_keys_nothing_is_admitted() -> None:
    """A server that cannot be reached is a 503, not a door."""
    async with running_origin(FakeClock()) as issuer:
        issuer.on("/jwks", Reply(200, [], b"{}"))
        async with two_sites(RULES.format(f'jwks = "{issuer.url}/jwks"')) as (pop, a, _):
            assert await status_of(pop, bearer(signed()), times=3) == {503}
            assert len(issuer.requests) == 1
            assert a.requests == []


async def test_tokens_are_in_no_log_and_no_metric(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither good nor bad ones, in no part."""
    (tmp_path / "keys").write_bytes(key_set("rsa"))
    caplog.set_level(0)
    async with two_sites(RULES.format(f'keys = "{tmp_path}/keys"'), access_log="1") as (pop, _, _b):
        for token in (signed(), signed("rsa-2"), "secret-token-of-a-client"):
            response = await pop.get("/p", HOST, bearer(token))
            for text in (caplog.text, str(pop.worker.snapshot()), response.body.decode("latin-1")):
                assert token[-20:] not in text


def test_odd_tokens_are_refused_or_read_as_rfc_7515_says() -> None:
    """Names that are written twice count once, the last; a token in a token is none; no signature is a signature."""
    check = check_of("rsa", "p256", audience="us")
    twice = base64.urlsafe_b64encode(b'{"aud":"us","aud":"them","exp":9999999999}').rstrip(b"=").decode()
    header = encoded(json.dumps({"alg": "RS256", "kid": "rsa"}).encode())

    def by_rsa(start: str) -> str:
        signature = PRIVATE["rsa"].sign(start.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{start}.{encoded(signature)}"

    head_twice = encoded(b'{"alg":"RS256","kid":"rsa","alg":"none"}')
    inner = signed(aud="us")
    for token, expected in (
        (by_rsa(f"{header}.{twice}"), "token-audience"),
        (by_rsa(f"{head_twice}.{twice}"), "token-algorithm"),
        (by_rsa(f"{header}.{encoded(inner.encode())}"), "token-malformed"),
        (by_rsa(f"{header}.{encoded(json.dumps(inner).encode())}"), "token-malformed"),
        (raw_token({"alg": "ES256", "kid": "p256"}, {"aud": "us"}, bytes(64)), "token-signature"),  # CVE-2022-21449
        (raw_token({"alg": "ES256", "kid": "rsa"}, {"aud": "us"}, bytes(64)), "token-key"),
        (raw_token({"alg": "RS256", "kid": "p256"}, {"aud": "us"}, bytes(256)), "token-key"),
        (raw_token({"alg": "RS256", "kid": "rsa"}, {"aud": "us"}, bytes(256)), "token-signature"),
        (raw_token({"alg": "RS256", "kid": 7}, {"aud": "us"}, bytes(256)), "token-malformed"),
        (raw_token({"alg": "RS256", "kid": "x' OR 1=1 --"}, {"aud": "us"}, bytes(256)), "token-key"),
        (raw_token({"alg": "RS256", "kid": "/etc/passwd\0"}, {"aud": "us"}, bytes(256)), "token-key"),
        (raw_token({"alg": "RS256", "kid": "rsa", "crit": []}, {"aud": "us"}, bytes(256)), "token-malformed"),
        (raw_token({"alg": "RS256", "kid": "rsa", "b64": "x"}, {"aud": "us"}, bytes(256)), "token-malformed"),
        (inner + "=", "token-malformed"),
        (inner.replace(".", "..", 1), "token-malformed"),
        (signed_anyhow({"aud": "us", "exp": NOW - 29.5}), "accepted"),
        (signed_anyhow({"aud": "us", "exp": NOW - 30}), "token-expired"),
        (signed_anyhow({"aud": "us", "nbf": NOW + 30}), "accepted"),
        (signed_anyhow({"aud": "us", "nbf": NOW + 31}), "token-not-yet-valid"),
        (signed_anyhow({"aud": "us", "exp": "9999999999"}), "token-malformed"),
        (signed_anyhow({"aud": "us", "exp": [9999999999]}), "token-malformed"),
        (signed_anyhow({"aud": {"us": 1}}), "token-audience"),
        (signed_anyhow({"aud": ""}), "token-audience"),
        (signed_anyhow({"aud": []}), "token-audience"),
    ):
        assert verdict(check, token) == expected, (token[:80], expected)


async def flooded(pop: Pop, number: int) -> set[int]:
    """The statuses of tokens of keys that nobody knows, all at once."""
    tokens = [signed("rsa-2", {"kid": f"unknown-{number}-{one}"}) for one in range(25)]
    responses = await asyncio.gather(*(pop.get("/p", HOST, ("Authorization", f"Bearer {one}")) for one in tokens))
    return {response.status for response in responses}


async def test_unknown_keys_do_not_hammer_the_server_of_the_key_set() -> None:
    """200 of them at once cost one fetch in thirty seconds, and those with a good token do not wait."""
    async with running_origin(FakeClock()) as issuer:
        issuer.on("/jwks", lambda _: Reply(200, [], key_set("rsa")))
        async with two_sites(RULES.format(f'jwks = "{issuer.url}/jwks"')) as (pop, _, _b):
            for number in range(4):
                assert await flooded(pop, number) == {401}
            assert len(issuer.requests) == 1
            pop.clock.advance(31)
            for number in range(4, 8):
                assert await flooded(pop, number) == {401}
            assert len(issuer.requests) == 2
            good = ("Authorization", f"Bearer {signed('rsa')}")
            assert (await pop.get("/p", HOST, good)).status == 200
            assert len(issuer.requests) == 2
