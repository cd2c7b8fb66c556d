"""The origins: servers in this process that share one content and one clock with the model."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
from email.utils import formatdate
from typing import Final

from loadtests.correctness.content import Resource
from loadtests.correctness.history import History

FAIL: Final = 0.06  # of the requests for what is flaky
CUT: Final = 0.08
SLOW: Final = 0.1  # of all: seconds up to LONGEST_PAUSE between two pieces
LONGEST_PAUSE: Final = 0.08
PIECE: Final = 48 * 1024
WRITE_FIELD: Final = "Write-Id"  # names a write, so that one which arrives twice is seen
RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)$")


class Content:
    """What all origins serve, and what the model knows of it."""

    def __init__(self, resources: list[Resource], seed: int) -> None:
        self.histories = {one.target: History(one) for one in resources}
        self.written: set[str] = set()  # identifiers of writes that arrived
        self.repeated = 0  # writes that arrived twice
        self.requests = 0
        self.draw = random.Random(seed)

    def write(self, target: str, identifier: str) -> int:
        """A write arrived; the version that it made."""
        self.repeated += identifier in self.written
        self.written.add(identifier)
        return self.histories[target].publish(time.monotonic())


class Origin:
    """One server. `async with Origin(content) as origin` serves on `origin.port`."""

    def __init__(self, content: Content) -> None:
        self.content = content
        self.port = 0
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Origin:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            while await self._exchange(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._serving.discard(task)
            with contextlib.suppress(OSError):
                writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its response; False once the connection must close."""
        line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        method, target, _ = line.split(" ")
        fields = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)}
        await reader.readexactly(int(fields.get("content-length", "0")))
        self.content.requests += 1
        if method not in ("GET", "HEAD"):
            version = self.content.write(target, fields[WRITE_FIELD.lower()])
            said = str(version).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said))
            return True
        return await self._read(writer, method, self.content.histories[target], fields)

    async def _read(self, writer: asyncio.StreamWriter, method: str, of: History, fields: dict[str, str]) -> bool:
        resource, draw = of.resource, self.content.draw
        if resource.flaky and draw.random() < FAIL:
            writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 5\r\n\r\n")
            writer.write(b"sorry" if method == "GET" else b"")
            return True
        version, variant = of.present, resource.variant(fields.get("accept-language", ""))
        head = [f"Date: {formatdate(usegmt=True)}", f"Object-Version: {version}-{variant}"]
        entity_tag = resource.entity_tag(version, variant)
        head += [f"ETag: {entity_tag}"] if entity_tag else []
        head += ["Vary: Accept-Language"] if resource.varies else []
        head += [f"Surrogate-Key: {resource.tag}", f"Cache-Control: {lifetime(resource)}"]
        if resource.private:
            body = f"{fields.get('cookie', '')}\n".encode().ljust(resource.size, b".")
        elif entity_tag and entity_tag in fields.get("if-none-match", ""):
            writer.write(f"HTTP/1.1 304 Not Modified\r\n{lines(head)}\r\n".encode())
            return True
        else:
            body = resource.body(version, variant)
        span = _span(fields, entity_tag, len(body)) if resource.ranges and not resource.private else None
        if span is not None:
            head.append(f"Content-Range: bytes {span[0]}-{span[1] - 1}/{len(body)}")
            body = body[span[0] : span[1]]
        status = "206 Partial Content" if span is not None else "200 OK"
        return await self._send(writer, method, resource, f"HTTP/1.1 {status}\r\n{lines(head)}", body)

    async def _send(self, writer: asyncio.StreamWriter, method: str, of: Resource, head: str, body: bytes) -> bool:
        """Write a response in pieces, slowly or cut short now and then."""
        draw = self.content.draw
        chunked = of.chunked and method == "GET"
        framing = "Transfer-Encoding: chunked\r\n" if chunked else f"Content-Length: {len(body)}\r\n"
        writer.write(f"{head}{framing}\r\n".encode())
        if method == "HEAD":
            return True
        cut_at = draw.randrange(len(body) + 1) if of.flaky and draw.random() < CUT else None
        pause = draw.random() * LONGEST_PAUSE if draw.random() < SLOW else 0.0
        for at in range(0, len(body), PIECE):
            piece = body[at : at + PIECE]
            if cut_at is not None and at + len(piece) >= cut_at:
                writer.write(piece[: cut_at - at])
                return False
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            if pause:
                await asyncio.sleep(pause)
            await writer.drain()
        if chunked:
            writer.write(b"0\r\n\r\n")
        return True


def lifetime(resource: Resource) -> str:
    """The Cache-Control of a resource."""
    if resource.private:
        return "private, max-age=60"
    more = (f", stale-while-revalidate={resource.swr}" if resource.swr else "") + (
        f", stale-if-error={resource.sie}" if resource.sie else ""
    )
    return f"public, max-age={resource.ttl}{more}"


def lines(fields: list[str]) -> str:
    """Field lines."""
    return "".join(f"{line}\r\n" for line in fields)


def _span(fields: dict[str, str], entity_tag: str, size: int) -> tuple[int, int] | None:
    """The one range that is asked for, as first byte and end; None: the whole (RFC 9110 §14.2)."""
    found = RANGE.match(fields.get("range", ""))
    if found is None or found[1] + found[2] == "" or fields.get("if-range", entity_tag) != entity_tag:
        return None
    if found[1] == "":
        return (max(0, size - int(found[2])), size) if int(found[2]) and size else None
    first, last = int(found[1]), int(found[2] or size)
    return (first, min(last + 1, size)) if first < size and first <= last else None
