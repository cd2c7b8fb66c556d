"""Sources of the keys that verify tokens: a file, or a key set at a URL, which is fetched again as keys rotate."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from edgecache.semantics.signing.token_keys import Key, keys_of, suitable
from edgecache.tasks import spawn

log = logging.getLogger("edgecache")
LARGEST_SET: Final = 512 * 1024  # bytes
FRESH_FOR: Final = 600.0  # seconds until a key set is fetched again
STALE_FOR: Final = 86400.0  # seconds that it is used if that fails
UNKNOWN_AGAIN: Final = 30.0  # seconds between two fetches for the sake of an unknown key
WITHIN: Final = 5.0  # seconds of one fetch


class KeysUnreachable(Exception):
    """There are no keys."""


class FileKeys:
    """Keys that only a reload changes."""

    generation = 0

    def __init__(self, keys: Sequence[Key]) -> None:
        self.keys = keys

    def is_due(self, kid: str | None, algorithm: str, now: float) -> bool:
        """Never: there is nothing to fetch."""
        return False

    async def fetch(self) -> None:
        """There is nothing to fetch."""


class RemoteKeys:
    """A key set at a URL. Mutable state: the keys, their time of arrival, and the running fetch."""

    def __init__(
        self,
        url: str,
        clock: Callable[[], float],
        failed: Callable[[], None],
        parse: Callable[[bytes], list[Key]] = keys_of,
    ) -> None:
        self._url = url
        self._clock = clock  # resident time
        self._failed = failed  # counts
        self._parse = parse
        self.keys: Sequence[Key] = ()
        self.generation = 0  # of the keys: what older ones have verified is verified again
        self._content = b""
        self._came = self._tried = float("-inf")
        self._under_way: asyncio.Task[None] | None = None

    def is_due(self, kid: str | None, algorithm: str, now: float) -> bool:
        """Whether a token with this header has to wait for a fetch; one in the background begins as keys get old."""
        now = self._clock()
        if now - self._came > STALE_FOR:
            self.keys = ()
        may_try = now - self._tried >= UNKNOWN_AGAIN
        if suitable(self.keys, kid, algorithm):
            if now - self._came > FRESH_FOR and may_try:
                self._begin()
            return False
        if self._under_way is not None:
            return True
        return may_try

    async def fetch(self) -> None:
        """Fetch the key set, together with all that wait for it. Raises `KeysUnreachable` if there are no keys then."""
        if self._under_way is not None or self._clock() - self._tried >= UNKNOWN_AGAIN:
            await asyncio.shield(self._begin())  # else the one that a request has waited for has ended before its turn
        if not self.keys:
            raise KeysUnreachable

    def _begin(self) -> asyncio.Task[None]:
        if self._under_way is None:
            self._tried = self._clock()
            self._under_way = spawn(self._fetch(), "fetch a key set")
        return self._under_way

    async def _fetch(self) -> None:
        from edgecache.proxy.access.fetching import FetchFailed, fetched  # a library that files of keys do not need

        try:
            got = await fetched(self._url, (), within=WITHIN, most=LARGEST_SET)
            if got.status != 200:
                raise FetchFailed(f"status {got.status}")
            keys = self.keys if got.content == self._content else self._parse(got.content)
        except (FetchFailed, ValueError, KeyError, TypeError) as error:
            self._failed()
            reason = str(error) if isinstance(error, FetchFailed) else "it is no key set"
            kept = "the known keys stay in use" if self.keys else "tokens are refused"
            log.warning("the key set of an access rule could not be fetched (%s): %s", reason, kept)
        else:
            self._came = self._clock()
            if got.content != self._content:
                self.keys, self._content = keys, got.content
                self.generation += 1
        finally:
            self._under_way = None
