"""Why a response is not stored: `Cache-Status`, the log and the metrics say the same, for every way in."""

from __future__ import annotations

from typing import Any

import pytest
from harness.client import until
from harness.observed import logged, samples
from harness.origin import OriginDouble, Reply
from harness.pop import Pop, running_pop
from harness.valkey import Server
from harness.wire import Truncated

FRESH = ("Cache-Control", "max-age=60")
PREFIX = "edgecache_not_stored_total,"


def counted(pop: Pop) -> dict[str, float]:
    """Responses not stored so far, by reason, without those that are 0."""
    found = samples(pop.worker.snapshot())
    return {key.removeprefix(PREFIX): value for key, value in found.items() if key.startswith(PREFIX) and value}


REFUSED = [
    ("no-store", "GET", [("Cache-Control", "no-store")], []),
    ("private", "GET", [("Cache-Control", "private")], []),
    ("set-cookie", "GET", [FRESH, ("Set-Cookie", "a=b")], []),
    ("vary-star", "GET", [FRESH, ("Vary", "*")], []),
    ("per-user-vary", "GET", [FRESH, ("Vary", "Cookie")], [("Cookie", "a=b")]),
    ("authorization", "GET", [FRESH], [("Authorization", "Basic eA==")]),
    (
        "coding",
        "GET",
        [FRESH, ("Vary", "Accept-Encoding"), ("Content-Encoding", "gzip")],
        [("Accept-Encoding", "identity")],
    ),
    ("request-no-store", "GET", [FRESH], [("Cache-Control", "no-store")]),
    ("useless", "GET", [("Cache-Control", "max-age=0")], []),
    ("method", "OPTIONS", [FRESH], []),
]


@pytest.mark.parametrize(("reason", "method", "answers", "asks"), REFUSED)
async def test_the_reason_is_said_wherever_an_answer_is_not_stored(
    origin: OriginDouble, reason: str, method: str, answers: Any, asks: Any
) -> None:
    """The detail of Cache-Status, `not_stored` in the log and the counter's label are one word (RFC 9211 §2.8)."""
    origin.on("/a", Reply(fields=answers, body=b"hello"))
    async with running_pop(origin, access_log="json") as pop:
        lines = logged(pop)
        answer = await pop.request(method, "/a", *asks)
        assert (answer.get("Cache-Status") or "").endswith(f"; detail={reason}")
        assert "stored" not in (answer.get("Cache-Status") or "").split("; ")
        assert counted(pop) == {reason: 1}
    assert [line.get("not_stored") for line in lines] == [reason]


async def test_a_post_and_a_get_with_content_say_why_too(origin: OriginDouble) -> None:
    """Relays that are never candidates are counted as well."""
    origin.on("/a", Reply(fields=[FRESH], body=b"hello"))
    async with running_pop(origin) as pop:
        answer = await pop.request("POST", "/a", body=b"x")
        assert answer.get("Cache-Status") == "test; fwd=method; fwd-status=200; detail=method"
        answer = await pop.request("GET", "/a", body=b"x")
        assert answer.get("Cache-Status") == "test; fwd=bypass; fwd-status=200; detail=request-content"
        assert counted(pop) == {"method": 1, "request-content": 1}


async def test_a_pass_of_a_marked_url_is_a_bypass_and_counts_each_time(origin: OriginDouble) -> None:
    """Hit-for-miss is no uri-miss; each pass has its reason in the log, by a known head too (RFC 9211 §2.2)."""
    origin.on("/a", Reply(fields=[("Cache-Control", "no-store")], body=b"hello"))
    async with running_pop(origin, access_log="json") as pop, pop.client() as client:
        lines, said = logged(pop), []
        for _ in range(5):
            await client.request("GET", "/a")
            said.append((await client.response()).get("Cache-Status"))
        assert counted(pop) == {"no-store": 5}
    assert said == ["test; fwd=uri-miss; fwd-status=200; detail=no-store"] + 4 * [
        "test; fwd=bypass; fwd-status=200; detail=hit-for-miss"
    ]
    assert [line["not_stored"] for line in lines] == 5 * ["no-store"]
    assert [line["reason"] for line in lines] == ["uri-miss", *4 * ["hit-for-miss"]]


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_what_is_too_large_is_not_said_to_be_stored(origin: OriginDouble, framing: Any) -> None:
    """A length that is known beforehand is judged at once, another at the end, in the log and the metrics."""
    origin.on("/a", Reply(fields=[FRESH], body=b"x" * 300_000, framing=framing))
    async with running_pop(origin, max_object_memory="100KiB", access_log="json", store="off") as pop:
        lines = logged(pop)
        answer = await pop.get("/a")
        assert len(answer.body) == 300_000
        if framing == "length":
            assert answer.get("Cache-Status") == "test; fwd=uri-miss; fwd-status=200; detail=too-large"
        assert counted(pop) == {"too-large": 1}
    assert [line.get("not_stored") for line in lines] == ["too-large"]


async def test_a_body_that_ends_early_is_counted(origin: OriginDouble) -> None:
    """An incomplete response is not stored (RFC 9111 §3.3), and that is said."""
    origin.on("/a", Reply(fields=[FRESH], body=b"hello", cut_at=2))
    async with running_pop(origin) as pop:
        with pytest.raises((Truncated, ConnectionResetError)):
            await pop.get("/a")
        await until(lambda: counted(pop) == {"incomplete": 1})


