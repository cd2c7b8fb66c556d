"""Signed URLs and cookies on a running POP: stored once, without what belongs to the signature."""

from __future__ import annotations

import base64
import hmac
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from harness.sites import two_sites
from harness.tokens import PRIVATE, public_pem

from edgecache.proxy.access.signed_requests import SignedCheck
from edgecache.semantics.signing.cloudfront import canned
from edgecache.semantics.signing.own_format import token_for
from edgecache.semantics.signing.secure_link import digest
from edgecache.server.cli import main

HOST = ("Host", "a.test")
NOW = 1_700_000_000
KEY = b"a secret of the tests"
RULES = """
[[sites.rules]]
name = "vod"
when = {{ path_prefix = "/vod/" }}
access.signed = {{ keys = {{ k1 = "{}" }}{} }}
"""


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A file with the secret, and a line break as editors leave it."""
    path = tmp_path / "key"
    path.write_bytes(KEY + b"\n")
    return path


def token(target: str, expires: int, *, is_prefix: bool = False, address: str = "") -> str:
    """A token of this POP's own format."""
    return token_for(
        "k1", KEY, expires, host=b"a.test", target=target.encode(), is_prefix=is_prefix, address=address
    ).decode()


async def test_one_stored_response_for_all_signatures(key_file: Path) -> None:
    """The token is neither in the cache key nor in the request upstream, as parameter or cookie."""
    async with two_sites(RULES.format(key_file, ', cookie = "ec"')) as (pop, a, _):
        async with pop.client() as client:
            for number in range(4):
                signed = token("/vod/1?x=1", NOW + 60 + number)
                prefix = token("/vod", NOW + 60 + number, is_prefix=True)
                for target, more in (
                    (f"/vod/1?x=1&edgecache-token={signed}", []),
                    (f"/vod/1?edgecache-token={prefix}&x=1", []),
                    ("/vod/1?x=1", [("Cookie", f"a=b; ec={prefix}")]),
                ):
                    for _ in range(4):
                        await client.request("GET", target, [HOST, *more])
                        assert (await client.response()).status == 200, target
            for target in ("/vod/1?x=1", f"/vod/2?edgecache-token={signed}"):
                for _ in range(4):
                    await client.request("GET", target, [HOST])
                    response = await client.response()
                    assert response.status == 403
                    assert response.get("cache-status") is None
        assert [request.target for request in a.requests] == ["/vod/1?x=1"]


async def test_a_replayed_url_is_refused_by_known_heads_too(key_file: Path) -> None:
    """From its second of expiry on; HEAD, ranges and conditions included."""
    async with two_sites(RULES.format(key_file, ", address = true")) as (pop, _, _b):
        target = f"/vod/1?edgecache-token={token('/vod/1', NOW + 30, address='127.0.0.1')}"
        async with pop.client() as client:
            kinds = [("GET", []), ("HEAD", []), ("GET", [("Range", "bytes=0-0")]), ("GET", [("If-None-Match", '"x"')])]
            for method, more in kinds * 4:
                await client.request(method, target, [HOST, *more])
                assert (await client.response()).status in (200, 206)
            pop.clock.advance(30)
            for method, more in kinds:
                await client.request(method, target, [HOST, *more])
                assert (await client.response()).status == 403
        other = f"/vod/1?edgecache-token={token('/vod/1', NOW + 99, address='192.0.2.1')}"
        assert (await pop.get(other, HOST)).status == 403


