"""An adversary's look at access: what refusals tell of the store, and paths that are signed, cached and asked for."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from harness.client import ReceivedResponse
from harness.origin import ReceivedRequest, Reply
from harness.sites import two_sites

from edgecache.semantics import uri
from edgecache.semantics.path_readings import readings
from edgecache.semantics.signing.own_format import token_for
from edgecache.semantics.signing.secure_link import digest, nginx_uri

HOST = ("Host", "a.test")
NOW = 1_700_000_000
KEY = b"a secret of the tests"

# --- what a refusal tells

PROTECTED = """
[[sites.rules]]
name = "office"
when = { path_prefix = "/in" }
access = { allow = ["10.0.0.0/8"] }
[[sites.rules]]
name = "pages"
debug = ["x-cache", "server-timing"]
cors = { origins = ["https://app.test"] }
security_headers = "strict"
cache = { stale_while_revalidate = "30s", stale_if_error = "1h" }
"""
INSIDE, OUTSIDE = ("X-Forwarded-For", "10.1.2.3"), ("X-Forwarded-For", "192.0.2.1")
QUESTIONS: list[tuple[str, list[tuple[str, str]]]] = [
    ("GET", []),
    ("HEAD", []),
    ("GET", [("If-None-Match", '"of-it"')]),
    ("GET", [("If-None-Match", "*")]),
    ("GET", [("If-Modified-Since", "Wed, 21 Oct 2035 07:28:00 GMT")]),
    ("GET", [("If-Match", '"other"')]),
    ("GET", [("Range", "bytes=0-0")]),
    ("GET", [("Range", "bytes=99999-")]),
    ("GET", [("Range", "bytes=0-0"), ("If-Range", '"of-it"')]),
    ("GET", [("Cache-Control", "only-if-cached")]),
    ("GET", [("Cache-Control", "no-cache")]),
    ("GET", [("Cache-Control", "max-stale")]),
    ("GET", [("Accept-Encoding", "gzip")]),
    ("GET", [("Origin", "https://app.test")]),
    ("OPTIONS", [("Origin", "https://app.test")]),
    ("OPTIONS", [("Max-Forwards", "0")]),
    ("QUERY", []),
    ("POST", []),
    ("DELETE", []),
    ("PURGE", []),
    ("PURGE", [("Authorization", "Bearer wrong-secret-of-nobody")]),
    ("GET", [("Edgecache-Token", "eu:1-0")]),
    ("GET", [("Edgecache-Pop", "child"), ("Edgecache-Hops", "1")]),
    ("GET", [("X-Edgecache-Debug", "1"), ("Fastly-Debug", "1"), ("Pragma", "akamai-x-check-cacheable")]),
]


def told(response: ReceivedResponse) -> str:
    """All that a client can read of a response, but for the time."""
    fields = [(name.lower(), value) for name, value in response.fields if name.lower() not in ("date", "server-timing")]
    return repr((response.status, fields, response.body))


async def test_no_question_is_answered_by_the_store_to_a_client_who_may_not_read() -> None:
    """Not stored, fresh, stale, purged, marked as private or of an origin that is down: all answers are the same."""
    token = "0123456789abcdef"
    options = {"trusted_proxies": "127.0.0.1", "purge_tokens": f"all={token}"}
    async with two_sites(PROTECTED, **options) as (pop, a, _):
        fields = [("Cache-Control", "max-age=60"), ("ETag", '"of-it"'), ("Cache-Tag", "t")]
        a.on("/in/x", Reply(fields=fields, body=b"secret content"))
        answers: dict[str, list[str]] = {}

        async def ask(state: str) -> None:
            asked = len(a.requests)
            answers[state] = [
                told(await pop.request(method, "/in/x", HOST, OUTSIDE, *more)) for method, more in QUESTIONS
            ]
            assert len(a.requests) == asked

        await ask("not stored")
        for _ in range(3):
            assert (await pop.get("/in/x", HOST, INSIDE)).status == 200
        await ask("fresh")
        pop.clock.advance(70)
        await ask("stale")
        await pop.request("PURGE", "/in/x", HOST, ("Authorization", f"Bearer {token}"))
        await ask("purged")
        a.on("/in/x", Reply(fields=[("Cache-Control", "private")], body=b"secret content"))
        await pop.get("/in/x", HOST, INSIDE)
        await ask("private")
        a.on("/in/x", Reply(503, body=b"down"))
        await pop.get("/in/x", HOST, INSIDE)
        await ask("down")

        for state, given in answers.items():
            for number, answer in enumerate(given):
                assert answer == answers["not stored"][number], (state, QUESTIONS[number])
        everything = repr(answers)
        assert "secret content" not in everything
        assert "; hit" not in everything
        assert "HIT" not in everything


# --- paths

DISGUISES = (
    lambda lots, path: path.replace(path[(at := lots.randrange(1, len(path)))], f"%{ord(path[at]):02x}", 1),
    lambda lots, path: path.replace("/", "//", 1),
    lambda lots, path: "/x/.." + path,
    lambda lots, path: "/x/%2e%2e" + path,
    lambda lots, path: "/." + path,
    lambda lots, path: path + ";v=1",
    lambda lots, path: path.replace("/film", "/film;a", 1),
    lambda lots, path: path + "/../other",
    lambda lots, path: path + "/..%2fother",
    lambda lots, path: path + "/%2e%2e/other",
    lambda lots, path: path + "/..%5cother",
    lambda lots, path: path + "/..;/other",
    lambda lots, path: path.upper(),
    lambda lots, path: path.replace("%", "%25"),
    lambda lots, path: path + "%00",
    lambda lots, path: path + "%3Fx",
    lambda lots, path: path + "/",
    lambda lots, path: path + "\\..\\other",
)
SIGNED = """
[[sites.rules]]
name = "own"
when = {{ path_prefix = "/own" }}
access.signed = {{ keys = {{ k1 = "{at}" }} }}
[[sites.rules]]
name = "nginx"
when = {{ path_prefix = "/nginx" }}
access.signed = {{ keys = {{ k1 = "{at}" }}, format = "nginx-secure-link" }}
"""


def query_of(kind: str, path: str) -> str:
    """A signature of `path`: exact, of all below it, or as nginx has it."""
    expires = NOW + 3600
    if kind == "nginx":
        return f"md5={digest(f'{expires}{path} '.encode() + KEY).decode()}&expires={expires}"
    made = token_for("k1", KEY, expires, host=b"a.test", target=path.encode(), is_prefix=kind == "prefix")
    return f"edgecache-token={made.decode()}"


def is_what_was_signed(kind: str, signed_path: str, asked: str) -> bool:
    """Whether an origin that gets the path `asked` cannot take it for anything but what was signed."""
    if kind == "exact":
        return asked == signed_path
    if kind == "nginx":
        return nginx_uri(asked.encode()) == signed_path.encode()
    all_readings = [uri.path_of(asked.encode()), *readings(asked.encode())]
    return all(one == signed_path.encode() or one.startswith(signed_path.encode() + b"/") for one in all_readings)


@pytest.mark.parametrize("seed", range(3))
async def test_the_path_that_is_signed_is_the_one_that_is_cached_and_asked_for(seed: int, tmp_path: Path) -> None:
    """Over 300 disguised paths: what is accepted is what was signed, and each client gets what it has asked for."""
    lots = random.Random(seed)
    (tmp_path / "key").write_bytes(KEY)

    def echo(request: ReceivedRequest) -> Reply:
        return Reply(200, [("Cache-Control", "max-age=600")], request.target.encode())

    async with two_sites(SIGNED.format(at=tmp_path / "key")) as (pop, a, _):
        a.otherwise(echo)
        accepted = refused = 0
        for _ in range(100):
            kind = lots.choice(("exact", "prefix", "nginx"))
            path = f"/{'nginx' if kind == 'nginx' else 'own'}/film{lots.randrange(3)}"
            query = query_of(kind, path)
            original = await pop.get(f"{path}?{query}", HOST)
            assert (original.status, original.body) == (200, path.encode())
            disguised = lots.choice(DISGUISES)(lots, path)
            if lots.random() < 0.3:
                disguised = lots.choice(DISGUISES)(lots, disguised)
            response = await pop.get(f"{disguised}?{query}", HOST)
            if response.status != 200:
                assert response.status in (400, 403), response.status
                refused += 1
                continue
            accepted += 1
            asked = response.body.decode()
            assert asked == disguised, kind
            assert is_what_was_signed(kind, path, asked), (kind, path, asked)
        assert all("edgecache-token" not in one.target and "md5" not in one.target for one in a.requests)
        assert refused > 20
        assert accepted > 5


# --- parameters

PREVIEWS = """
[[sites.rules]]
name = "previews"
when = { query = { preview = true } }
access = { allow = ["10.0.0.0/8"] }
"""


async def test_a_parameter_is_found_however_an_origin_separates_it() -> None:
    """By semicolons, or in another case; it is not in the value of another."""
    async with two_sites(PREVIEWS) as (pop, a, _):
        for query in ("preview=1", "a=1;preview=1", "a;preview", "PREVIEW=1", "a=1&Preview", "a=1;%70review=1"):
            for method in ("GET", "HEAD"):
                assert (await pop.request(method, f"/p?{query}", HOST)).status == 403, query
        assert (await pop.get(f"/p?{'a;' * 300}preview=1", HOST)).status == 403
        assert a.requests == []
        for query in ("a=preview", "a=1;b=preview", "previews=1"):
            assert (await pop.get(f"/p?{query}", HOST)).status == 200, query
