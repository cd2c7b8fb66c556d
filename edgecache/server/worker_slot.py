"""A slot of the supervisor: its listening sockets, and the worker processes that serve them, one after the other.

The slot owns the sockets and every worker inherits them, so that queued connections survive the death or replacement of
a worker. During a replacement there are two workers: the successor accepts before its predecessor stops.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import orjson

from edgecache.config.settings import PREFIX
from edgecache.tasks import spawn
from edgecache.telemetry import metrics

log = logging.getLogger("edgecache.supervisor")

RELOAD_WITHIN: Final = 20.0  # seconds for a worker to apply new settings
FRESH_WITHIN: Final = 0.25  # seconds that /metrics waits for a worker's snapshot
KILL_AFTER: Final = 2.0  # seconds beyond the grace, or after the end of the control socket
CONTROL_LINE: Final = 16 * 1024 * 1024  # bytes: the longest snapshot


class WorkerProcess:
    """A worker process from start to end. `over` is set when it has ended or been replaced."""

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self._process: asyncio.subprocess.Process | None = None
        self._control: asyncio.StreamWriter | None = None
        self._fresh = asyncio.Event()
        self.ready = self.was_ready = False
        self.settled = asyncio.Event()  # it is ready, or has ended
        self.over = asyncio.Event()
        self._reloaded: asyncio.Future[bool] | None = None
        self.draining = False
        self.began = self.last_message = time.monotonic()
        self.snapshot: metrics.Snapshot = {}
        self.code: int | str | None = None  # of its exit, or why it did not start
        self.task = spawn(self._run(), name=f"worker-{slot.number}")

    @property
    def pid(self) -> int:
        """The process id; 0 before the start."""
        return self._process.pid if self._process is not None else 0

    async def _run(self) -> None:
        try:
            await self._listen(await self._start())
        except (OSError, ValueError) as error:  # it could not be started, or sent a malformed message
            self.code = repr(error)
        finally:
            self.ready = False
            await self._end()
            self._slot.on_exit(self)
            self._finish_reload(True)  # its successor starts with the new settings
            self.settled.set()
            self.over.set()

    def _finish_reload(self, good: bool) -> None:
        if self._reloaded is not None and not self._reloaded.done():
            self._reloaded.set_result(good)

    async def _start(self) -> asyncio.StreamReader:
        slot, environ = self._slot, self._slot.environ
        ours, theirs = socket.socketpair()
        listening = {kind: listener.fileno() for kind, listener in slot.listeners.items()}
        fds = (*listening.values(), theirs.fileno())
        arguments = ["--slot", str(slot.number), "--control-fd", str(theirs.fileno())]
        for kind, fd in listening.items():
            arguments += [f"--{kind}-fd", str(fd)]
        try:
            self._process = await asyncio.create_subprocess_exec(
                *slot.command, *arguments, stdin=asyncio.subprocess.DEVNULL, env=environ, pass_fds=fds
            )
        except (OSError, ValueError):
            ours.close()
            raise
        finally:
            theirs.close()
        reader, self._control = await asyncio.open_unix_connection(sock=ours, limit=CONTROL_LINE)
        if slot.environ is not environ:  # a reload happened during the start
            self._send_settings()
        if self.draining:
            self.command("drain")
        return reader

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            async for line in reader:
                self._receive(orjson.loads(line))

    def _receive(self, message: Mapping[str, Any]) -> None:
        self.last_message = time.monotonic()
        match message:
            case {"ready": True}:
                self.ready = self.was_ready = self._slot.ever_ready = True
                self.settled.set()
                log.info("worker ready slot=%d pid=%d", self._slot.number, self.pid)
            case {"metrics": snapshot}:
                self.snapshot = snapshot
                self._fresh.set()
            case {"spans": spans}:
                self._slot.events.spans(spans)
            case {"reloaded": bool(good)}:
                self._finish_reload(good)
            case {"log": _}:
                self._slot.events.log(self, message)
            case {"nonce": _}:
                self.send(self._slot.events.nonce(message))
            case {"relief": True}:
                self._slot.events.relief(self._slot)

    async def _end(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            try:
                self.code = await asyncio.wait_for(self._process.wait(), KILL_AFTER)
            except TimeoutError:
                self.kill()
                self.code = await self._process.wait()

    async def refresh(self) -> None:
        """Request a metrics snapshot from the worker, and wait for it briefly."""
        if self.ready:
            self._fresh.clear()
            self.command("snapshot")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._fresh.wait(), FRESH_WITHIN)

    async def reload(self) -> bool:
        """Apply the slot's environment in the worker; False if it could not."""
        if self.draining:
            return True
        reloaded = self._reloaded = asyncio.get_running_loop().create_future()
        self._send_settings()
        try:
            return await asyncio.wait_for(reloaded, RELOAD_WITHIN) if self.ready else True
        except TimeoutError:
            return False

    def _send_settings(self) -> None:
        settings = {name: value for name, value in self._slot.environ.items() if name.startswith(PREFIX)}
        self.command("reload", environ=settings)

    def drain(self) -> None:
        """Stop accepting; the worker finishes its requests and ends."""
        self.draining = True
        self.command("drain")

    def kill(self) -> None:
        """Kill the process, if it runs."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()

    def command(self, what: str, **more: Any) -> None:
        """Send a command to the worker."""
        self.send({"ask": what, **more})

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message to the worker; one whose control socket is closed is about to end."""
        if self._control is not None and not self._control.is_closing():
            self._control.write(orjson.dumps(message, option=orjson.OPT_APPEND_NEWLINE))