async def test_the_command_signs_what_the_pop_admits(key_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A URL, and a cookie for a prefix; it says in one sentence what it cannot sign."""
    async with two_sites(RULES.format(key_file, ', cookie = "ec"')) as (pop, _, _b):
        assert main(["sign-url", "http://a.test/vod/a?x=1", "--key", f"k1={key_file}", "--expires", "7d"]) == 0
        url = capfd.readouterr().out.strip()
        pop.clock.jump(1)
        target = url.removeprefix("http://a.test")
        assert (await pop.get(target, HOST)).status == 200
        assert (await pop.get(target.replace("/a?", "/b?"), HOST)).status == 403
        prefix = ["--prefix", "--cookie", "ec"]
        assert main(["sign-url", "http://a.test/vod/", "--key", f"k1={key_file}", *prefix]) == 0
        assert (await pop.get("/vod/z", HOST, ("Cookie", capfd.readouterr().out.strip()))).status == 200
    for wrong in (["--key", "k1"], ["--key", "k1=/nowhere"], ["--key", f"k1={key_file}", "--expires", "soon"]):
        assert main(["sign-url", "http://a.test/", *wrong]) == 2
        assert len(capfd.readouterr().err.strip().splitlines()) == 1


async def test_a_check_that_cannot_be_made_refuses_all(
    key_file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a line in the log: nothing is open because a worker lacks what the supervisor had."""

    def unusable(*given: object, **named: object) -> None:
        raise ValueError

    monkeypatch.setattr(SignedCheck, "__init__", unusable)
    async with two_sites(RULES.format(key_file, "")) as (pop, a, _):
        assert (await pop.get("/vod/1", HOST)).status == 503
        assert (await pop.get("/", HOST)).status == 200
        assert [request.target for request in a.requests] == ["/"]
    assert "access is refused to all clients" in caplog.text


async def test_an_accepted_signature_is_in_no_log(key_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The access log has # in its place, for known heads too; and no client can send that."""
    caplog.set_level(0)
    async with two_sites(RULES.format(key_file, ', cookie = "ec"'), access_log="1") as (pop, _, _b):
        lines: list[bytes] = []
        pop.worker._log._writer.write = lambda data, *more: lines.append(bytes(data))
        signed = token("/vod/1?a=1", NOW + 60)
        seen = set()
        original = pop.worker._request_log._log.add
        pop.worker._request_log._log.add = lambda record: seen.add(record[2]) or original(record)
        async with pop.client() as client:
            for _ in range(5):
                await client.request("GET", f"/vod/1?edgecache-token={signed}&a=1", [HOST])
                assert (await client.response()).status == 200
            await client.send(b"GET /vod/1?edgecache-token=#&a=1 HTTP/1.1\r\nHost: a.test\r\n\r\n")
            assert (await client.response()).status in (400, 403)
        assert len(seen) >= 1
        accepted = [line for line in seen if "edgecache-token=#&a=1" in line]
        assert accepted
        assert all(signed[-20:] not in line for line in seen)
        assert signed[-20:] not in caplog.text


def link_of(target: str, expires: int) -> dict[str, str]:
    """`target` as each format signs it, until then."""
    mark = "&" if "?" in target else "?"
    path = target.partition("?")[0].encode()
    policy = canned(f"http://a.test{target}", expires)
    by_rsa = base64.b64encode(PRIVATE["rsa"].sign(policy.encode(), padding.PKCS1v15(), hashes.SHA1()))
    text = f"exp={expires}~acl=/vod/*"
    akamai = hmac.digest(bytes.fromhex(HEXADECIMAL), text.encode(), "sha256").hex()
    made = {
        "edgecache": f"edgecache-token={token(target, expires)}",
        "nginx-secure-link": f"md5={digest(b'%d' % expires + path + b' ' + KEY).decode()}&expires={expires}",
        "akamai": f"hdnts={text}~hmac={akamai}",
        "cloudfront": f"Expires={expires}&Signature={by_rsa.translate(TO_URL).decode()}&Key-Pair-Id=k1",
    }
    return {name: f"{target}{mark}{query}" for name, query in made.items()}


HEXADECIMAL = "00112233445566778899aabbccddeeff"
TO_URL = bytes.maketrans(b"+=/", b"-_~")


@pytest.mark.parametrize("name", ["edgecache", "nginx-secure-link", "akamai", "cloudfront"])
@pytest.mark.parametrize("target", ["/vod/1", "/vod/1?x=1&utm_a=2"])
async def test_a_purge_names_a_signed_url_with_any_signature_or_none(name: str, target: str, tmp_path: Path) -> None:
    """It was stored once, by the signature of one client; purged as it is, by that of another, or by an old one."""
    path = tmp_path / "key"
    path.write_bytes({"akamai": HEXADECIMAL.encode(), "cloudfront": public_pem("rsa")}.get(name, KEY))
    rules = RULES.format(path, f', format = "{name}"') + RULES.format(path, "").partition("access")[0].replace(
        '"vod"', '"campaigns"'
    )
    rules += 'cache = { key = { query = { drop = ["utm_*"] } } }'
    async with two_sites(rules, purge_tokens="ops=a-token-of-the-tests") as (pop, a, _):
        links = [link_of(target, NOW + 60 + number)[name] for number in range(2)]
        old = link_of(target, NOW - 60)[name]
        for purged in (target, *links, old, target.partition("&utm")[0]):
            before = len(a.requests)
            states = [(await pop.get(link, HOST)).get("cache-status") or "" for link in (*links, *links)]
            assert len(a.requests) == before + 1, states
            for unsigned in (target, old):
                refused = await pop.get(unsigned, HOST)
                assert (refused.status, refused.get("cache-status")) == (403, None)
            bearer = ("Authorization", "Bearer a-token-of-the-tests")
            assert (await pop.request("PURGE", purged, HOST, bearer)).status == 200
            assert "fwd=" in ((await pop.get(links[0], HOST)).get("cache-status") or ""), purged
            assert (await pop.request("PURGE", purged, HOST, bearer)).status == 200
