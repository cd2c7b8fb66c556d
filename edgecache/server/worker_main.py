"""A worker process: one `Worker` on one event loop, controlled by the supervisor over a socket.

Messages are lines of JSON. To the supervisor: `{"ready": true}` once, `{"metrics": snapshot}` every second and when
asked, `{"spans": list}` every second where there are any, `{"relief": true}` on SIGTERM and SIGQUIT,
`{"reloaded": bool}` after a reload, `{"nonce": digest}` to use one. From it: `{"ask": "snapshot"}`,
`{"ask": "drain"}`, `{"ask": "reload", "environ": settings}`, `{"nonce": state}`. The end of the control socket is the
end of the worker, so that no worker outlives its supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

import orjson
import uvloop

from edgecache.config.settings import Settings, load
from edgecache.invalidation.in_process_log import InProcessLog
from edgecache.proxy.access.nonces import UsedNonces
from edgecache.semantics.errors import ConfigError
from edgecache.server import signals
from edgecache.server.malloc_tuning import tune_malloc
from edgecache.tasks import spawn
from edgecache.telemetry.metrics import Snapshot
from edgecache.wire.tls.contexts import hush_names

log = logging.getLogger("edgecache.worker")
DEFAULT_WORKER = "edgecache.server.worker:Worker"
REPORT_EVERY = 1.0
STOP_WITHIN = 1.0
SPANS_AT_ONCE = 128  # about a fifth of a millisecond
MOST_UNREAD = 4 * 1024 * 1024  # bytes that the supervisor has not read
ORDER_LINE = 16 * 1024 * 1024  # bytes: the longest order, which holds all settings
GC_THRESHOLDS = 10_000, 10, 10  # most garbage is freed by reference counts; look for cycles seldom
GC_OFTEN = 700, 2, 2  # a body in a cycle is garbage that counts as one object, and a small memory holds few of them
SMALL_MEMORY = 64 * 1024 * 1024  # bytes for objects


class Worker(Protocol):
    """The worker that a worker process runs."""

    async def start(self, sockets: list[socket.socket], **secure: Sequence[socket.socket]) -> None:
        """Accept clients on these listening sockets, which stay the caller's; those for TLS by name, if any."""

    def snapshot(self) -> Snapshot:
        """Current metrics."""

    def take_spans(self, most: int) -> Sequence[object]:
        """Up to `most` spans, as JSON values."""

    async def reload(self, settings: Settings) -> None:
        """Apply other settings; raises OSError or ValueError, and changes nothing, if they are invalid."""

    async def drain(self) -> None:
        """Stop accepting; return when every exchange has ended or the grace is over."""

    async def stop(self) -> None:
        """Close everything now."""


def run(
    settings: Settings,
    listen_fds: Sequence[int],
    control_fd: int,
    worker: str = DEFAULT_WORKER,
    **secure_fds: Sequence[int],
) -> None:
    """Run a worker until the supervisor ends it; `worker` names the factory as `module:name`."""
    signals.ignore(*signals.LED)
    tune_malloc()
    hush_names()
    sockets = [_adopted(fd) for fd in listen_fds]
    secure = {kind: [_adopted(fd) for fd in fds] for kind, fds in secure_fds.items() if fds}
    uvloop.run(_live(settings, sockets, secure, _adopted(control_fd), _factory(worker)))


def _adopted(descriptor: int) -> socket.socket:
    os.set_inheritable(descriptor, False)
    return socket.socket(fileno=descriptor)


def _factory(name: str) -> Callable[[Settings], Worker]:
    module, _, attribute = name.partition(":")
    return cast(Callable[[Settings], Worker], getattr(importlib.import_module(module), attribute))


async def _live(
    settings: Settings,
    sockets: list[socket.socket],
    secure: Mapping[str, list[socket.socket]],
    control: socket.socket,
    make: Callable[[Settings], Worker],
) -> None:
    reader, writer = await asyncio.open_unix_connection(sock=control, limit=ORDER_LINE)
    led = ControlledWorker(make(settings), sockets, secure, writer)
    await led.start()
    gc.set_threshold(*(GC_OFTEN if settings.worker_memory < SMALL_MEMORY else GC_THRESHOLDS))
    for number in (signal.SIGTERM, signal.SIGQUIT):
        asyncio.get_running_loop().add_signal_handler(number, led.request_replacement)
    orders = spawn(led.handle_commands(reader), name="orders")
    reports = spawn(led.report(), name="reports")
    await led.over.wait()
    orders.cancel()
    reports.cancel()
    await led.stop()


