"""The supervisor: owns the listening sockets, keeps a worker running in each slot, and adds up their metrics.

Every slot has its own listening sockets (SO_REUSEPORT: the kernel spreads connections), which the supervisor
keeps open all the time. A worker that dies or hangs leaves its queue of connections in that socket, and its
replacement, which is started at once, serves them. SIGUSR2 relieves the workers one by one: each successor accepts on
the same socket before its predecessor stops. Only a drain closes the sockets. SIGHUP, or a change of the files that the
configuration is made of, has it read again: living workers take what they can, successors the rest
(`config_reload.py`).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from edgecache import __version__
from edgecache.config import system_resources
from edgecache.config.settings import Address, Settings
from edgecache.config.sources import Source
from edgecache.invalidation.in_process_log import InProcessLogHub
from edgecache.proxy.access.nonces import MachineNonces
from edgecache.semantics.errors import ConfigError
from edgecache.server import signals
from edgecache.server.admin import app as admin
from edgecache.server.admin.connections import AdminConnections
from edgecache.server.admin.local_purge_service import LocalPurgeService
from edgecache.server.admin.purge_service import PurgeService, RegionPurgeService
from edgecache.server.config_reload import Configuration
from edgecache.server.dependencies import Dependencies
from edgecache.server.machine_store import note_use, spoil_if_it_kills
from edgecache.server.sd_notify import LOOK_EVERY, ServiceManager
from edgecache.server.store_metrics import declare_store
from edgecache.server.worker_main import DEFAULT_WORKER
from edgecache.server.worker_slot import KILL_AFTER, Slot, WorkerEvents, WorkerProcess
from edgecache.storage.regional_probe import Probe
from edgecache.tasks import spawn
from edgecache.telemetry import metrics
from edgecache.valkey.embedded_server import EmbeddedValkey

if TYPE_CHECKING:
    from edgecache.telemetry.otlp_exporter import Exporter

log = logging.getLogger("edgecache.supervisor")

BACKLOG = 4096
QUICK_DEATH = 1.0  # seconds: shorter lives delay the next restart
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
HELPERS_END_WITHIN: Final = 2.0  # seconds
FUTILE_STARTS = 5  # quick deaths of a slot, with no worker ever ready, that fail the start
START_WITHIN: Final = 30.0  # seconds for a worker to become ready
FILE_LOOK: Final = 1.0  # seconds between checks of the configuration files
CHECKS: Final = 4  # snapshots that a worker may miss before it counts as hung


def make_listeners(address: Address, count: int) -> list[socket.socket]:
    """`count` listening sockets on one address; port 0 becomes one free port for all. `::` takes IPv4 as well.

    Raises OSError if the address is unavailable or in use, even with SO_REUSEPORT.
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
    except UnicodeError:  # what no name of a host can be, such as a..b
        raise ConfigError(variable, f"{address} cannot be listened on: the host name is not valid") from None


def pause_before_restart(quick_deaths: int) -> float:
    """Seconds to wait before a restart, after so many consecutive quick deaths."""
    if quick_deaths <= 1:
        return 0.0
    return float(min(FIRST_PAUSE * 2 ** min(quick_deaths - 2, 16), LONGEST_PAUSE))


