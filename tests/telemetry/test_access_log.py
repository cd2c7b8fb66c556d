"""The access log: one whole line per request, whatever the request says and whatever the file does."""

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.semantics.message import Fields, Request
from edgecache.telemetry.access_log import PIECE, AccessLog, LineWriter, LogRecord, Quoted, line, members_of

DEADLINE = 10.0


def asked(target: bytes, agent: bytes, referer: bytes = b"") -> Request:
    """A GET."""
    fields = Fields([(b"User-Agent", agent), (b"Referer", referer)])
    return Request(b"GET", target, b"example.org", fields)


RECORD = LogRecord(
    time=1718000000.1234,
    client="192.0.2.1",
    request=members_of(asked(b"/a?b=c", b'curl "8"'), Quoted()),
    status=200,
    size=1024,
    duration_ms=1.25,
    cache=b"pop; hit; ttl=30",
    outcome='"result":"hit","tier":"memory","reason":"fresh"',
)


class File:
    """A file that can be full, or blocked until it is released."""

    def __init__(self) -> None:
        self.text = b""
        self.full = False
        self.entered = threading.Event()
        self.released = threading.Event()
        self.released.set()

    def write(self, chunk: bytes) -> None:
        """Take a chunk."""
        self.entered.set()
        assert self.released.wait(DEADLINE)
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.text += chunk


@pytest.fixture
def file() -> File:
    """A file that takes everything."""
    return File()


def test_a_record_is_one_json_object(file: File) -> None:
    """Each request becomes a line with its fields in plain words."""
    with closing(AccessLog(1.0, file.write)) as log:
        log.add(RECORD)

    assert json.loads(file.text) == {
        "time": 1718000000.123,
        "client": "192.0.2.1",
        "method": "GET",
        "scheme": "http",
        "protocol": "HTTP/1.1",
        "host": "example.org",
        "target": "/a?b=c",
        "status": 200,
        "bytes": 1024,
        "duration_ms": 1.25,
        "cache": "pop; hit; ttl=30",
        "result": "hit",
        "tier": "memory",
        "reason": "fresh",
        "user_agent": 'curl "8"',
        "referer": "",
    }
    assert (log.written, log.dropped) == (1, 0)


def test_a_plain_tuple_will_do(file: File) -> None:
    """The hot path need not make a LogRecord."""
    with closing(AccessLog(1.0, file.write)) as log:
        log.add((*RECORD,))

    assert json.loads(file.text)["target"] == "/a?b=c"


def test_lines_keep_the_order_of_requests(file: File) -> None:
    """Flushes come one after the other in the file."""
    with closing(AccessLog(1.0, file.write)) as log:
        for status in (200, 304, 404, 502):
            log.add(RECORD._replace(status=status))
            log.flush()

    assert [json.loads(one)["status"] for one in file.text.splitlines()] == [200, 304, 404, 502]


@given(st.binary(max_size=600))
def test_no_text_breaks_a_line(text: bytes) -> None:
    """Whatever a client sends, the line is ASCII, is one line to every reader, and is valid JSON."""
    record = RECORD._replace(request=members_of(asked(text, text), Quoted()))
    written = line(record, Quoted())

    assert written.isascii()
    assert written.splitlines() == [written.removesuffix("\n")]
    assert json.loads(written)["target"] == json.loads(written)["user_agent"]


def test_bytes_outside_ascii_are_escaped() -> None:
    r"""Bytes and characters outside ASCII are written as `\xe9` and `\u2028`."""
    record = RECORD._replace(
        request=members_of(asked(b"/caf\xc3\xa9", b"\x00"), Quoted()), client="a\u2028b", cache="\ud800\x00"
    )
    written = json.loads(line(record, Quoted()))

    assert (written["target"], written["client"]) == ("/caf\\xc3\\xa9", "a\\u2028b")
    assert (written["cache"], written["user_agent"]) == ("\\ud800\x00", "\x00")


def test_remembered_texts_are_bounded() -> None:
    """Texts that clients choose cannot fill the memory."""
    quoted = Quoted()
    for number in range(3 * Quoted.most):
        assert quoted[b"/%d" % number] == f'"/{number}"'
    assert quoted["x" * 1000] == f'"{"x" * 1000}"'

    assert len(quoted) <= Quoted.most
    assert "x" * 1000 not in quoted


def test_a_fraction_is_logged(file: File) -> None:
    """Each request is logged with the chance that was set."""
    chances = iter([0.1, 0.3, 0.2, 0.9])
    with closing(AccessLog(0.25, file.write, chance=lambda: next(chances))) as log:
        for status in (200, 201, 202, 203):
            log.add(RECORD._replace(status=status))

    assert [json.loads(one)["status"] for one in file.text.splitlines()] == [200, 202]


def test_nothing_is_logged_when_off(file: File) -> None:
    """A log that is off costs nothing and starts no thread."""
    before = threading.active_count()
    with closing(AccessLog(0.0, file.write)) as log:
        log.add(RECORD)
        log.flush()

        assert threading.active_count() == before
    assert file.text == b""