class ControlledWorker:
    """A worker, its listening sockets and its end of the control socket. `over` is set when the process is to end."""

    def __init__(
        self,
        worker: Worker,
        sockets: list[socket.socket],
        secure: Mapping[str, list[socket.socket]],
        writer: asyncio.StreamWriter,
    ) -> None:
        self._worker = worker
        self._sockets = sockets
        self._secure = secure
        self._writer = writer
        self._drain: asyncio.Task[None] | None = None
        self._own_log: InProcessLog | None = getattr(worker, "own_log", None)
        if self._own_log is not None:
            self._own_log.send = self._send
        self._nonces: UsedNonces | None = getattr(worker, "nonces", None)
        if self._nonces is not None:
            self._nonces.send = self._send
        self.over = asyncio.Event()

    async def start(self) -> None:
        """Start the worker and report it as ready to the supervisor."""
        await self._worker.start(self._sockets, **self._secure)
        gc.collect()
        gc.freeze()  # what start made lives for ever: no collection looks at it again
        self._send({"ready": True})

    async def handle_commands(self, orders: asyncio.StreamReader) -> None:
        """Execute the supervisor's commands until the control socket ends."""
        try:
            async for line in orders:
                match orjson.loads(line):
                    case {"ask": "snapshot"}:
                        self._send_metrics()
                    case {"ask": "drain"}:
                        self.drain()
                    case {"log": _} as message if self._own_log is not None:
                        self._own_log.receive(message)
                    case {"nonce": _} as message if self._nonces is not None:
                        self._nonces.receive(message)
                    case {"ask": "reload", "environ": environ}:
                        await self._reload(environ)
        except ConnectionError:  # the supervisor was killed
            log.warning("the supervisor is gone")
        finally:
            self.over.set()

    async def _reload(self, environ: Mapping[str, str]) -> None:
        """Apply other settings; invalid ones are logged, and the last good ones stay."""
        try:
            settings = await asyncio.to_thread(load, environ)
            await self._worker.reload(settings)
            logging.getLogger().setLevel(settings.log_level.upper())
        except (ConfigError, OSError, ValueError) as error:
            log.error("the last good configuration stays in use: %s", error)
            self._send({"reloaded": False})
        except Exception:
            log.exception("a bug: the configuration could not be applied")
            self._send({"reloaded": False})
        else:
            self._send({"reloaded": True})

    async def report(self) -> None:
        """Send metrics every second."""
        while True:
            await asyncio.sleep(REPORT_EVERY)
            self._send_metrics()
            self._send_spans()

    def request_replacement(self) -> None:
        """Request a successor; the supervisor drains this worker once that one serves."""
        if self._drain is None:
            self._send({"relief": True})

    def drain(self) -> None:
        """Drain, once, and then end."""
        if self._drain is None:
            for listener in (*self._sockets, *(one for several in self._secure.values() for one in several)):
                listener.close()  # so that the worker's copy is the last, unless the supervisor keeps the socket
            self._drain = spawn(self._drain_and_end(), name="drain")

    async def _drain_and_end(self) -> None:
        try:
            await self._worker.drain()
        finally:
            self.over.set()

    async def stop(self) -> None:
        """Stop the worker and send its last metrics, if the control socket is open."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._worker.stop(), STOP_WITHIN)
        self._send_metrics()
        while self._send_some_spans():
            pass
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.wait_for(self._writer.wait_closed(), STOP_WITHIN)

    def _send_metrics(self) -> None:
        if self._writer.transport.get_write_buffer_size() > 0:
            return  # the supervisor is behind: the next report says all that this one would
        try:
            self._send({"metrics": self._worker.snapshot()})
        except Exception:
            log.exception("metrics could not be sent")  # requests go on

    def _send_spans(self) -> None:
        """Send spans in small batches, between requests."""
        if self._writer.transport.get_write_buffer_size() < MOST_UNREAD and self._send_some_spans():
            asyncio.get_running_loop().call_soon(self._send_spans)

    def _send_some_spans(self) -> bool:
        """Send a batch; whether there was one."""
        spans = self._worker.take_spans(SPANS_AT_ONCE)
        if spans:
            self._send({"spans": spans})
        return bool(spans)

    def _send(self, message: Mapping[str, Any]) -> None:
        if not self._writer.is_closing():
            self._writer.write(orjson.dumps(message, option=orjson.OPT_APPEND_NEWLINE))
