"""Signed URLs and cookies: vectors of the formats' own publishers, and each part of a signature altered."""

from __future__ import annotations

import base64
import json
import random
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from harness.tokens import PRIVATE, public_pem
from hypothesis import given
from hypothesis import strategies as st

from edgecache.semantics.signing.cloudfront import CloudFront, canned
from edgecache.semantics.signing.edge_auth import EdgeAuth
from edgecache.semantics.signing.own_format import OwnFormat, token_for
from edgecache.semantics.signing.secure_link import SecureLink
from edgecache.semantics.signing.signed_request import SignatureRefused, SignedRequest, Verifier

NOW = 1_700_000_000
KEY = b"a secret of the tests"
AKAMAI_KEY = bytes.fromhex("52a152a152a152a152a152a152a1")


def verdict(
    verifier: Verifier,
    target: str,
    now: float = NOW,
    *,
    client: str = "192.0.2.1",
    host: str = "a.test",
    scheme: str = "https",
    cookies: dict[str, str] | None = None,
) -> str:
    """`accepted`, or why not."""
    jar = {name: [value.encode()] for name, value in (cookies or {}).items()}
    request = SignedRequest(scheme.encode(), host.encode(), target.encode(), client, jar)
    try:
        verifier.verify(request, now)
    except SignatureRefused as refused:
        return str(refused)
    return "accepted"


def own(**options: Any) -> OwnFormat:
    """A verifier of this POP's own format with two keys."""
    return OwnFormat(
        {"k1": KEY, "k2": b"another secret, too"},
        **{"parameter": None, "cookie": None, "needs_address": False, **options},
    )


def signed(target: str, expires: int = NOW + 60, *, key: str = "k1", secret: bytes = KEY, **options: Any) -> str:
    """The token for `target`."""
    return token_for(key, secret, expires, host=b"a.test", target=target.encode(), **options).decode()


def with_token(target: str, token: str) -> str:
    """`target` with a token in its query."""
    return f"{target}{'&' if '?' in target else '?'}edgecache-token={token}"


def test_one_url() -> None:
    """Good for it, its query, its host and its time alone."""
    token = signed("/a/b?x=1")
    assert token == "k1~1700000060~u~-~" + token.rpartition("~")[2]
    assert verdict(own(), with_token("/a/b?x=1", token)) == "accepted"
    assert verdict(own(), f"/a/b?edgecache-token={token}&x=1") == "accepted"
    assert verdict(own(), with_token("/a/b?x=1", token), host="a.test:8443") == "accepted"
    for target, options, reason in (
        (with_token("/a/c?x=1", token), {}, "signature-wrong"),
        (with_token("/a/b?x=2", token), {}, "signature-wrong"),
        (with_token("/a/b", token), {}, "signature-wrong"),
        (with_token("/a/%62?x=1", token), {}, "signature-wrong"),
        (with_token("/a/b?x=1", token), {"host": "b.test"}, "signature-wrong"),
        (with_token("/a/b?x=1", token), {"now": NOW + 60}, "signature-expired"),
        (with_token("/a/b?x=1", token.replace("1700000060", "1800000060")), {}, "signature-wrong"),
        (with_token("/a/b?x=1", token.replace("k1", "k2")), {}, "signature-wrong"),
        (with_token("/a/b?x=1", token.replace("k1", "k3")), {}, "signature-key"),
        (with_token("/a/b?x=1", token.replace("~-~", "~a~")), {}, "signature-wrong"),
        (with_token("/a/b?x=1", token[:-1]), {}, "signature-wrong"),
        (with_token(with_token("/a/b?x=1", token), token), {}, "signature-repeated"),
        ("/a/b?x=1", {}, "signature-missing"),
        ("/a/b?x=1&edgecache-token=", {}, "signature-malformed"),
    ):
        assert verdict(own(), target, **options) == reason, target


def test_a_prefix() -> None:
    """Good for all below it, by no detour; as a cookie too."""
    token = signed("/vod/film", is_prefix=True)
    verifier = own(cookie="ec")
    for path in ("/vod/film", "/vod/film/1.ts", "/vod/film/1.ts?q=1", "/vod/%66ilm/x"):
        assert verdict(verifier, with_token(path, token)) == "accepted", path
        assert verdict(verifier, path, cookies={"ec": token}) == "accepted"
    for path in ("/vod/films", "/vod/", "/vod/film/../x", "/vod/film/..%2fx", "/vod/film/%2e%2e/x", "/vod/film/..;/x"):
        assert verdict(verifier, with_token(path, token)) == "signature-path", path
    parts = token.split("~")
    wider = "~".join([*parts[:2], "p" + base64.urlsafe_b64encode(b"/").decode().rstrip("="), *parts[3:]])
    assert verdict(verifier, with_token("/vod/film/x", wider)) == "signature-wrong"


