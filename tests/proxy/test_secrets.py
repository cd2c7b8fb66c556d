"""Secrets of every kind, sent right and wrong, whole and altered: nothing that a POP emits has one."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt as pyjwt
import pytest
from argon2 import PasswordHasher
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from harness.often import slow
from harness.origin import OriginDouble
from harness.pop import Pop
from harness.sites import two_sites
from harness.tokens import PRIVATE, key_set, public_pem
from hypothesis import given
from hypothesis import strategies as st

from edgecache.config.settings import load
from edgecache.semantics.secret_parameters import redacting
from edgecache.semantics.signing.cloudfront import canned
from edgecache.semantics.signing.own_format import token_for
from edgecache.semantics.signing.secure_link import digest
from edgecache.server import explain
from edgecache.server.admin.local_purge_service import LocalPurgeService
from edgecache.server.admin.purge_service import Json
from edgecache.telemetry.metrics import Registry, render

NOW = 1_700_000_000
KEY = b"the-secret-of-own-signatures"
NGINX = b"the-secret-of-secure-links"
AKAMAI = "52a152a152a152a152a152a152a152a1"
PASSWORD = "correct-horse-battery-staple"
PURGE = "the-token-that-purges-site-a"
POOL = "the-bearer-token-of-the-pool"
FILES = {
    "own": KEY,
    "nginx": NGINX,
    "akamai": AKAMAI.encode(),
    "cloudfront": public_pem("rsa"),
    "jwks": key_set("rsa"),
    "purge": PURGE.encode(),
    "pool": POOL.encode(),
}
RULES = """
purge_tokens = {{ cms = "{at}/purge" }}
[[sites.rules]]
name = "own"
when = {{ path_prefix = "/own" }}
access.signed = {{ keys = {{ k1 = "{at}/own" }}, cookie = "own" }}
[[sites.rules]]
name = "nginx"
when = {{ path_prefix = "/nginx" }}
access.signed = {{ keys = {{ k1 = "{at}/nginx" }}, format = "nginx-secure-link" }}
[[sites.rules]]
name = "akamai"
when = {{ path_prefix = "/akamai" }}
access.signed = {{ keys = {{ k1 = "{at}/akamai" }}, format = "akamai", parameter = "edge-auth", cookie = "akamai" }}
[[sites.rules]]
name = "cloudfront"
when = {{ path_prefix = "/cloudfront" }}
access.signed = {{ keys = {{ K1 = "{at}/cloudfront" }}, format = "cloudfront", cookie = "CloudFront" }}
[[sites.rules]]
name = "jwt"
when = {{ path_prefix = "/jwt" }}
access.jwt = {{ keys = "{at}/jwks", cookie = "session" }}
[[sites.rules]]
name = "basic"
when = {{ path_prefix = "/basic" }}
access.basic = {{ users = {{ ann = '{hash}' }} }}
[[sites.rules]]
name = "asked"
when = {{ path_prefix = "/asked" }}
access.forward_auth = {{ url = "http://127.0.0.1:1/" }}
[[sites.rules]]
name = "pool"
route = {{ credentials = "pool" }}
[[sites.rules]]
name = "limited"
when = {{ query = {{ limited = true }} }}
limits = [{{ rate = "1/h" }}]
[[sites.rules]]
name = "debug"
debug = ["x-cache", "server-timing"]
"""


@dataclass(frozen=True)
class Sent:
    """What one kind of credential is sent as, and the texts that no output may have."""

    path: str
    query: str = ""
    fields: tuple[tuple[str, str], ...] = ()
    secrets: tuple[str, ...] = field(default=())


def from_url(content: bytes) -> str:
    """Base64 in the characters that CloudFront has for URLs."""
    return base64.b64encode(content).translate(bytes.maketrans(b"+=/", b"-_~")).decode()


def cloudfront(path: str, *, custom: bool, expires: int) -> tuple[dict[str, str], tuple[str, ...]]:
    """The parts of a signature by a canned or a custom policy, and what of them is secret."""
    url = f"http://a.test{path}"
    policy = canned(url, expires)
    if custom:
        condition = {"DateLessThan": {"AWS:EpochTime": expires}}
        policy = json.dumps({"Statement": [{"Resource": "http://a.test/cloudfront*", "Condition": condition}]})
    signature = from_url(PRIVATE["rsa"].sign(policy.encode(), padding.PKCS1v15(), hashes.SHA1()))
    given = {"Policy": from_url(policy.encode())} if custom else {"Expires": str(expires)}
    return {**given, "Signature": signature, "Key-Pair-Id": "K1"}, (signature, *([given["Policy"]] if custom else []))


def akamai(expires: int) -> tuple[str, str]:
    """A token, and the part that is secret."""
    import hashlib
    import hmac

    text = f"exp={expires}~acl=/akamai*"
    made = hmac.digest(bytes.fromhex(AKAMAI), text.encode(), hashlib.sha256).hex()
    return f"{text}~hmac={made}", made


def all_kinds(number: int, expires: int) -> Iterator[Sent]:
    """One of each kind; `number` makes its path another."""
    path = f"/own/{number}"
    one = token_for("k1", KEY, expires, host=b"a.test", target=path.encode()).decode()
    yield Sent(path, f"edgecache-token={one}", secrets=(one.rpartition("~")[2],))
    prefix = token_for("k1", KEY, expires, host=b"a.test", target=b"/own", is_prefix=True).decode()
    yield Sent(path, fields=(("Cookie", f"own={prefix}"),), secrets=(prefix.rpartition("~")[2],))
    path = f"/nginx/{number}"
    made = digest(f"{expires}{path} ".encode() + NGINX).decode()
    yield Sent(path, f"md5={made}&expires={expires}", secrets=(made,))
    token, secret = akamai(expires)
    yield Sent(f"/akamai/{number}", f"edge-auth={token}", secrets=(secret,))
    yield Sent(f"/akamai/{number}", fields=(("Cookie", f"akamai={token}"),), secrets=(secret,))
    path = f"/cloudfront/{number}"
    for custom in (False, True):
        parts, secrets = cloudfront(path, custom=custom, expires=expires)
        yield Sent(path, "&".join(f"{name}={value}" for name, value in parts.items()), secrets=secrets)
        cookies = "; ".join(f"CloudFront-{name}={value}" for name, value in parts.items())
        yield Sent(path, fields=(("Cookie", cookies),), secrets=secrets)
    bearer = pyjwt.encode({"exp": expires, "n": number}, PRIVATE["rsa"], "RS256", headers={"kid": "rsa"})
    for name, value in (("Authorization", f"Bearer {bearer}"), ("Cookie", f"session={bearer}")):
        yield Sent(f"/jwt/{number}", fields=((name, value),), secrets=(bearer.rpartition(".")[2],))
    basic = base64.b64encode(f"ann:{PASSWORD}".encode()).decode()
    yield Sent(f"/basic/{number}", fields=(("Authorization", f"Basic {basic}"),), secrets=(basic, PASSWORD))
    asked = (("Authorization", f"Bearer {bearer}"), ("Cookie", f"session={bearer}"))
    yield Sent(f"/asked/{number}", fields=asked, secrets=(bearer.rpartition(".")[2],))


def spelt(query: str, how: int) -> str:
    """The query as it is, with names escaped or in capitals, behind others, or twice."""
    name, _, rest = query.partition("=")
    escaped = "".join(f"%{ord(letter):02X}" for letter in name)
    capitals = "&".join(f"{part.partition('=')[0].swapcase()}={part.partition('=')[2]}" for part in query.split("&"))
    return (query, f"{escaped}={rest}", capitals, f"limited=1&{query}", f"{query}&{query}", f"a=b;{query}")[how]


def one_of(secrets: set[str]) -> str:
    """Any that a URL may have."""
    return min(one for one in secrets if "=" not in one)


async def drive(pop: Pop, chance: random.Random) -> tuple[set[str], set[int], list[bytes]]:
    """Send all kinds in all ways; the secrets that were sent, the statuses, and all bytes that came back."""
    secrets, statuses, received = {PURGE, POOL, KEY.decode(), NGINX.decode(), AKAMAI}, set(), []

    async def ask(method: str, target: str, *fields: tuple[str, str], times: int = 1) -> None:
        async with pop.client() as client:
            for _ in range(times):
                await client.request(method, target, fields)
                response = await client.response()
                statuses.add(response.status)
                received.append(repr((response.fields, response.body)).encode())
                if response.get("connection") == "close" or method == "PURGE":
                    return

    for number in range(12):
        for sent in all_kinds(number, NOW + chance.choice((3600, 3600, -60))):
            secrets.update(sent.secrets)
            query = "?" + spelt(sent.query, chance.randrange(6) if chance.random() < 0.5 else 0) if sent.query else ""
            path = sent.path if chance.random() < 0.7 else chance.choice(("/own/x", "/nginx/x", "/akamai/x", "/open"))
            host = ("Host", chance.choice(("a.test", "a.test", "a.test", "b.test", "none.test")))
            method = chance.choice(("GET", "GET", "GET", "HEAD", "POST", "OPTIONS", "QUERY", "PURGE"))
            agent = ("User-Agent", f"browser/{number % 3}")
            await ask(method, path + query, host, agent, *sent.fields, times=4 if method == "GET" else 1)
            if query:
                for wrong in ("HTTP/1.1\r\nHost : a.test", "HTTP/3.0\r\nHost: a.test"):
                    head = f"GET {path}{query} {wrong}"
                    async with pop.client() as client:
                        await client.send(f"{head}\r\nReferer: {path}{query}\r\n\r\n".encode())
                        statuses.add((await client.response()).status)
                referer = ("Referer", f"http://a.test{sent.path}{query}")
                await ask("GET", chance.choice(("/open", "/own/x")), host, agent, referer, times=3)
        await ask("GET", f"/open?limited=1&edgecache-token={one_of(secrets)}", ("Host", "a.test"), times=2)
        purging = ("Authorization", f"Bearer {PURGE}")
        await ask("PURGE", f"/own/{number}", ("Host", "a.test"), purging)
        await ask("PURGE", f"/own/{number}", ("Host", "b.test"), purging)
    return secrets, statuses, received


@pytest.mark.parametrize("fields", [slow("default"), "all", slow("target,referer,host")])
async def test_nothing_that_a_pop_emits_has_a_secret(
    fields: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither log, metric, trace, response nor repr; the origin gets what is meant for it, and no client's secret."""
    caplog.set_level(0)
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    hashed = PasswordHasher(1, 8, 1).hash(PASSWORD)
    rules = RULES.format(at=tmp_path, hash=hashed)
    more = f"[credentials.pool]\nkind = 'bearer'\nsecret = '{tmp_path}/pool'\n"
    options = {"access_log": "1", "access_log_fields": fields, "otlp_endpoint": "http://127.0.0.1:1"}
    async with two_sites(rules, more, trace_sample="0.3", **options) as (pop, a, b):
        lines: list[bytes] = []
        pop.worker._log._writer._write = lines.append
        secrets, statuses, received = await drive(pop, random.Random(len(fields)))
        pop.worker._log.close()
        spans = repr(pop.worker.take_spans(1 << 20)).encode()
        emitted = {
            "access log": b"".join(lines),
            "log": caplog.text.encode(),
            "traces": spans,
            "metrics": render(pop.worker.snapshot()),
            "responses": b"".join(received),
            "repr of settings": repr(pop.worker._settings).encode(),
        }
        found = [(name, one) for name, text in emitted.items() for one in secrets if one.encode() in text]
        assert found == []
        assert {200, 400, 401, 403, 421, 429, 505} <= statuses
        assert b'"target":"/own/' in emitted["access log"]
        assert len(spans) > 1000
        assert_origin_got_no_secret(a, b, secrets - {POOL})


