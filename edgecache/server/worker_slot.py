"""One slot of the supervisor: its listening sockets, and the worker processes that serve them, one after the other.

The sockets are the slot's: every worker of the slot inherits the same ones, so what waits in a queue is lost neither
when a worker dies nor when one is relieved. While a worker is relieved there are two: the successor accepts before the
predecessor stops.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import orjson

from edgecache.config.settings import PREFIX
from edgecache.tasks import spawn
from edgecache.telemetry import metrics

log = logging.getLogger("edgecache.supervisor")

RELOAD_WITHIN: Final = 20.0  # seconds in which a worker must have taken other settings
FRESH_WITHIN: Final = 0.25  # seconds that /metrics waits for fresh numbers of a worker
KILL_AFTER: Final = 2.0  # seconds beyond the grace, or after the end of the control socket
CONTROL_LINE: Final = 16 * 1024 * 1024  # bytes: the longest snapshot


class Life:
    """One worker process, from its start to its end. `over` is set when it has ended or was relieved."""

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
        self.began = self.heard = time.monotonic()  # the start, and the last word from its event loop
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
        except (OSError, ValueError) as error:  # none starts, or it says what no worker says
            self.code = repr(error)
        finally:
            self.ready = False
            await self._end()
            self._slot.buried(self)
            self._answer_reload(True)  # whoever succeeds it has them
            self.settled.set()
            self.over.set()

    def _answer_reload(self, good: bool) -> None:
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
        if slot.environ is not environ:  # a reload came meanwhile
            self._tell_settings()
        if self.draining:
            self.ask("drain")
        return reader

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            async for line in reader:
                self._hear(orjson.loads(line))

    def _hear(self, message: Mapping[str, Any]) -> None:
        self.heard = time.monotonic()
        match message:
            case {"ready": True}:
                self.ready = self.was_ready = self._slot.ever_ready = True
                self.settled.set()
                log.info("worker ready slot=%d pid=%d", self._slot.number, self.pid)
            case {"metrics": snapshot}:
                self.snapshot = snapshot
                self._fresh.set()
            case {"spans": spans}:
                self._slot.on_spans(spans)
            case {"reloaded": bool(good)}:
                self._answer_reload(good)
            case {"log": _}:
                self._slot.on_log(self, message)
            case {"relief": True}:
                self._slot.on_relief(self._slot)

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
        """Ask the worker for its numbers, and wait for them a moment."""
        if self.ready:
            self._fresh.clear()
            self.ask("snapshot")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._fresh.wait(), FRESH_WITHIN)

    async def reload(self) -> bool:
        """Let the worker go on with the slot's environment; whether it does, or ends anyway."""
        if self.draining:
            return True
        reloaded = self._reloaded = asyncio.get_running_loop().create_future()
        self._tell_settings()
        try:
            return await asyncio.wait_for(reloaded, RELOAD_WITHIN) if self.ready else True
        except TimeoutError:
            return False

    def _tell_settings(self) -> None:
        settings = {name: value for name, value in self._slot.environ.items() if name.startswith(PREFIX)}
        self.ask("reload", environ=settings)

    def drain(self) -> None:
        """Let the worker accept no more, finish what it serves, and end."""
        self.draining = True
        self.ask("drain")

    def kill(self) -> None:
        """End the process at once, if there is one."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()

    def ask(self, what: str, **more: Any) -> None:
        """Send the worker an order."""
        self.tell({"ask": what, **more})

    def tell(self, message: Mapping[str, Any]) -> None:
        """Send the worker a message; one that cannot hear it any more is about to end anyway."""
        if self._control is not None and not self._control.is_closing():
            self._control.write(orjson.dumps(message, option=orjson.OPT_APPEND_NEWLINE))


class Slot:
    """Listening sockets, by kind (`listen`, `tls`, `pop`), and who serves them: the worker of the moment, and others.

    The others are on their way in or out.

    `on_relief` is told when the worker of the moment asks to be relieved, `on_spans` gets the spans of any.
    """

    def __init__(
        self,
        number: int,
        listeners: Mapping[str, socket.socket],
        command: Sequence[str],
        environ: Mapping[str, str],
        on_relief: Callable[[Slot], None],
        on_spans: Callable[[Sequence[Sequence[Any]]], None] = lambda spans: None,
    ) -> None:
        self.number = number
        self.listeners = listeners
        self.command = command
        self.environ = environ
        self.on_relief = on_relief
        self.on_end: Callable[[int], None] = lambda pid: None
        self.on_log: Callable[[Life, Mapping[str, Any]], None] = lambda life, message: None
        self.on_spans = on_spans
        self.ever_ready = False
        self.current: Life | None = None
        self.lives: list[Life] = []  # every process of this slot that has not ended
        self._past: metrics.Snapshot = {}  # what the dead ones have counted

    def begin(self) -> Life:
        """Start one more worker on the listening sockets."""
        life = Life(self)
        self.lives.append(life)
        return life

    def hand_over(self, successor: Life) -> None:
        """Make `successor` the worker of the moment; the one before drains."""
        old, self.current = self.current, successor
        if old is not None:
            old.drain()
            old.over.set()

    def buried(self, life: Life) -> None:
        """`life` has ended: keep what it counted."""
        self.lives.remove(life)
        self.on_end(life.pid)
        self._past = metrics.merge([self._past, metrics.cumulative(life.snapshot)])

    @property
    def ready(self) -> bool:
        """Whether the worker of the moment serves."""
        return self.current is not None and self.current.ready

    @property
    def state(self) -> str:
        """The worker of the moment in one word."""
        if self.current is None:
            return "down"
        return "ready" if self.current.ready else "starting"

    @property
    def of_the_moment(self) -> metrics.Snapshot:
        """What the worker of the moment has told last; nothing of one that is not ready."""
        return self.current.snapshot if self.current is not None and self.current.ready else {}

    @property
    def snapshot(self) -> metrics.Snapshot:
        """What the workers of this slot have counted, the dead ones included."""
        return metrics.merge([self._past, *(life.snapshot for life in self.lives)])

    async def reload(self, environ: Mapping[str, str]) -> bool:
        """Let every worker of now and later go on with the settings of `environ`; whether those of now do."""
        self.environ = environ
        return all(await asyncio.gather(*(life.reload() for life in self.lives)))

    async def refresh(self) -> None:
        """Ask every worker for its numbers."""
        await asyncio.gather(*(life.refresh() for life in self.lives))

    def drain(self) -> None:
        """Close the listening sockets and let the workers finish what they serve."""
        for listener in self.listeners.values():
            listener.close()
        for life in self.lives:
            life.drain()

    def kill(self) -> None:
        """End every worker at once."""
        for life in self.lives:
            life.kill()
