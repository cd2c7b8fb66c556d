"""The fuzz target runs, finds nothing in a short run, and finds what is planted."""

from __future__ import annotations

import pytest
from fuzz import __main__ as fuzz

from edgecache.semantics import cache_control
from edgecache.wire.h1.head import Parsed, RequestHeads


@pytest.mark.slow
def test_a_short_run_finds_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """A few thousand inputs on every level end in a table and exit code 0."""
    assert fuzz.main(["--inputs", "5000", "--socket-inputs", "300", "--seed", "7"]) == 0

    table = capfd.readouterr().out
    for name in ("request streams", "response streams", "field values", "sockets"):
        assert name in table


def test_an_exception_is_a_crash(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """What is no named refusal is found, and told with its input."""

    def broken(*_: object) -> None:
        raise KeyError("planted")

    monkeypatch.setattr(cache_control, "parse_directives", broken)
    cache_control.parse_response_directives.forget()
    assert fuzz.main(["--inputs", "200", "--socket-inputs", "0"]) == 1

    assert "planted" in capfd.readouterr().err


def test_a_disagreement_is_a_crash(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """A request that is sent on as another one is found."""
    parse = RequestHeads.parse

    def other(heads: RequestHeads, raw: bytes, scheme: bytes = b"http") -> Parsed:
        request, hop = parse(heads, raw, scheme)
        return request._replace(target=request.target + b" HTTP/1.1\r\nX:"), hop

    monkeypatch.setattr(RequestHeads, "parse", other)
    assert fuzz.main(["--inputs", "500", "--socket-inputs", "0"]) == 1

    assert "request streams" in capfd.readouterr().err