def assert_origin_got_no_secret(a: OriginDouble, b: OriginDouble, secrets: set[str]) -> None:
    """Of what was verified for a rule of a.test; requests under no rule pass as they are."""
    protected = [one for one in a.requests if one.target.startswith(("/own/", "/nginx/", "/akamai/", "/cloudfront/"))]
    assert protected
    for request in protected:
        assert request.target.partition("?")[2] in ("", "a=b", "limited=1"), request.target
    assert all(POOL not in str(request.fields) for request in b.requests)


def test_check_config_and_the_ledger_show_no_signature(tmp_path: Path) -> None:
    """What an operator asks about, and what was purged, may be a signed URL."""
    (tmp_path / "own").write_bytes(KEY)
    text = f"""
[[sites]]
name = "a"
hosts = ["a.test"]
origin = "http://192.0.2.1"
[[sites.rules]]
name = "own"
access.signed = {{ keys = {{ k1 = "{tmp_path}/own" }} }}
route = {{ add_prefix = "/x" }}
"""
    settings = load({"EDGECACHE_SITES": text, "EDGECACHE_PURGE_TOKENS": "all=0123456789abcdef"})
    request = explain.request_of("a.test", "/v/1?edgecache-token=SIGNATURE&a=1", "GET", (), "")
    said = explain.report(settings, request, "192.0.2.1")
    assert "upstream target: /x/v/1?edgecache-token=#&a=1" in said
    assert "SIGNATURE" not in said


