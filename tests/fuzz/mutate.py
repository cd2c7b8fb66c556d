"""Inputs: seeds that are cut, spliced, repeated and sprinkled with what parsers have stumbled over before."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random

MOST_SEEDS = 4096  # of the corpus, with what was found on the way
LONGEST = 12_000  # bytes of an input
TOKENS = [
    *(b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\r\n ", b"\r\n\t", b"\x00", b"\x0b", b"\x0c", b"\x7f", b"\x80", b"\xa0"),
    *(
        b" ",
        b"\t",
        b":",
        b" :",
        b",",
        b", ",
        b";",
        b'"',
        b'\\"',
        b"=",
        b"/",
        b"?",
        b"#",
        b"@",
        b"%0d%0a",
        b"%00",
        b"//",
    ),
    *(b"0", b"-1", b"+5", b"0x5", b"5_0", b"005", b"9" * 18, b"9" * 19, b"18446744073709551621", b"5\r\nabcde\r\n"),
    *(b"0\r\n\r\n", b";a=b", b';a="b"', b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2.0", b"http://b/", b"[::1]", b"a:80", b"*"),
    *(
        b"Content-Length: 5\r\n",
        b"Content-Length: 0\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Host: b\r\n",
        b"TE: x\r\n",
    ),
    *(b"Transfer_Encoding: chunked\r\n", b"Connection: close\r\n", b"Connection: Host\r\n", b"Connection: X-A\r\n"),
    *(
        b"Expect: 100-continue\r\n",
        b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
        b"Upgrade: h2c\r\n",
        b"X-A: b\r\n",
    ),
    *(
        b"Range: bytes=0-1\r\n",
        b"If-None-Match: *\r\n",
        b"Cache-Control: max-age=0\r\n",
        b"Vary: *\r\n",
        b"Age: -1\r\n",
    ),
    *(b"Cache-Control: private\r\n", b"Cache-Control: max-age=60\r\n", b'ETag: "a"\r\n', b"Content-Encoding: gzip\r\n"),
    *(
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST ",
        b"HEAD ",
    ),
]
VALUE_TOKENS = [
    *(b"max-age=", b"s-maxage=60", b"private", b"no-store", b'private="x"', b"public", b"no-cache", b"must-understand"),
    *(
        b"gzip",
        b"br;q=0",
        b"*;q=0.5",
        b";q=1.0001",
        b"identity",
        b"bytes=",
        b"0-1",
        b"-5",
        b"5-",
        b"bytes 0-4/10",
        b"/*",
    ),
    *(b"Tue, 14 Nov 2023 22:13:20 GMT", b"Tuesday, 14-Nov-23 22:13:20 GMT", b"Tue Nov 14 22:13:20 2023", b"00:00:60"),
    *(b'"a"', b'W/"a"', b"*", b"key-order", b"params", b'params=("a" "b")', b'except=("a")', b"?0", b"?1", b"(", b")"),
    *(b"http://a/", b"//a/", b"../", b"a?b=c&d", b"%61", b"+", b"&", b"=", b",", b", ", b";", b'"', b"\\", b" ", b"\t"),
    *(
        b"0",
        b"1",
        b"-1",
        b"9" * 20,
        b"1.5",
        b"\x80",
        b"\xff",
        b"'",
        b"close",
        b"keep-alive",
        b"cookie",
        b"accept-encoding",
    ),
]
NUMBER = re.compile(rb"[0-9]+")


class Mutator:
    """Makes inputs of a corpus, the same for the same `Random`. Mutable state: the corpus, which grows."""

    def __init__(self, random: Random, seeds: Sequence[bytes], tokens: Sequence[bytes] = TOKENS) -> None:
        self.random = random
        self.seeds = list(seeds)
        self.tokens = tokens
        self._seen: set[object] = set()
        self._first = len(self.seeds)
        self._ways: list[Callable[[bytearray], None]] = [
            *(self._insert_token, self._insert_token, self._insert_token, self._insert_byte, self._replace_byte),
            *(self._delete, self._copy, self._move_line, self._splice, self._number, self._case, self._repeat),
        ]

    def next(self) -> bytes:
        """An input."""
        random = self.random
        data = bytearray(random.choice(self.seeds))
        for _ in range(random.choice((0, 1, 1, 1, 2, 2, 3, 5))):
            random.choice(self._ways)(data)
        return bytes(data[:LONGEST])

    def behaved(self, data: bytes, behaviour: object) -> None:
        """`data` made the product behave so: if that is new, more is made of it."""
        if behaviour in self._seen or len(data) > 2000:
            return
        self._seen.add(behaviour)
        if len(self.seeds) < MOST_SEEDS:
            self.seeds.append(data)

    @property
    def found(self) -> int:
        """How many inputs joined the corpus."""
        return len(self.seeds) - self._first

    def pieces(self, data: bytes) -> list[bytes]:
        """`data` as it may come: whole, in two or three, or byte by byte."""
        random = self.random
        kind = random.random()
        if kind < 0.4 or len(data) < 3:
            return [data] if data else [b"\r"]
        if kind > 0.97 and len(data) < 600:
            return [data[at : at + 1] for at in range(len(data))]
        cuts = sorted(random.sample(range(1, len(data)), random.choice((1, 1, 2))))
        return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]

    def _at(self, data: bytearray) -> int:
        """A place: any, or more often where something begins or ends."""
        random = self.random
        if data and random.random() < 0.5:
            found = data.find(random.choice((b"\r\n", b"\n", b":", b" ", b",", b"/")), random.randrange(len(data)))
            if found >= 0:
                return found + random.choice((0, 0, 1, 2))
        return random.randint(0, len(data))

    def _span(self, data: bytearray, most: int) -> tuple[int, int]:
        start = self.random.randint(0, len(data))
        return start, min(len(data), start + self.random.randint(1, most))

    def _insert_token(self, data: bytearray) -> None:
        at = self._at(data)
        data[at:at] = self.random.choice(self.tokens)

    def _insert_byte(self, data: bytearray) -> None:
        data.insert(self._at(data), self.random.randrange(256))

    def _replace_byte(self, data: bytearray) -> None:
        if data:
            data[min(self._at(data), len(data) - 1)] = self.random.randrange(256)

    def _delete(self, data: bytearray) -> None:
        start, end = self._span(data, 8)
        del data[start:end]

    def _copy(self, data: bytearray) -> None:
        start, end = self._span(data, 40)
        at = self._at(data)
        data[at:at] = data[start:end]

    def _repeat(self, data: bytearray) -> None:
        """What costs more than its length shows when there is much of it."""
        start, end = self._span(data, 6)
        if end > start and self.random.random() < 0.3:
            data[start:start] = data[start:end] * (self.random.choice((3, 20, 200, 4000)) // (end - start) + 1)

    def _move_line(self, data: bytearray) -> None:
        lines = bytes(data).split(b"\r\n")
        line = lines.pop(self.random.randrange(len(lines)))
        lines.insert(self.random.randint(0, len(lines)), line)
        data[:] = b"\r\n".join(lines)

    def _splice(self, data: bytearray) -> None:
        other = self.random.choice(self.seeds)
        data[self._at(data) :] = other[self.random.randint(0, len(other)) :]

    def _number(self, data: bytearray) -> None:
        found = list(NUMBER.finditer(bytes(data)))
        if found:
            one = self.random.choice(found)
            number = int(one[0][:30]) + self.random.choice((-1, 1, 7, 10**6, 2**31, 2**63))
            data[one.start() : one.end()] = b"%d" % number

    def _case(self, data: bytearray) -> None:
        start, end = self._span(data, 12)
        data[start:end] = data[start:end].swapcase()