def test_an_address() -> None:
    """Good for one client; where the rule demands it, only so."""
    token = signed("/a", address="192.0.2.1")
    assert verdict(own(), with_token("/a", token)) == "accepted"
    assert verdict(own(), with_token("/a", token), client="::ffff:192.0.2.1") == "accepted"
    assert verdict(own(), with_token("/a", token), client="192.0.2.2") == "signature-wrong"
    assert verdict(own(), with_token("/a", token), client="") == "signature-wrong"
    assert verdict(own(), with_token("/a", token.replace("~a~", "~-~"))) == "signature-wrong"
    assert verdict(own(needs_address=True), with_token("/a", token)) == "accepted"
    assert verdict(own(needs_address=True), with_token("/a", signed("/a"))) == "signature-address"


def test_keys_rotate() -> None:
    """What any of several keys has signed is good."""
    token = signed("/a", key="k2", secret=b"another secret, too")
    assert verdict(own(), with_token("/a", token)) == "accepted"


def test_secure_link_of_nginx() -> None:
    """The example of nginx's documentation (ngx_http_secure_link_module)."""
    link = "/s/link?md5=_e4Nc3iduzkWRm01TBBNYw&expires=2147483647"
    verifier = SecureLink([b"old", b"secret"], needs_address=True)
    assert verdict(verifier, link, client="127.0.0.1") == "accepted"
    assert verdict(verifier, link.replace("/s/link", "/s//l%69nk"), client="127.0.0.1") == "accepted"
    for changed, options, reason in (
        (link, {"client": "127.0.0.2"}, "signature-wrong"),
        (link, {"client": ""}, "signature-wrong"),
        (link, {"client": "127.0.0.1", "now": 2147483647}, "signature-expired"),
        (link.replace("/s/link", "/s/other"), {"client": "127.0.0.1"}, "signature-wrong"),
        (link.replace("/s/link", "/s%2flink"), {"client": "127.0.0.1"}, "signature-wrong"),
        (link.replace("2147483647", "2147483648"), {"client": "127.0.0.1"}, "signature-wrong"),
        (link.replace("_e4", "_e5"), {"client": "127.0.0.1"}, "signature-wrong"),
        (link + "&md5=x", {"client": "127.0.0.1"}, "signature-repeated"),
        (link.replace("&expires=2147483647", ""), {"client": "127.0.0.1"}, "signature-malformed"),
        ("/s/link", {}, "signature-missing"),
    ):
        assert verdict(verifier, changed, **options) == reason, changed


ACL = (
    "st=1600000000~exp=1700000060~acl=/vod/*!/live/a?.ts~"
    "hmac=6b63abf4d622a84885c65c0fb30e926b742777d840468b93c517ac0e6845a666"
)
BOUND = (
    "ip=192.0.2.1~exp=1700000060~acl=/*~id=s1~data=x=1~"
    "hmac=3b3c9a8e0cf6bfe75fafd4a1c9760e003aedaa27de62ca69f0ab4c88e6fdbf1b"
)
ESCAPED = "exp=1700000060~hmac=3dbfbae06a8a756aaa7289e51a0db68abd5891ba73abd7616387e7106655a47e"


def akamai(**options: Any) -> EdgeAuth:
    """A verifier of EdgeAuth tokens."""
    return EdgeAuth([b"other", AKAMAI_KEY], **{"parameter": None, "cookie": None, "needs_address": False, **options})