class Supervisor:
    """Workers and admin listener of a POP, from start to drain.

    Its state: the slots, whether it is stopping and with which exit code, and metrics of its own.
    """

    def __init__(
        self,
        settings: Settings,
        source: Source,
        listeners: Sequence[Mapping[str, socket.socket]],
        admin_listener: socket.socket,
        *,
        worker: str = DEFAULT_WORKER,
        embedded: EmbeddedValkey | None = None,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        self._settings = settings
        self._on_ready = on_ready  # called once, when `/readyz` first says ready
        self._embedded = embedded
        self._admin_listener = admin_listener
        self._admin_connections = AdminConnections()
        self._registry = metrics.Registry()
        self._configuration = Configuration(source, settings, self._registry)
        self._reload_asked = asyncio.Event()
        self._to_relieve: asyncio.Queue[Slot] = asyncio.Queue()
        self._stopping = asyncio.Event()
        self._probe = Probe(settings)
        self._manager = ServiceManager()
        self._exit_code = 0
        self._exporter = span_exporter(settings, self._registry)
        self._hub = InProcessLogHub(lambda: [process for slot in self._slots for process in slot.processes])
        self._slots = self._new_slots(worker, listeners)
        self._service: PurgeService | None = None
        self._deaths = self._registry.counter("edgecache_worker_deaths", "Workers that exited unexpectedly.")
        self._hangs = self._registry.counter("edgecache_worker_hangs", "Workers killed because their event loop hung.")
        self._reliefs = self._registry.counter("edgecache_worker_reliefs", "Workers replaced by a successor.")
        self._dependencies = Dependencies(
            lambda: self._settings,
            lambda: [slot.current_snapshot for slot in self._slots],
            lambda: [slot.snapshot for slot in self._slots],
            lambda: (self._probe.state, self._probe.problem),
            lambda: self._service.peers() if self._service is not None else {},
        )
        self._declare_metrics()
        self._store = declare_store(self._registry, settings)

    def _new_slots(self, worker: str, listeners: Sequence[Mapping[str, socket.socket]]) -> list[Slot]:
        command = [sys.executable, "-m", "edgecache", "_worker", "--worker", worker]
        on_spans = self._exporter.take if self._exporter is not None else _drop_spans
        events = WorkerEvents(self._on_relief, on_spans, self._hub.receive, MachineNonces().answer, self._on_end)
        environ = self._configuration.environ
        return [Slot(number, own, command, environ, events) for number, own in enumerate(listeners)]

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
        helpers = [
            spawn(self._relieve_in_turn(), name="reliefs"),
            spawn(self._watch(), name="watchdog"),
            spawn(self._reload_when_asked(), name="reloads"),
            spawn(self._watch_files(), name="files"),
            spawn(self._probe.run(), name="regional probe"),
            spawn(self._dependencies.run(), name="surroundings"),
            spawn(self._manager.run(lambda: self.readiness().state), name="service manager"),
        ]
        if self._on_ready is not None:
            helpers.append(spawn(self._announce(self._on_ready), name="announcement"))
        if self._embedded is not None:
            helpers.append(spawn(self._embedded.keep(self._registry), name="embedded Valkey"))
        if self._exporter is not None:
            helpers.append(spawn(self._exporter.run(), name="traces"))
        await self._stopping.wait()
        self._manager.tell("STOPPING=1")
        await self._drain(keepers)
        for helper in helpers:
            helper.cancel()
        await asyncio.wait(helpers, timeout=HELPERS_END_WITHIN)
        self._admin_connections.close()
        await runner.cleanup()
        if self._service is not None:
            await self._service.close()
        if self._store is not None:
            self._store.close()
        log.info("ended code=%d", self._exit_code)
        return self._exit_code

    async def _announce(self, on_ready: Callable[[], None]) -> None:
        while True:
            if self.readiness().state == "ready":
                return on_ready()
            await asyncio.sleep(LOOK_EVERY)

    def _heed_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            loop.add_signal_handler(number, self._on_signal, number.name)
        loop.add_signal_handler(signal.SIGHUP, self._reload_asked.set)
        nothing = "SIGUSR1: logs go to standard output and standard error, there is nothing to open again"
        loop.add_signal_handler(signal.SIGUSR1, log.info, nothing)
        loop.add_signal_handler(signal.SIGUSR2, self._relieve_all, "SIGUSR2")
        signals.raise_if_interrupted()

    def _on_signal(self, name: str) -> None:
        if self._stopping.is_set():
            log.warning("%s again: stopping at once", name)
            self._exit_code = 1
            self._kill_all()
        else:
            log.info("%s: draining grace=%gs", name, self._settings.drain_grace)
            self._stopping.set()

    async def _open_admin(self) -> web.AppRunner:
        if self._settings.regional == "off":
            self._service = LocalPurgeService(self._settings, self._registry, self._hub)
        else:
            self._service = RegionPurgeService(self._settings, self._registry)
        self._service.start()
        names = system_resources.own_names(self._settings.pop, self._settings.admin_listen.host)
        app = admin.application(self, self._settings.admin_token, self._service, names)
        return await self._admin_connections.serve(app, self._admin_listener)

    async def _keep(self, slot: Slot) -> None:
        quick_deaths = 0
        while not self._stopping.is_set():
            process = slot.current = slot.current or slot.begin()
            await process.over.wait()
            if self._stopping.is_set():
                return
            if process is not slot.current:  # it was relieved
                continue
            slot.current = None
            lived = time.monotonic() - process.began
            self._deaths.value += 1
            quick = lived < QUICK_DEATH or not process.was_ready  # a slow machine takes longer to fail
            quick_deaths = quick_deaths + 1 if quick else 0
            pause = pause_before_restart(quick_deaths)
            log.warning(
                "worker died slot=%d code=%s lived=%.1fs restart=%.1fs", slot.number, process.code, lived, pause
            )
            spoil_if_it_kills(self._settings, process.code)
            self._give_up_if_futile(quick_deaths)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    def _give_up_if_futile(self, quick_deaths: int) -> None:
        if quick_deaths >= FUTILE_STARTS and not any(slot.ever_ready for slot in self._slots):
            log.error("workers do not start: giving up")
            self._exit_code = 1
            self._stopping.set()

    # --- the configuration

    async def _reload_when_asked(self) -> None:
        while True:
            await self._reload_asked.wait()
            self._reload_asked.clear()
            await self._reload()

    async def _watch_files(self) -> None:
        while True:
            await asyncio.sleep(FILE_LOOK)
            if self._configuration.has_changed():
                self._reload_asked.set()

    async def _reload(self) -> None:
        """Read the configuration again and apply it; an invalid one is logged in one line and changes nothing."""
        try:
            change = await asyncio.to_thread(self._configuration.read_again)
        except (ConfigError, OSError) as error:
            log.error("reload refused, the last good configuration stays in use: %s", error)
            self._configuration.applied(False)
            return
        self._settings = change.settings
        if self._service is not None:
            self._service.tune(change.settings)
        logging.getLogger().setLevel(change.settings.log_level.upper())
        if change.relief:  # running workers keep the last configuration until they are replaced
            for slot in self._slots:
                slot.environ = change.environ
            self._relieve_all("the configuration has changed")
        elif not all(await asyncio.gather(*(slot.reload(change.environ) for slot in self._slots))):
            self._configuration.applied(False)
            self._relieve_all("a worker could not take the configuration")
            return
        self._configuration.applied(True)
        log.info("configuration reloaded; %s", change)
        if change.restart:
            log.warning("changed, but used only after a restart: %s", ", ".join(change.restart))

    # --- relief: workers are replaced one by one

    def _relieve_all(self, why: str) -> None:
        log.info("%s: replacing the workers one by one", why)
        for slot in self._slots:
            self._to_relieve.put_nowait(slot)

    def _on_end(self, pid: int) -> None:
        if self._service is not None and pid:
            self._service.worker_ended(pid)

    def _on_relief(self, slot: Slot) -> None:
        log.info("worker requests its replacement slot=%d", slot.number)
        self._to_relieve.put_nowait(slot)

    async def _relieve_in_turn(self) -> None:
        while True:
            slot = await self._to_relieve.get()
            if slot.ready and not self._stopping.is_set():
                await self._relieve(slot)

    async def _relieve(self, slot: Slot) -> None:
        """Start a successor on the same sockets; once it serves, drain the current worker."""
        old, successor = slot.current, slot.begin()
        with suppress(TimeoutError):
            await asyncio.wait_for(successor.settled.wait(), START_WITHIN)
        if self._stopping.is_set():
            return
        if not successor.ready:
            log.error("replacement failed, the old worker stays slot=%d code=%s", slot.number, successor.code)
            successor.kill()
        elif old is None or old is not slot.current:  # it died meanwhile, and has a replacement
            successor.drain()
        else:
            slot.hand_over(successor)
            self._reliefs.value += 1
            await self._see_off([old])

    async def _see_off(self, processes: Sequence[WorkerProcess]) -> None:
        """Wait until workers that drain have ended; kill those that outlast the grace."""
        leaving = {process.task: process for process in processes}
        if not leaving:
            return
        _, late = await asyncio.wait(leaving, timeout=self._settings.drain_grace + KILL_AFTER)
        if late:
            log.warning("killing workers that exceeded EDGECACHE_DRAIN_GRACE count=%d", len(late))
            for task in late:
                leaving[task].kill()
            await asyncio.wait(late)

    # --- the watchdog

    async def _watch(self) -> None:
        """Kill workers whose event loop has been silent for `worker_timeout`; the keepers replace them."""
        while True:
            pause = self._settings.worker_timeout / CHECKS
            before = time.monotonic()
            await asyncio.sleep(pause)
            note_use(self._store)
            late = time.monotonic() - before - pause  # the supervisor's own lag, for example after a suspend
            for slot in self._slots:
                for process in tuple(slot.processes):
                    process.last_message += late
                    self._check(slot, process)

    def _check(self, slot: Slot, process: WorkerProcess) -> None:
        limit = self._settings.worker_timeout
        silent = time.monotonic() - process.last_message
        if silent > (limit if process.ready else max(limit, START_WITHIN)):
            log.error("worker hangs, killing it slot=%d pid=%d silent=%.1fs", slot.number, process.pid, silent)
            self._hangs.value += 1
            process.kill()
        else:
            process.command("snapshot")

    # --- the end

    async def _drain(self, keepers: Sequence[asyncio.Task[None]]) -> None:
        for slot in self._slots:
            slot.drain()
        await self._see_off([process for slot in self._slots for process in slot.processes])
        await asyncio.gather(*keepers)

    def _kill_all(self) -> None:
        for slot in self._slots:
            slot.kill()

    def readiness(self) -> admin.Readiness:
        """Ready when every slot has a ready worker and no drain has begun."""
        parts = {f"worker_{slot.number}": slot.state for slot in self._slots}
        parts |= self._dependencies.parts()
        if self._stopping.is_set():
            return admin.Readiness("draining", parts)
        return admin.Readiness("ready" if self._count_ready() == len(self._slots) else "starting", parts)

    async def metrics(self) -> bytes:
        """Metrics of the supervisor and of all workers, including ended ones, for Prometheus."""
        await asyncio.gather(*(slot.refresh() for slot in self._slots))
        snapshots = [slot.snapshot for slot in self._slots]
        return metrics.render(metrics.merge([self._registry.snapshot(), *snapshots]))


def _drop_spans(spans: Sequence[Sequence[Any]]) -> None:
    """There is no exporter."""


def span_exporter(settings: Settings, registry: metrics.Registry) -> Exporter | None:
    """The exporter of traces; None if no collector is named. Raises ConfigError if the extra is not installed."""
    if not settings.otlp_endpoint:
        return None
    try:
        from edgecache.telemetry.otlp_exporter import Exporter, resource_of
    except ModuleNotFoundError:
        raise ConfigError("EDGECACHE_OTLP_ENDPOINT", "needs the extra: pip install 'edgecache[otel]'") from None
    return Exporter(settings.otlp_endpoint, resource_of(settings.pop, settings.region), registry)