async def test_the_ledger_of_purges_shows_no_signature(tmp_path: Path) -> None:
    """Neither in the list nor in a report."""
    (tmp_path / "own").write_bytes(KEY)
    text = '[[sites]]\nname = "a"\nhosts = ["a.test"]\norigin = "http://192.0.2.1"\n[[sites.rules]]\nname = "own"\n'
    text += f'access.signed = {{ keys = {{ k1 = "{tmp_path}/own" }} }}\n'
    settings = load({"EDGECACHE_SITES": text, "EDGECACHE_PURGE_TOKENS": "all=0123456789abcdef"})

    class Hub:
        async def apply(self, scopes: object, *, soft: bool) -> bool:
            return True

    service: Any = LocalPurgeService(settings, Registry(), Hub())  # type: ignore[arg-type]
    (caller,) = service._callers
    body = b'{"urls": ["http://a.test/v/1?edgecache-token=SIGNATURE&a=1"]}'
    _, answer = await service.purge(body, caller, "192.0.2.1", "none", 1.0)
    listed: list[Json] = await service.ledger(9, caller)
    assert "url http://a.test/v/1?edgecache-token=#&a=1" in listed[0]["names"]
    assert "SIGNATURE" not in repr(listed) + repr(await service.report(answer["id"], caller))


