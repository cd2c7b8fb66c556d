"""The supervisor: it owns the listening sockets, keeps one worker in each slot, and adds up what they count.

Every slot has a listening socket of its own (SO_REUSEPORT: the kernel spreads the connections), which the supervisor
keeps open all the time. A worker that dies leaves its queue of connections in that socket, and its replacement, which
is started at once, serves them. Only a drain closes the sockets.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import orjson
from aiohttp import web

from edgecache import __version__, admin, metrics
from edgecache.config import Address, Settings
from edgecache.errors import ConfigError
from edgecache.tasks import spawn
from edgecache.worker_process import DEFAULT_WORKER

log = logging.getLogger("edgecache.supervisor")

BACKLOG = 4096
QUICK_DEATH = 1.0  # seconds: who dies younger is not restarted for ever at once
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
FUTILE_STARTS = 5  # quick deaths of one slot before any worker was ever ready: the start has failed
FRESH_WITHIN = 0.25  # seconds that /metrics waits for fresh numbers of a worker
KILL_AFTER = 2.0  # seconds beyond the grace, or after the end of the control socket
CONTROL_LINE = 16 * 1024 * 1024  # bytes: the longest snapshot


def make_listeners(address: Address, count: int) -> list[socket.socket]:
    """`count` listening sockets on one address; port 0 becomes one free port for all. `::` takes IPv4 as well.

    Raises OSError if the address cannot be had, or somebody listens on it, even somebody who would share it.
    """
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, where = found[0]
    _bound(family, where, shared=False).close()
    listeners: list[socket.socket] = []
    try:
        for _ in range(count):
            listeners.append(_bound(family, where, shared=count > 1))
            listeners[-1].listen(BACKLOG)
            where = listeners[-1].getsockname()
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _bound(family: int, where: Any, *, shared: bool) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(where)
    except OSError:
        listener.close()
        raise
    return listener


def listen_or_refuse(variable: str, address: Address, count: int) -> list[socket.socket]:
    """`make_listeners`, with a failure as a ConfigError that names the variable."""
    try:
        return make_listeners(address, count)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(variable, f"{address} is in use") from None
        raise ConfigError(variable, f"{address} cannot be listened on: {error.strerror}") from None


def pause_before_restart(quick_deaths: int) -> float:
    """Seconds to wait after so many deaths in a row that came within a second of the start."""
    if quick_deaths <= 1:
        return 0.0
    return float(min(FIRST_PAUSE * 2 ** min(quick_deaths - 2, 16), LONGEST_PAUSE))


class Slot:
    """One listening socket and the worker of the moment that serves it.

    Its state: the process and its control socket while one lives, whether it is ready, its last snapshot, what the
    dead ones of this slot have counted, and whether the slot is draining.
    """

    def __init__(
        self, number: int, listener: socket.socket, command: Sequence[str], environ: Mapping[str, str]
    ) -> None:
        self.number = number
        self.listener = listener
        self.ready = False
        self.ever_ready = False
        self._command = command
        self._environ = environ
        self._process: asyncio.subprocess.Process | None = None
        self._control: asyncio.StreamWriter | None = None
        self._snapshot: metrics.Snapshot = {}
        self._heard = asyncio.Event()
        self._past: metrics.Snapshot = {}
        self._draining = False

    @property
    def state(self) -> str:
        """The worker of the moment in one word."""
        if self._process is None:
            return "down"
        return "ready" if self.ready else "starting"

    @property
    def snapshot(self) -> metrics.Snapshot:
        """What the workers of this slot have counted, the dead ones included."""
        return metrics.merge([self._past, self._snapshot])

    async def live(self) -> int | None:
        """Run one worker from start to end, and return its exit code.

        Raises OSError if none starts, ValueError if it says what no worker says.
        """
        try:
            await self._listen(await self._start())
        finally:
            code = await self._end()
        return code

    async def _start(self) -> asyncio.StreamReader:
        ours, theirs = socket.socketpair()
        fds = (self.listener.fileno(), theirs.fileno())
        arguments = ["--slot", str(self.number), "--listen-fd", str(fds[0]), "--control-fd", str(fds[1])]
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, *arguments, stdin=asyncio.subprocess.DEVNULL, env=self._environ, pass_fds=fds
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        reader, self._control = await asyncio.open_unix_connection(sock=ours, limit=CONTROL_LINE)
        if self._draining:
            self._ask("drain")
        return reader

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            async for line in reader:
                self._hear(orjson.loads(line))

    def _hear(self, message: Mapping[str, Any]) -> None:
        match message:
            case {"ready": True}:
                self.ready = self.ever_ready = True
                log.info("worker ready slot=%d pid=%d", self.number, self._process.pid if self._process else 0)
            case {"metrics": snapshot}:
                self._snapshot = snapshot
                self._heard.set()

    async def _end(self) -> int | None:
        self.ready = False
        if self._control is not None:
            self._control.close()
        code = None if self._process is None else await self._exit_code(self._process)
        self._past = metrics.merge([self._past, metrics.cumulative(self._snapshot)])
        self._process, self._control, self._snapshot = None, None, {}
        return code

    async def _exit_code(self, process: asyncio.subprocess.Process) -> int:
        try:
            return await asyncio.wait_for(process.wait(), KILL_AFTER)
        except TimeoutError:
            self.kill()
            return await process.wait()

    async def refresh(self) -> None:
        """Ask the worker for its numbers, and wait for them a moment."""
        if self.ready:
            self._heard.clear()
            self._ask("snapshot")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._heard.wait(), FRESH_WITHIN)

    def drain(self) -> None:
        """Close the listening socket and let the worker finish what it serves."""
        self._draining = True
        self.listener.close()
        self._ask("drain")

    def kill(self) -> None:
        """End the worker at once, if there is one."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()

    def _ask(self, what: str) -> None:
        if self._control is not None and not self._control.is_closing():
            self._control.write(orjson.dumps({"ask": what}, option=orjson.OPT_APPEND_NEWLINE))


