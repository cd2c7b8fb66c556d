"""Credentials of routes: signatures of S3 by AWS's own examples, tokens and passwords; never the client's own."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime
from pathlib import Path

import pytest
from harness.client import ReceivedResponse
from harness.origin import Reply
from harness.pop import environment
from harness.site_pools import Sites, filled, site, sites

from edgecache.config.settings import load
from edgecache.semantics.errors import ConfigError
from edgecache.semantics.message import FieldLine, Fields
from edgecache.upstream.credentials import S3, basic, bearer
from edgecache.upstream.s3_signature import EMPTY, UNSIGNED, AccessKey, canonical_path, canonical_query
from edgecache.wire.body import Body
from edgecache.wire.upstream_request import UpstreamRequest

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
KEY = AccessKey("AKIAIOSFODNN7EXAMPLE", SECRET, "us-east-1")
NOON = datetime(2013, 5, 24, tzinfo=UTC).timestamp()
HOST = (b"Host", b"examplebucket.s3.amazonaws.com")
WELCOME = b"44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"
DATE = (b"Date", b"Fri, 24 May 2013 00:00:00 GMT")
OF_GET = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
OF_PUT = "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
OF_LIFECYCLE = "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
OF_LIST = "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
OWN = (b"authorization", b"Bearer c")
CLASS = (b"x-amz-storage-class", b"REDUCED_REDUNDANCY")


@pytest.mark.parametrize(
    ("method", "target", "lines", "payload", "signature"),
    [
        (
            b"GET",
            b"/test.txt",
            [(b"Range", b"bytes=0-9")],
            EMPTY,
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            b"PUT",
            b"/test$file.text",
            [DATE, CLASS],
            WELCOME,
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
        (b"GET", b"/?lifecycle", [], EMPTY, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        (
            b"GET",
            b"/?max-keys=2&prefix=J",
            [],
            EMPTY,
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ],
)
def test_examples_of_aws(method: bytes, target: bytes, lines: list[FieldLine], payload: bytes, signature: str) -> None:
    """https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html"""
    signed = KEY.signed(method, target, [HOST, *lines], payload, NOON)
    assert signed[-1][1].decode().rpartition("=")[2] == signature


def test_canonical_forms() -> None:
    """Paths and parameters are encoded once, whatever their spelling; parameters are sorted."""
    assert canonical_path(b"/a%20b/%7Ec/d+e/%2f//") == b"/a%20b/~c/d%2Be/%2F//".replace(b"%2F", b"/")
    assert canonical_query(b"b=2&a=%7e+1&&c&a=0") == b"a=0&a=~%201&b=2&c="


def test_what_is_signed() -> None:
    """Host and Amazon's fields; content is not; what the client says to Amazon is dropped, all else survives."""
    credential = S3(KEY, lambda: NOON)
    lines = [(b"Range", b"bytes=0-9"), (b"If-None-Match", b'"x"')]
    kept = credential.without_clients(Fields([*lines, (b"X-Amz-Acl", b"public"), OWN]))
    assert list(kept) == lines
    for method, body, payload in ((b"GET", None, EMPTY), (b"HEAD", None, EMPTY), (b"PUT", Body.of(b"x"), UNSIGNED)):
        made = credential.authorize(UpstreamRequest(method, b"/x", [HOST, *kept, CLASS, OWN], body))
        fields = Fields(made.fields)
        assert fields.get(b"x-amz-content-sha256") == payload
        assert fields.get(b"range") == b"bytes=0-9"
        (value,) = fields.all(b"authorization")
        assert b"SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-storage-class," in value
        assert SECRET not in repr((credential, made))
        assert "Signature" not in repr(made)


def test_nothing_secret_is_in_a_repr() -> None:
    """Of none of them."""
    for one in (bearer("s3cret"), basic("u", "s3cret"), KEY):
        assert "s3cret" not in repr(one)
        assert SECRET not in repr(one)


# --- on a running POP


def with_credentials(tmp_path: Path, kind: str, more: str = "", secret: str = "s3cret") -> str:
    """A site whose rule authenticates upstream."""
    (tmp_path / "secret").write_text(secret + "\n")
    table = f'[credentials.c]\nkind = "{kind}"\nsecret = "{tmp_path}/secret"\n{more}\n'
    return table + site('origin = "{0}"\n[[sites.rules]]\nname = "r"\nroute = { credentials = "c" }')