def test_a_blocked_file_drops_instead_of_waiting(file: File) -> None:
    """While nobody reads, requests go on: what does not fit the queue is counted, and what fits is written later."""
    size = len(line(RECORD, Quoted()))
    log = AccessLog(1.0, file.write, max_pending=3 * size)
    file.released.clear()
    for _ in range(5):
        log.add(RECORD)
        log.flush()

    assert log.dropped == 2
    file.released.set()
    log.close(DEADLINE)
    assert (log.written, log.dropped, file.text.count(b"\n")) == (3, 2, 3)


def test_a_full_disk_costs_only_log_lines(file: File) -> None:
    """ENOSPC is counted, and the log goes on when there is space again."""
    log = AccessLog(1.0, file.write)
    file.full = True
    log.add(RECORD)
    log.flush()
    assert file.entered.wait(DEADLINE)
    log.add(RECORD._replace(status=503))
    log.close(DEADLINE)

    assert (log.written, log.dropped) == (0, 2)


def test_a_record_of_the_wrong_shape_costs_itself_only(file: File) -> None:
    """A programming error in one record loses one line."""
    with closing(AccessLog(1.0, file.write)) as log:
        log.add(RECORD)
        log.add(RECORD._replace(duration_ms=None))  # type: ignore[arg-type]
        log.add(RECORD._replace(status=404))

    assert [json.loads(one)["status"] for one in file.text.splitlines()] == [200, 404]
    assert log.dropped == 1


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The two ends of a pipe: to read, to write."""
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


@pytest.mark.slow
def test_writers_that_share_a_pipe_never_mix_lines(pipe: tuple[int, int]) -> None:
    """Chunks far larger than a pipe takes at once arrive whole, from two processes."""
    reading, writing = pipe
    program = (
        "import sys; from edgecache.telemetry.access_log import LineWriter; write = LineWriter(int(sys.argv[1]))\n"
        "for _ in range(20): write((sys.argv[2] * 999 + chr(10)).encode() * 200)"
    )
    command = [sys.executable, "-c", program, str(writing)]
    with (
        subprocess.Popen([*command, "a"], pass_fds=[writing]),
        subprocess.Popen([*command, "b"], pass_fds=[writing]),
    ):
        lines = read_lines(reading, 2 * 20 * 200)

    assert set(lines) == {b"a" * 999, b"b" * 999}


def read_lines(descriptor: int, count: int) -> list[bytes]:
    """So many lines out of a pipe."""
    text = b""
    while text.count(b"\n") < count:
        text += os.read(descriptor, 1 << 20)
    return text.splitlines()


def test_the_log_is_formatted_in_pieces(file: File) -> None:
    """So that requests get their turn: each piece is bounded, what comes meanwhile waits for the next round."""
    with closing(AccessLog(1.0, file.write)) as log:
        for _ in range(2 * PIECE + 1):
            log.add(RECORD)
        more = [log.flush_some()]
        log.add(RECORD)
        more += [log.flush_some(), log.flush_some()]
        assert more == [True, True, False]
        assert log.flush_some() is False

    assert len({*file.text.splitlines()}) == 1
    assert (log.written, log.dropped) == (2 * PIECE + 2, 0)


def test_lines_that_are_written_already_go_the_same_way(file: File) -> None:
    """A choice of fields is written at once; one that cannot be costs itself only."""

    def wrong() -> str:
        raise TypeError("a bug")

    with closing(AccessLog(1.0, file.write)) as log:
        log.add_line(lambda: "{}\n")
        log.add_line(wrong)
        log.add(RECORD)
    assert file.text.splitlines()[0] == b"{}"
    assert (log.written, log.dropped) == (2, 1)


def test_a_fraction_of_them_is_logged(file: File) -> None:
    """As of the usual lines; what is not logged is not made."""
    chances, made = iter([0.1, 0.9]), []
    with closing(AccessLog(0.25, file.write, chance=lambda: next(chances))) as log:
        for number in (1, 2):
            log.add_line(lambda number=number: (made.append(number), "{}\n")[1])  # type: ignore[misc]
    assert made == [1]


def test_a_write_that_failed_half_way_does_not_spoil_the_next(
    monkeypatch: pytest.MonkeyPatch, pipe: tuple[int, int]
) -> None:
    """After a torn line the next chunk begins on a line of its own."""
    written = b""
    space = [5, 0, 100]

    def full_disk(descriptor: int, chunk: memoryview) -> int:
        nonlocal written
        if (free := space.pop(0)) == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written += bytes(chunk[:free])
        return min(free, len(chunk))

    monkeypatch.setattr(os, "write", full_disk)
    write = LineWriter(pipe[1])
    with pytest.raises(OSError, match="No space left"):
        write(b"first line\n")
    write(b"second line\n")

    assert written == b"first\nsecond line\n"


def test_a_full_device_is_an_error_of_the_write() -> None:
    """The writer reports what the file system says, and AccessLog counts it."""
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError, match="No space left"):
        LineWriter(full.fileno())(b"line\n")


def test_a_non_blocking_pipe_is_waited_for(pipe: tuple[int, int]) -> None:
    """A pipe that another program made non-blocking still gets every byte."""
    reading, writing = pipe
    os.set_blocking(writing, False)
    chunk = b"x" * 999 + b"\n"
    writer = threading.Thread(target=LineWriter(writing), args=(chunk * 1000,))
    writer.start()
    lines = read_lines(reading, 1000)
    writer.join(DEADLINE)

    assert set(lines) == {b"x" * 999}