def test_edge_auth_of_akamai() -> None:
    """Tokens of Akamai's own library (akamai-edgeauth 0.3.2)."""
    verifier = akamai(cookie="hdnts")
    for path, token in (("/vod/1.ts", ACL), ("/live/a1.ts", ACL), ("/x", BOUND)):
        assert verdict(verifier, f"{path}?hdnts={token}") == "accepted", path
        assert verdict(verifier, path, cookies={"hdnts": token}) == "accepted"
    assert verdict(verifier, f"/vod/1.ts?hdnts={ACL.replace('/', '%2f')}") == "accepted"
    assert verdict(verifier, f"/vod/a%20b.ts?hdnts={ESCAPED}") == "accepted"
    for target, options, reason in (
        (f"/other?hdnts={ACL}", {}, "signature-path"),
        (f"/vod/../x?hdnts={ACL}", {}, "signature-path"),
        (f"/vod/..%2fx?hdnts={ACL}", {}, "signature-path"),
        (f"/vod/1.ts?hdnts={ACL}", {"now": NOW + 60}, "signature-expired"),
        (f"/vod/1.ts?hdnts={ACL}", {"now": 1_500_000_000}, "signature-not-yet-valid"),
        (f"/vod/1.ts?hdnts={ACL.replace('vod', 'all')}", {}, "signature-wrong"),
        (f"/vod/1.ts?hdnts={ACL.replace('1700000060', '1800000060')}", {}, "signature-wrong"),
        (f"/vod/c.ts?hdnts={ESCAPED}", {}, "signature-wrong"),
        (f"/x?hdnts={BOUND}", {"client": "192.0.2.2"}, "signature-address"),
        (f"/x?hdnts={BOUND.replace('ip=192.0.2.1~', '')}", {}, "signature-wrong"),
        (f"/x?hdnts={BOUND}~acl=/*", {}, "signature-malformed"),
        ("/x?hdnts=exp=1", {}, "signature-malformed"),
        ("/x", {}, "signature-missing"),
    ):
        assert verdict(verifier, target, **options) == reason, target
    assert verdict(akamai(needs_address=True), f"/vod/1.ts?hdnts={ACL}") == "signature-address"


def cloudfront_text(content: bytes) -> str:
    """Base64 in CloudFront's characters."""
    return base64.b64encode(content).translate(bytes.maketrans(b"+=/", b"-_~")).decode()


def cloudfront_signature(policy: str, digest: Any = hashes.SHA1) -> str:
    """The signature of a policy by the key pair of the tests."""
    return cloudfront_text(PRIVATE["rsa"].sign(policy.encode(), padding.PKCS1v15(), digest()))


def custom_policy(resource: str, **conditions: Any) -> str:
    """A custom policy."""
    times = {"DateLessThan": {"AWS:EpochTime": NOW + 60}}
    return json.dumps({"Statement": [{"Resource": resource, "Condition": {**times, **conditions}}]})


def cloudfront_url(target: str, policy: str, **changes: str) -> str:
    """A URL with a custom policy."""
    parts = {"Policy": cloudfront_text(policy.encode()), "Signature": cloudfront_signature(policy), "Key-Pair-Id": "K1"}
    query = "&".join(f"{name}={value}" for name, value in {**parts, **changes}.items())
    return f"{target}{'&' if '?' in target else '?'}{query}"


CLOUDFRONT = CloudFront({"K1": public_pem("rsa"), "K2": public_pem("rsa-2")}, cookie="CloudFront", needs_address=False)


def test_canned_policies_of_cloudfront() -> None:
    """The policy as the Developer Guide has it, signed by SHA-1 or SHA-256."""
    policy = canned("https://a.test/i.jpg?size=1", NOW + 60)
    assert policy == (
        '{"Statement":[{"Resource":"https://a.test/i.jpg?size=1",'
        '"Condition":{"DateLessThan":{"AWS:EpochTime":1700000060}}}]}'
    )
    good = f"/i.jpg?size=1&Expires={NOW + 60}&Signature={cloudfront_signature(policy)}&Key-Pair-Id=K1"
    assert verdict(CLOUDFRONT, good) == "accepted"
    newer = f"{good.replace(cloudfront_signature(policy), cloudfront_signature(policy, hashes.SHA256))}"
    assert verdict(CLOUDFRONT, newer + "&Hash-Algorithm=SHA256") == "accepted"
    for target, options, reason in (
        (newer, {}, "signature-wrong"),
        (good, {"now": NOW + 60}, "signature-expired"),
        (good, {"scheme": "http"}, "signature-wrong"),
        (good, {"host": "b.test"}, "signature-wrong"),
        (good.replace("size=1", "size=2"), {}, "signature-wrong"),
        (good.replace("i.jpg", "j.jpg"), {}, "signature-wrong"),
        (good.replace(str(NOW + 60), str(NOW + 61)), {}, "signature-wrong"),
        (good.replace("K1", "K2"), {}, "signature-wrong"),
        (good.replace("K1", "K3"), {}, "signature-key"),
        (good + "&Hash-Algorithm=MD5", {}, "signature-malformed"),
        (good + "&Key-Pair-Id=K1", {}, "signature-repeated"),
        ("/i.jpg?size=1", {}, "signature-missing"),
    ):
        assert verdict(CLOUDFRONT, target, **options) == reason, target


