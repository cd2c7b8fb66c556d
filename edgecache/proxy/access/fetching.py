"""Requests by this POP to the servers that access control depends on: key sets, and forward-auth servers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import aiohttp
from multidict import CIMultiDict

from edgecache.semantics.errors import EdgecacheError
from edgecache.semantics.message import FieldLine, Fields

SCHEMES = ("http://", "https://")


class FetchFailed(EdgecacheError):
    """There is no usable response; the text gives the reason, without the URL."""


class Fetched(NamedTuple):
    """A response."""

    status: int
    fields: Fields
    content: bytes


async def fetched(url: str, lines: Iterable[FieldLine], *, within: float, most: int) -> Fetched:
    """The response to a GET; a redirect is one too. Raises `FetchFailed` if it takes longer, or has more bytes."""
    sent = CIMultiDict([(name.decode("latin-1"), value.decode("latin-1")) for name, value in lines])
    timeout = aiohttp.ClientTimeout(total=within)
    try:
        async with (
            aiohttp.ClientSession(
                timeout=timeout, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
            ) as session,
            session.get(url, headers=sent, allow_redirects=False, skip_auto_headers=("User-Agent",)) as response,
        ):
            content = await response.content.read(most + 1)
            while len(content) <= most and (more := await response.content.read(most + 1)):
                content += more
            if len(content) > most:
                raise FetchFailed(f"the response has more than {most} bytes")
            return Fetched(response.status, Fields(response.raw_headers), content)
    except TimeoutError:
        raise FetchFailed("there was no response in time") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise FetchFailed(type(error).__name__) from None
