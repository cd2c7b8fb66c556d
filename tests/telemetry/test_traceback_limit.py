"""What a bug that every request meets costs in the log: a few tracebacks, then one line now and then."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
from harness.clock import FakeClock

from edgecache.telemetry.traceback_limit import WINDOW, TracebackLimit

log = logging.getLogger("edgecache.test_traceback_limit")


@pytest.fixture
def clock() -> FakeClock:
    """What the limit goes by."""
    return FakeClock()


@pytest.fixture
def written(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What a handler with such a limit writes; pytest's own handlers, which have none, see nothing of it."""
    monkeypatch.setattr(log, "propagate", False)
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(TracebackLimit(clock))
    log.addHandler(handler)
    yield stream
    log.removeHandler(handler)


def fail(kind: type[Exception], times: int) -> None:
    """A bug that is met so often."""
    for number in range(times):
        try:
            raise kind(f"of request {number}")
        except Exception:
            log.exception("a bug: request %d failed", number)


def test_a_bug_met_by_every_request_is_logged_in_full_a_few_times(written: io.StringIO) -> None:
    """Whatever each request's own words are, three tracebacks a minute, and a count at every power of ten."""
    fail(ValueError, 12_345)
    text = written.getvalue()
    assert text.count("Traceback") == 3
    assert [line for line in text.splitlines() if "times" in line] == [
        f"a bug: request {count - 1} failed (ValueError, {count} times in a minute)" for count in (10, 100, 1000, 10000)
    ]


def test_another_bug_is_logged_in_full(written: io.StringIO) -> None:
    """A bug does not hide another one, nor itself later on."""
    fail(ValueError, 100)
    fail(KeyError, 1)
    assert written.getvalue().count("Traceback") == 4


def test_a_bug_is_logged_in_full_again_after_a_while(written: io.StringIO, clock: FakeClock) -> None:
    """Each minute begins anew."""
    fail(ValueError, 100)
    clock.advance(WINDOW + 1)
    fail(ValueError, 100)
    assert written.getvalue().count("Traceback") == 6


def test_what_is_no_bug_is_not_limited(written: io.StringIO) -> None:
    """Lines without a traceback all pass."""
    for _ in range(20):
        log.warning("as it is")
    assert written.getvalue() == "as it is\n" * 20
