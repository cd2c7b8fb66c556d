"""Three readings of one stream of requests: by h11, by llhttp (httptools) and by `rfc9112.py`; they must agree."""

from __future__ import annotations

from typing import NamedTuple

import h11
import httptools

from hostile import rfc9112


class Seen(NamedTuple):
    """What a reader takes a request for; `host` is the value of its Host field."""

    method: bytes
    target: bytes
    host: bytes
    body: bytes


Reading = list[Seen] | str  # a text says why the reader refused the stream


def by_rfc(stream: bytes) -> Reading:
    """The requests in `stream` as `rfc9112.py` reads them."""
    try:
        return [Seen(one.method, one.target, one.host, one.body) for one in rfc9112.read_requests(stream)]
    except (rfc9112.Malformed, rfc9112.Unfinished) as error:
        return f"{type(error).__name__}: {error}"


def by_h11(stream: bytes) -> Reading:
    """The requests in `stream` as h11 reads them."""
    seen: list[Seen] = []
    try:
        while stream:
            one, stream = _next_by_h11(stream)
            seen.append(one)
    except h11.RemoteProtocolError as error:
        return f"h11: {error}"
    return seen


def _next_by_h11(stream: bytes) -> tuple[Seen, bytes]:
    """The first request in `stream` and what follows it; a new connection each, whatever `Connection` says."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(stream)
    head, body = None, bytearray()
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            host = b", ".join(value for name, value in head.headers if name == b"host")
            return Seen(head.method, head.target, host, bytes(body)), connection.trailing_data[0]
        elif event is h11.NEED_DATA or event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
            raise h11.RemoteProtocolError("unfinished")


class _Callbacks:
    """What llhttp calls back with."""

    def __init__(self) -> None:
        self.target = b""
        self.hosts: list[bytes] = []
        self.body = bytearray()
        self.seen: list[Seen] = []
        self.unfinished = False
        self.parser: httptools.HttpRequestParser | None = None

    def on_message_begin(self) -> None:
        self.target, self.hosts, self.body = b"", [], bytearray()
        self.unfinished = True

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"host":
            self.hosts.append(value)

    def on_body(self, piece: bytes) -> None:
        self.body += piece

    def on_message_complete(self) -> None:
        assert self.parser is not None
        self.unfinished = False
        self.seen.append(Seen(self.parser.get_method(), self.target, b", ".join(self.hosts), bytes(self.body)))


def by_llhttp(stream: bytes) -> Reading:
    """The requests in `stream` as llhttp, strict as it comes, reads them."""
    callbacks = _Callbacks()
    while stream:
        parser = callbacks.parser = httptools.HttpRequestParser(callbacks)
        try:
            parser.feed_data(stream)
        except httptools.HttpParserUpgrade as upgrade:  # what follows is no longer HTTP to llhttp: read it anew
            stream = stream[upgrade.args[0] :]
            continue
        except (httptools.HttpParserError, httptools.HttpParserInvalidMethodError) as error:
            return f"llhttp: {error}"
        break
    return "llhttp: unfinished" if callbacks.unfinished else callbacks.seen


READERS = {"rfc9112": by_rfc, "h11": by_h11, "llhttp": by_llhttp}


def readings(stream: bytes) -> dict[str, Reading]:
    """What each reader takes `stream` for."""
    return {name: read(stream) for name, read in READERS.items()}


def agreed(stream: bytes) -> list[Seen]:
    """The requests in `stream` as all three readers agree; AssertionError with the three readings where not."""
    first, second, third = (read(stream) for read in READERS.values())
    assert first == second == third, f"{stream!r} is read as\n{readings(stream)}"
    assert not isinstance(first, str), f"{stream!r} is refused by all: {first}"
    return first