async def test_a_validation_that_takes_an_answer_away_says_why(origin: OriginDouble) -> None:
    """A 304 that makes what is stored private is a reason as a 200's is."""
    origin.on("/a", Reply(fields=[FRESH, ("ETag", '"1"')], body=b"hello"))
    async with running_pop(origin, access_log="json") as pop:
        lines = logged(pop)
        await pop.get("/a")
        origin.clock.advance(61)
        origin.on("/a", Reply(304, fields=[("Cache-Control", "private"), ("ETag", '"1"')]))
        answer = await pop.get("/a")
        assert (answer.get("Cache-Status") or "").endswith("fwd=stale; fwd-status=304; detail=private")
        assert counted(pop) == {"private": 1}
    assert [line.get("not_stored") for line in lines] == [None, "private"]


async def test_what_the_regional_tier_does_not_take_is_counted(origin: OriginDouble, valkey: Server) -> None:
    """A body that only the regional tier would hold is not stored where that tier refuses its chunks."""
    origin.on("/a", Reply(fields=[FRESH], body=b"x" * 300_000))
    settings = {"regional": valkey.url, "regional_timeout": "5s", "max_object_memory": "100KiB", "access_log": "json"}
    settings["store"] = "off"  # it would take the body
    async with running_pop(origin, origin.clock, **settings) as pop:
        tier = pop.worker._regional
        assert tier is not None, "there is one"
        tier.writes._most_bytes = 1000  # smaller than a chunk
        answer = await pop.get("/a")
        assert len(answer.body) == 300_000
        await until(lambda: counted(pop) == {"regional": 1})


async def test_what_is_stored_has_no_reason(origin: OriginDouble) -> None:
    """A miss that is stored says so, and a hit says nothing of it."""
    origin.on("/a", Reply(fields=[FRESH], body=b"hello"))
    async with running_pop(origin, access_log="json") as pop:
        lines = logged(pop)
        first, second = await pop.get("/a"), await pop.get("/a")
        assert first.get("Cache-Status") == "test; fwd=uri-miss; fwd-status=200; stored"
        assert second.get("Cache-Status") == "test; hit; ttl=60"
        assert counted(pop) == {}
    assert all("not_stored" not in line for line in lines)


POLICIES: list[list[tuple[str, str]]] = [
    [FRESH],
    [("Cache-Control", "no-store")],
    [("Cache-Control", "private, max-age=60")],
    [("Cache-Control", "max-age=0")],
    [("Cache-Control", "max-age=0"), ("ETag", '"1"')],
    [FRESH, ("Vary", "*")],
    [FRESH, ("Set-Cookie", "a=b")],
    [],
]
STATUSES = (200, 204, 206, 301, 304, 307, 400, 404, 429, 500, 503)
QUESTIONS: list[tuple[str, tuple[tuple[str, str], ...]]] = [
    ("GET", ()),
    ("HEAD", ()),
    ("GET", (("Range", "bytes=0-1"),)),
    ("GET", (("If-None-Match", '"2"'),)),
    ("GET", (("If-Match", '"1"'),)),
    ("GET", (("Authorization", "Basic eA=="),)),
    ("GET", (("Cache-Control", "no-cache"),)),
    ("GET", (("Cookie", "a=b"),)),
    ("DELETE", ()),
    ("PROPFIND", ()),
]


@pytest.mark.slow
@pytest.mark.parametrize("regional", [False, True])
@pytest.mark.parametrize("status", STATUSES)
async def test_every_answer_from_upstream_is_stored_or_says_why(
    origin: OriginDouble, request: pytest.FixtureRequest, status: int, regional: bool
) -> None:
    """Whatever is asked, answered and known: a member with fwd-status says stored, a detail, or is a validation's."""
    settings = {"access_log": "json"}
    if regional:
        settings |= {"regional": request.getfixturevalue("valkey").url, "regional_timeout": "5s"}
    async with running_pop(origin, origin.clock, **settings) as pop:
        lines = logged(pop)
        for number, policy in enumerate(POLICIES):
            part = [("Content-Range", "bytes 0-1/5"), ("ETag", '"1"')] if status == 206 else []
            place = [("Location", "/elsewhere")] if status in (301, 307) else []
            body = b"" if status in (204, 304) else b"he" if status == 206 else b"hello"
            origin.on(f"/{number}", Reply(status, fields=[*policy, *part, *place], body=body))
            for method, fields in (*QUESTIONS, *QUESTIONS):
                answer = await pop.request(method, f"/{number}", *fields)
                said = (answer.get("Cache-Status") or "").split(", ")[-1].split("; ")
                asked = any(word.startswith("fwd-status=") for word in said)
                why = [word for word in said if word in ("stored", "collapsed") or word.startswith("detail=")]
                assert why or not asked or "fwd-status=304" in said, (method, fields, policy, said)
                assert not {"stored", "detail=no-store", "detail=private"} <= set(said)
    for line in lines:
        if "upstream_status" in line and "; stored" in line["cache"]:
            assert "not_stored" not in line, line
        if "detail=" in line["cache"] and line["result"] in ("pass", "miss"):
            assert line["not_stored"], line