def test_custom_policies_of_cloudfront() -> None:
    """Wildcards, start, address; as cookies; what is not understood is refused."""
    policy = custom_policy(
        "http*://a.test/vod/*", DateGreaterThan={"AWS:EpochTime": NOW - 5}, IpAddress={"AWS:SourceIp": "192.0.2.0/24"}
    )
    good = cloudfront_url("/vod/1.ts?q=1", policy)
    assert verdict(CLOUDFRONT, good) == "accepted"
    jar = {"CloudFront-Policy": cloudfront_text(policy.encode()), "CloudFront-Signature": cloudfront_signature(policy)}
    jar["CloudFront-Key-Pair-Id"] = "K1"
    assert verdict(CLOUDFRONT, "/vod/2.ts", cookies=jar) == "accepted"
    assert verdict(CLOUDFRONT, "/x", cookies=jar) == "signature-path"
    for target, options, reason in (
        (good, {"now": NOW - 6}, "signature-not-yet-valid"),
        (good, {"now": NOW + 60}, "signature-expired"),
        (good, {"client": "198.51.100.1"}, "signature-address"),
        (good, {"client": ""}, "signature-address"),
        (good.replace("/vod/1", "/other"), {}, "signature-path"),
        (good.replace("/vod/1.ts", "/vod/..%2fx"), {}, "signature-path"),
        (cloudfront_url("/vod/1", policy, Policy=cloudfront_text(custom_policy("*").encode())), {}, "signature-wrong"),
        (cloudfront_url("/vod/1", policy, Policy="!"), {}, "signature-malformed"),
        (cloudfront_url("/x", custom_policy("*", Unknown={})), {}, "signature-malformed"),
        (cloudfront_url("/x", '{"Statement":[]}'), {}, "signature-malformed"),
        (cloudfront_url("/x", "[" * 5000), {}, "signature-malformed"),
    ):
        assert verdict(CLOUDFRONT, target, **options) == reason, target


VERIFIERS = [own(cookie="c"), SecureLink([b"secret"], needs_address=False), akamai(), CLOUDFRONT]
TEXT = st.text("abz019~-_.=&?%/*!", max_size=80)


@given(st.sampled_from(VERIFIERS), TEXT, st.dictionaries(st.sampled_from(("c", "hdnts", "CloudFront-Policy")), TEXT))
def test_whatever_comes_is_refused_by_a_word(verifier: Verifier, query: str, cookies: dict[str, str]) -> None:
    """No verifier fails in another way, and none accepts anything."""
    for start in (
        "edgecache-token=",
        "md5=",
        "expires=9999999999&md5=",
        "hdnts=exp=",
        "Signature=AAAA&Key-Pair-Id=K1&Policy=",
    ):
        assert verdict(verifier, f"/a?{start}{query}", cookies=cookies).startswith("signature-")


def test_no_changed_character_is_accepted() -> None:
    """1,000 good signatures of all formats with one character of the signed part changed."""
    lots = random.Random(2)
    good = [
        (own(), with_token("/a/b?x=1", signed("/a/b?x=1"))),
        (own(), with_token("/vod/1", signed("/vod", is_prefix=True))),
        (SecureLink([b"secret"], needs_address=True), "/s/link?md5=_e4Nc3iduzkWRm01TBBNYw&expires=2147483647"),
        (akamai(), f"/vod/1.ts?hdnts={BOUND}"),
    ]
    for _ in range(1000):
        verifier, target = lots.choice(good)
        client = "127.0.0.1" if "md5" in target else "192.0.2.1"
        assert verdict(verifier, target, client=client) == "accepted"
        at = lots.randrange(target.index("=") + 1, len(target))
        changed = lots.choice([one for one in "abcdef0123456789" if one != target[at].lower()])
        other = target[:at] + changed + target[at + 1 :]
        assert verdict(verifier, other, client=client) != "accepted", other
