"""What every test may ask for: an event loop as in production, a clock, an origin."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import pytest_asyncio
import uvloop
from harness import often
from harness.clock import FakeClock
from harness.origin import OriginDouble, running_origin
from harness.serving import running_page
from harness.valkey import Server, running_valkey
from harness.versions import VersionedOrigin, running_versions

from edgecache.config import settings, sizing
from edgecache.storage.machine import store_files

often.register()
gc.disable()  # until the tests are collected: nearly all that this makes lives on


class Loop(uvloop.Loop):
    """An event loop that ends although a test left something open, and then says what that is.

    Warnings are errors here. Raised while uvloop closes what was left, one would keep that open, and its loop waits.
    """

    def close(self) -> None:
        """Close everything, then tell."""
        with warnings.catch_warnings(record=True) as left:
            warnings.simplefilter("always")
            super().close()
        for one in left:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every async test on uvloop, as the product runs."""
    return {"uvloop": Loop}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """`-n auto`: a process for each core, and in `make check` one more, which runs while tests of others wait."""
    return sizing.of_machine().cores + (config.getoption("--hypothesis-profile") == "check")


def pytest_sessionfinish() -> None:
    """What POPs that were killed have left in shared memory; a POP that starts removes it, too."""
    store_files.remove_left()


def pytest_collection_finish() -> None:
    """What lives until the end, thousands of tests among it, need not be looked at by each collection of garbage.

    Nor is it worth one for each start of a POP, which makes thousands of objects.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _machine() -> Iterator[None]:
    """The limits of this machine, read once: each start reads dozens of files, and tests start a thousand times."""
    limits = sizing.of_machine()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "of_machine", lambda: limits)
        yield


@pytest.fixture
def clock() -> FakeClock:
    """A wall clock that stands still until the test moves it."""
    return FakeClock()


@pytest_asyncio.fixture
async def origin(clock: FakeClock) -> AsyncIterator[OriginDouble]:
    """An origin on a free port that shares the test's clock."""
    async with running_origin(clock) as double:
        yield double


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Server]:
    """One real Valkey for all tests that need an ordinary one."""
    with running_valkey() as server:
        yield server


@pytest.fixture
def valkey(valkey_server: Server) -> Server:
    """A real Valkey, empty."""
    valkey_server.db.flushall()
    return valkey_server


@pytest.fixture
def page() -> Iterator[str]:
    """The URL of an origin of one page, which other processes can ask."""
    with running_page() as url:
        yield url


@pytest.fixture
def versions() -> Iterator[VersionedOrigin]:
    """An origin in a thread, whose page says its version."""
    with running_versions() as server:
        yield server
