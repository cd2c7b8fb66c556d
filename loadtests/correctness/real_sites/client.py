"""The client: many keep-alive connections, answers as they came, nothing decoded and nothing followed."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import aiohttp
import brotli
from yarl import URL

try:
    from compression import zstd
except ImportError:
    from backports import zstd

CONNECTIONS = 16
PATIENCE = aiohttp.ClientTimeout(total=60)
DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "br": brotli.decompress,
    "zstd": zstd.decompress,
}
OUR_NAME = "edgecache-real-sites"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: names of fields in lower case, values and content byte for byte (as latin-1 text, as bytes)."""

    status: int
    reason: str
    fields: tuple[tuple[str, str], ...]
    content: bytes
    received: float  # epoch seconds
    failure: str = ""  # why there is no answer

    def values(self, name: str) -> list[str]:
        """The values of all lines of a field, in their order."""
        return [value for key, value in self.fields if key == name]

    def field(self, name: str) -> str | None:
        """The value of a field, lists joined; None where it is absent."""
        values = self.values(name)
        return ", ".join(values) if values else None

    def unpacked(self) -> bytes:
        """The content without its coding, if it has one; unchanged if that is broken."""
        decode = DECODERS.get(self.field("content-encoding") or "", bytes)
        try:
            return decode(self.content)
        except (OSError, EOFError, brotli.error, zstd.ZstdError):
            return self.content


class Client:
    """One party that asks one port of 127.0.0.1, always under the name of the site."""

    def __init__(self, port: int, host: str, connections: int = CONNECTIONS) -> None:
        self._base = f"http://127.0.0.1:{port}"
        self._fields = {"Host": host, "User-Agent": OUR_NAME}
        self._connections = connections
        self.opened = 0  # connections made so far

    async def __aenter__(self) -> Self:
        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(self._count)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=4),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("Accept-Encoding", "User-Agent", "Accept"),
            timeout=PATIENCE,
            trace_configs=[trace],
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def _count(self, *_: object) -> None:
        self.opened += 1

    async def ask(
        self, target: str, fields: Mapping[str, str] | None = None, method: str = "GET", body: object = None
    ) -> Answer:
        """One request; never raises for what the other side does."""
        url = URL(self._base + target, encoded=True)
        headers = {**self._fields, **(fields or {})}
        try:
            async with self._session.request(method, url, headers=headers, data=body, allow_redirects=False) as answer:
                content = await answer.read()
                lines = [(n.decode("latin-1").lower(), v.decode("latin-1")) for n, v in answer.raw_headers]
                return Answer(answer.status, answer.reason or "", tuple(lines), content, time.time())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return Answer(0, "", (), b"", time.time(), failure=f"{type(error).__name__}: {error}")

    async def crawl(
        self, targets: Sequence[str], fields: Mapping[str, str] | None = None, method: str = "GET"
    ) -> list[Answer]:
        """Every target once, on all connections at the same time; the answers in the order of the targets."""
        answers: dict[int, Answer] = {}
        todo = iter(enumerate(targets))
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._connections):
                tasks.create_task(self._work(todo, answers, fields, method))
        return [answers[number] for number in range(len(targets))]

    async def _work(
        self,
        todo: Iterable[tuple[int, str]],
        answers: dict[int, Answer],
        fields: Mapping[str, str] | None,
        method: str,
    ) -> None:
        for number, target in todo:
            answers[number] = await self.ask(target, fields, method)
