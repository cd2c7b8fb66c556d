"""Thousands of sockets that send little or nothing, in a process of its own.

Told by lines on standard input: `open PORT COUNT KIND` opens so many of a kind, `report` waits until the server has
ended them all and prints what came of them as JSON, `quit` ends. A socket that the server has ended is kept as it is:
its file must return to the server without any help.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from dataclasses import dataclass

DRIP_EVERY = 2.0  # seconds
GIVE_UP = 40.0  # seconds after which a socket that is still open counts as never closed

HEAD = b"GET /o/0 HTTP/1.1\r\nHost: site\r\n"
POST = b"POST /p/0 HTTP/1.1\r\nHost: site\r\nContent-Length: 100000\r\n\r\n"
WHOLE = b"GET /o/0 HTTP/1.1\r\nHost: site\r\n\r\n"
BIG = b"GET /o/unread?size=4000000 HTTP/1.1\r\nHost: site\r\n\r\n"
FIRST = {"silent": b"", "drip-head": HEAD + b"X: ", "no-body": POST, "drip-body": POST, "idle": WHOLE, "unread": BIG}
DRIPS = {"drip-head": b"x", "drip-body": b"x"}


@dataclass
class Slow:
    """One socket, and since when it is overdue."""

    socket: socket.socket
    kind: str
    began: float  # monotonic seconds: connected, or its last whole request sent
    ended: float = 0.0
    next_drip: float = 0.0
    drained: bool = False  # an `unread` one has been read up to its end


class Flood:
    """All sockets of this process."""

    def __init__(self) -> None:
        self.poll = select.epoll()
        self.open: dict[int, Slow] = {}
        self.all: list[Slow] = []

    def add(self, port: int, count: int, kind: str) -> None:
        """Open `count` sockets of a kind."""
        for number in range(count):
            sock = socket.socket()
            if kind == "unread":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", port))
            sock.setblocking(False)
            if FIRST[kind]:
                sock.send(FIRST[kind])
            now = time.monotonic()
            slow = Slow(sock, kind, now, next_drip=now + DRIP_EVERY * (number + 1) / count)
            self.open[sock.fileno()] = slow
            self.all.append(slow)
            self.poll.register(sock, select.EPOLLRDHUP if kind == "unread" else select.EPOLLIN | select.EPOLLRDHUP)
            if number % 50 == 49:
                self.turn(0.0)

    def turn(self, wait: float) -> None:
        """See what the server does, and drip."""
        for descriptor, event in self.poll.poll(wait):
            slow = self.open.get(descriptor)
            if slow is not None:
                self._look(slow, event)
        now = time.monotonic()
        for slow in tuple(self.open.values()):
            drip = DRIPS.get(slow.kind)
            if drip is not None and now >= slow.next_drip:
                slow.next_drip = now + DRIP_EVERY
                self._send(slow, drip)
            if now - slow.began > GIVE_UP:
                self._end(slow, float("inf"))

    def _send(self, slow: Slow, data: bytes) -> None:
        try:
            slow.socket.send(data)
        except OSError:
            self._end(slow, time.monotonic())

    def _look(self, slow: Slow, event: int) -> None:
        if event & (select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP):
            self._end(slow, time.monotonic())
            return
        try:
            data = slow.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end(slow, time.monotonic())
        elif slow.kind == "idle":
            slow.began = time.monotonic()  # answered: from now on it is idle

    def _end(self, slow: Slow, at: float) -> None:
        slow.ended = at
        descriptor = slow.socket.fileno()
        if self.open.pop(descriptor, None):
            self.poll.unregister(descriptor)

    def report(self) -> dict[str, list[float]]:
        """By kind: how many, and how long the first and the last of them lived, in seconds."""
        while self.open:
            self.turn(0.05)
        lives: dict[str, list[float]] = {}
        for slow in self.all:
            lives.setdefault(slow.kind, []).append(slow.ended - slow.began)
        return {kind: [len(all_), min(all_), max(all_)] for kind, all_ in lives.items()}

    def clear(self) -> None:
        """Close our ends."""
        for slow in self.all:
            slow.socket.close()
        self.all.clear()


def main() -> None:
    """Do as told."""
    flood = Flood()
    commands = select.poll()
    commands.register(sys.stdin.fileno(), select.POLLIN)
    buffer = b""
    while True:
        if commands.poll(0):
            data = sys.stdin.buffer.raw.read(4096)
            if not data:
                return
            buffer += data
        line, found, rest = buffer.partition(b"\n")
        if not found:
            flood.turn(0.02)
            continue
        buffer = rest
        match line.decode().split():
            case ["open", port, count, kind]:
                flood.add(int(port), int(count), kind)
                print(json.dumps("open"), flush=True)
            case ["report"]:
                print(json.dumps(flood.report()), flush=True)
            case ["clear"]:
                flood.clear()
                print(json.dumps("clear"), flush=True)


if __name__ == "__main__":
    main()