@dataclass(frozen=True, slots=True)
class WorkerEvents:
    """Callbacks for messages and ends of workers."""

    relief: Callable[[Slot], None]  # the current worker requests a successor
    spans: Callable[[Sequence[Sequence[Any]]], None]
    log: Callable[[WorkerProcess, Mapping[str, Any]], None]
    nonce: Callable[[Mapping[str, Any]], Mapping[str, Any]]  # the answer to a question about one
    end: Callable[[int], None]  # of the process with this id


class Slot:
    """Listening sockets by kind (`listen`, `tls`, `pop`), the current worker, and those that start or drain."""

    def __init__(
        self,
        number: int,
        listeners: Mapping[str, socket.socket],
        command: Sequence[str],
        environ: Mapping[str, str],
        events: WorkerEvents,
    ) -> None:
        self.number = number
        self.listeners = listeners
        self.command = command
        self.environ = environ
        self.events = events
        self.ever_ready = False
        self.current: WorkerProcess | None = None
        self.processes: list[WorkerProcess] = []  # processes that have not ended
        self._past: metrics.Snapshot = {}  # counts of ended workers

    def begin(self) -> WorkerProcess:
        """Start another worker on the listening sockets."""
        process = WorkerProcess(self)
        self.processes.append(process)
        return process

    def hand_over(self, successor: WorkerProcess) -> None:
        """Make `successor` the current worker; its predecessor drains."""
        old, self.current = self.current, successor
        if old is not None:
            old.drain()
            old.over.set()

    def on_exit(self, process: WorkerProcess) -> None:
        """Keep the counts of a worker that has ended."""
        self.processes.remove(process)
        self.events.end(process.pid)
        self._past = metrics.merge([self._past, metrics.cumulative(process.snapshot)])

    @property
    def ready(self) -> bool:
        """Whether the current worker serves."""
        return self.current is not None and self.current.ready

    @property
    def state(self) -> str:
        """State of the current worker."""
        if self.current is None:
            return "down"
        return "ready" if self.current.ready else "starting"

    @property
    def current_snapshot(self) -> metrics.Snapshot:
        """Last metrics of the current worker; empty until it is ready."""
        return self.current.snapshot if self.current is not None and self.current.ready else {}

    @property
    def snapshot(self) -> metrics.Snapshot:
        """Counts of all workers of this slot, including ended ones."""
        return metrics.merge([self._past, *(process.snapshot for process in self.processes)])

    async def reload(self, environ: Mapping[str, str]) -> bool:
        """Apply `environ` in all workers, and in later ones; False if one could not."""
        self.environ = environ
        return all(await asyncio.gather(*(process.reload() for process in self.processes)))

    async def refresh(self) -> None:
        """Request metrics from every worker."""
        await asyncio.gather(*(process.refresh() for process in self.processes))

    def drain(self) -> None:
        """Close the listening sockets and drain the workers."""
        for listener in self.listeners.values():
            listener.close()
        for process in self.processes:
            process.drain()

    def kill(self) -> None:
        """Kill every worker."""
        for process in self.processes:
            process.kill()