class Supervisor:
    """The workers of a POP and its admin listener, from the start to the end of a drain.

    Its state: the slots, whether it is stopping and with which exit code, and metrics of its own.
    """

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        listeners: Sequence[socket.socket],
        admin_listener: socket.socket,
        *,
        worker: str = DEFAULT_WORKER,
    ) -> None:
        self._settings = settings
        self._admin_listener = admin_listener
        command = [sys.executable, "-m", "edgecache", "_worker", "--worker", worker]
        told = {**environ, **_decided(settings)}
        self._slots = [Slot(number, one, command, told) for number, one in enumerate(listeners)]
        self._stopping = asyncio.Event()
        self._exit_code = 0
        self._registry = metrics.Registry()
        self._deaths = self._registry.counter("edgecache_worker_deaths", "Workers that ended unasked.")
        self._declare_metrics()

    def _declare_metrics(self) -> None:
        gauge = self._registry.gauge
        gauge("edgecache_workers", "Worker slots.").value = len(self._slots)
        gauge("edgecache_workers_ready", "Workers that are ready.", read=self._count_ready)
        gauge(
            "edgecache_build_info",
            "This POP; always 1.",
            version=__version__,
            pop=self._settings.pop,
            region=self._settings.region,
        ).value = 1

    def _count_ready(self) -> int:
        return sum(slot.ready for slot in self._slots)

    async def run(self) -> int:
        """Serve until a signal or a failed start, drain, and return the exit code of the process."""
        self._heed_signals()
        runner = await self._open_admin()
        keepers = [spawn(self._keep(slot), name=f"slot-{slot.number}") for slot in self._slots]
        await self._stopping.wait()
        await self._drain(keepers)
        await runner.cleanup()
        log.info("ended code=%d", self._exit_code)
        return self._exit_code

    def _heed_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number.name)
        loop.add_signal_handler(signal.SIGHUP, log.info, "SIGHUP is reserved and does nothing yet")

    def _on_signal(self, name: str) -> None:
        if self._stopping.is_set():
            log.warning("%s again: ending at once", name)
            self._exit_code = 1
            self._kill_all()
        else:
            log.info("%s: draining grace=%gs", name, self._settings.drain_grace)
            self._stopping.set()

    async def _open_admin(self) -> web.AppRunner:
        app = admin.application(self, self._settings.admin_token)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        await web.SockSite(runner, self._admin_listener).start()
        return runner

    async def _keep(self, slot: Slot) -> None:
        quick_deaths = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            code = await self._one_life(slot)
            lived = time.monotonic() - began
            if self._stopping.is_set():
                return
            self._deaths.value += 1
            quick_deaths = quick_deaths + 1 if lived < QUICK_DEATH else 0
            pause = pause_before_restart(quick_deaths)
            log.warning("worker died slot=%d code=%s lived=%.1fs restart=%.1fs", slot.number, code, lived, pause)
            self._give_up_if_futile(quick_deaths)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def _one_life(self, slot: Slot) -> int | str | None:
        try:
            return await slot.live()
        except (OSError, ValueError) as error:
            return repr(error)

    def _give_up_if_futile(self, quick_deaths: int) -> None:
        if quick_deaths >= FUTILE_STARTS and not any(slot.ever_ready for slot in self._slots):
            log.error("workers do not start: giving up")
            self._exit_code = 1
            self._stopping.set()

    async def _drain(self, keepers: Sequence[asyncio.Task[None]]) -> None:
        for slot in self._slots:
            slot.drain()
        _, late = await asyncio.wait(keepers, timeout=self._settings.drain_grace + KILL_AFTER)
        if late:
            log.warning("killing workers beyond the grace count=%d", len(late))
            self._kill_all()
            await asyncio.wait(late)

    def _kill_all(self) -> None:
        for slot in self._slots:
            slot.kill()

    def readiness(self) -> admin.Readiness:
        """Ready when every slot has a ready worker and no drain has begun."""
        parts = {f"worker_{slot.number}": slot.state for slot in self._slots}
        if self._stopping.is_set():
            return admin.Readiness("draining", parts)
        return admin.Readiness("ready" if self._count_ready() == len(self._slots) else "starting", parts)

    async def metrics(self) -> bytes:
        """The metrics of all workers that ever lived, and of the supervisor, for Prometheus."""
        await asyncio.gather(*(slot.refresh() for slot in self._slots))
        snapshots = [slot.snapshot for slot in self._slots]
        return metrics.render(metrics.merge([self._registry.snapshot(), *snapshots]))


def _decided(settings: Settings) -> dict[str, str]:
    return {  # defaults that a worker might find otherwise are told to it
        "EDGECACHE_WORKERS": str(settings.workers),
        "EDGECACHE_MEMORY": str(settings.memory),
        "EDGECACHE_POP": settings.pop,
    }