NAMES = st.sampled_from([b"md5", b"Signature", b"edgecache-token"])


@given(NAMES, st.lists(st.binary(max_size=12)), st.integers(0, 4), st.data())
def test_a_value_is_hidden_however_its_name_is_spelt(name: bytes, others: list[bytes], how: int, data: Any) -> None:
    """In capitals, escaped once or twice in any letter, between any other parts; all else stays as it is."""
    redact = redacting([b"md5", b"Signature", b"edgecache-token"])
    assert redact is not None
    marks = data.draw(st.lists(st.booleans(), min_size=len(name), max_size=len(name)))
    if how >= 1:
        name = name.swapcase()
    if how >= 2:
        name = b"".join(b"%%%02x" % one if mark else bytes((one,)) for one, mark in zip(name, marks, strict=True))
    if how >= 3:
        name = name.replace(b"%", b"%25")
    parts = [one.translate(None, b"?&;#") for one in others]
    at = data.draw(st.integers(0, len(parts)))
    target = b"/p?" + b"&".join([*parts[:at], name + b"=PLANTED", *parts[at:]])
    shown = redact(target)
    assert b"PLANTED" not in shown
    plain = b"/p?" + b"&".join(b"x" + one for one in parts)
    assert redact(plain) == plain


def test_without_signed_rules_nothing_is_hidden() -> None:
    """And nothing is done."""
    assert redacting([]) is None
