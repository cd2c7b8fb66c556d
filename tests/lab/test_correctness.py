"""The random run against a model: short runs find nothing wrong, and find what is planted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.correctness import judge, places
from loadtests.correctness.client import Received, parts_of
from loadtests.correctness.content import Resource
from loadtests.correctness.history import History

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent


def run(place: str, requests: int, product: str = "") -> subprocess.CompletedProcess[str]:
    """The program, in a process of its own."""
    command = [sys.executable, "-m", "loadtests", "correctness", "--only", place]
    command += ["--requests", str(requests), "--product", product]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("place", places.NAMES)
def test_nothing_is_wrong(place: str) -> None:
    """Of a thousand random requests each."""
    done = run(place, 1000)

    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 wrong" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "said"),
    [("soft_purge_late", "was promised"), ("stored_length", "Content-Length"), ("large_range", "cut")],
)
def test_a_planted_fault_is_found(fault: str, said: str) -> None:
    """One that softens too late, one that loses bytes of what is stored, one that cannot answer large ranges."""
    done = run("memory", 3000, f"{TESTS.parent}:{TESTS / 'planted' / fault}")

    assert done.returncode == 1, done.stdout + done.stderr
    assert said in done.stdout


# --- the model


def test_what_was_promised_is_the_least() -> None:
    """A version older than what a write or a purge promised before the request is wrong, after it it is not."""
    history = History(Resource("/r", 10, ttl=60))
    history.publish(100.0)
    history.promise(101.0, 1, "a test")

    assert history.problem(0, 100.5, 100.9, 1) == ""
    assert "was promised" in history.problem(0, 101.5, 101.6, 1)
    assert history.problem(1, 101.5, 101.6, 1) == ""


def test_what_is_older_than_its_lifetime_is_wrong() -> None:
    """But for what rounding to whole seconds allows."""
    history = History(Resource("/r", 10, ttl=2))
    history.publish(100.0)

    assert history.problem(0, 102.0, 102.1, 1) == ""
    assert "is 4.0 s old" in history.problem(0, 104.0, 104.1, 1)
    assert history.problem(0, 104.0, 104.1, 2) == ""
    assert "did not exist" in history.problem(2, 104.0, 104.1, 1)


def test_a_soft_purge_is_a_promise_unless_stale_is_allowed() -> None:
    """With stale-while-revalidate the old version may be seen once more."""
    for swr, wrong in ((0, True), (5, False)):
        history = History(Resource("/r", 10, ttl=60, swr=swr))
        history.publish(100.0)
        history.promise(101.0, 1, "a test", soft=True)

        assert bool(history.problem(0, 102.0, 102.1, 1)) is wrong


def answer(status: int, body: bytes, **fields: str) -> Received:
    """A response of version 0 of the resource below."""
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return Received(status, {"object-version": "0-any", "etag": '"0-any"', **named}, body)


@pytest.mark.parametrize(
    ("got", "wrong"),
    [
        (lambda body: answer(200, body, content_length="100"), ""),
        (lambda body: answer(200, body[:1], content_length="1"), "Content-Length 1"),
        (lambda body: answer(200, body[:-1] + b"?", content_length="100"), "bytes that are not"),
        (lambda body: answer(206, body[10:20], content_range="bytes 10-19/100"), ""),
        (lambda body: answer(206, body[11:21], content_range="bytes 10-19/100"), "are not those"),
        (lambda body: answer(206, body[10:20], content_range="bytes 10-19/99"), "Content-Range of 99"),
        (lambda body: answer(206, body[10:15], content_range="bytes 10-14/100"), "are missing"),
        (lambda body: answer(416, b""), "can be satisfied"),
        (lambda body: answer(304, b""), "another validator"),
        (lambda body: answer(502, b""), "status 502"),
        (lambda body: Received(200, {"content-length": "100"}, body), "no version"),
        (lambda body: answer(200, body, etag='"1-any"'), "ETag"),
    ],
)
def test_a_response_is_judged(got, wrong: str) -> None:  # type: ignore[no-untyped-def]
    """By its bytes, its range, its length, its validator."""
    resource = Resource("/r", 100)
    asked = judge.Asked("GET", History(resource), "", {}, 1.0, 2.0, ranges=[(10, 19)])

    said = judge.problem(asked, got(resource.body(0, "any")), 1)

    assert wrong in said if wrong else said == ""


def test_parts_of_a_multipart_body_are_read() -> None:
    """Each with its place and its bytes."""
    body = b"".join(
        b"--b\r\nContent-Type: text/plain\r\nContent-Range: bytes %d-%d/9\r\n\r\n%b\r\n" % (first, last, content)
        for first, last, content in ((0, 1, b"ab"), (4, 6, b"\r\n-"))
    )

    assert parts_of(body + b"--b--\r\n", b"b") == [(0, 1, 9, b"ab"), (4, 6, 9, b"\r\n-")]