async def ask(run: Sites, *fields: tuple[str, str], target: str = "/") -> ReceivedResponse:
    """One request of a.test."""
    return await run.pop.get(target, ("Host", "a.test"), *fields)


@pytest.mark.parametrize(
    ("kind", "more", "wanted"),
    [("bearer", "", "Bearer s3cret"), ("basic", 'user = "u"', "Basic " + b64encode(b"u:s3cret").decode())],
)
async def test_tokens_and_passwords(tmp_path: Path, kind: str, more: str, wanted: str) -> None:
    """They replace the client's; what is asked so may be stored, unless the client authenticated itself."""
    async with sites(with_credentials(tmp_path, kind, more)) as run:
        for again in range(2):
            response = await ask(run, target="/public")
            assert ("hit" in (response.get("cache-status") or "")) is bool(again)
        for _ in range(2):
            await ask(run, ("Authorization", "Bearer mine"), target="/private")
        assert [request.get("authorization") for request in run.origins[0].requests] == [wanted] * 3
        assert all(len(request.all("authorization")) == 1 for request in run.origins[0].requests)


async def test_a_secret_is_read_again_at_a_reload(tmp_path: Path) -> None:
    """The next request has the new one."""
    text = with_credentials(tmp_path, "bearer")
    async with sites(text) as run:
        await ask(run, target="/1")
        (tmp_path / "secret").write_text("another")
        await run.reload(filled(text, run.origins))
        await ask(run, target="/2")
        assert [one.get("authorization") for one in run.origins[0].requests] == ["Bearer s3cret", "Bearer another"]


async def test_s3_on_a_running_pop(tmp_path: Path) -> None:
    """Gets, ranges, validations and uploads; the Host that is signed is the one that is sent."""
    text = with_credentials(tmp_path, "s3", 'user = "AK"').replace(
        'credentials = "c"', 'credentials = "c", host = "bucket.test"'
    )
    async with sites(text) as run:
        run.origins[0].on(
            "/v",
            Reply(fields=[("Cache-Control", "no-cache"), ("ETag", '"v"')], body=b"v"),
            Reply(304, fields=[("ETag", '"v"')]),
        )
        run.origins[0].on("/up", Reply(201))
        await ask(run)
        await ask(run, ("Range", "bytes=0-3"), ("X-Amz-Security-Token", "x"), target="/range")
        for _ in range(2):
            assert (await ask(run, target="/v")).body == b"v"
        assert (
            await run.pop.request("PUT", "/up", ("Host", "a.test"), ("Cookie", "a=b"), body=b"content")
        ).status == 201
        seen = run.origins[0].requests
        assert [request.method for request in seen] == ["GET"] * 4 + ["PUT"]
        assert seen[1].get("range") == "bytes=0-3"
        assert seen[3].get("if-none-match") == '"v"'
        assert bytes(seen[4].body) == b"content"
        for request in seen:
            stamp = datetime.strptime(request.get("x-amz-date") or "", "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
            lines = [(b"host", b"bucket.test")]
            payload = (request.get("x-amz-content-sha256") or "").encode()
            again = AccessKey("AK", "s3cret", "us-east-1").signed(
                request.method.encode(), request.target.encode(), lines, payload, stamp
            )
            assert request.get("authorization") == again[-1][1].decode()
            assert request.get("x-amz-security-token") is None


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('kind = "s3"\nsecret = "{file}"', "user"),
        ('kind = "bearer"\nuser = "u"\nsecret = "{file}"', "user"),
        ('kind = "basic"\nuser = "a:b"\nsecret = "{file}"', "colon"),
        ('kind = "bearer"\nsecret = "/nowhere"', "cannot be read"),
        ('kind = "bearer"\nsecret = "{file}2"', "one line"),
    ],
)
def test_wrong_credentials_are_refused(tmp_path: Path, table: str, words: str) -> None:
    """In a sentence, which has nothing of the secret."""
    (tmp_path / "f").write_text("s3cret")
    (tmp_path / "f2").write_text("s3cret\ns3cret")
    text = "[credentials.c]\n" + table.replace("{file}", str(tmp_path / "f")) + "\n" + site('origin = "http://x"')
    with pytest.raises(ConfigError, match=words) as raised:
        load(environment("http://x", {"sites": text}.items()))
    assert "s3cret" not in str(raised.value)
