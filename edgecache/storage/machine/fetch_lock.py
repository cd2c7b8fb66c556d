"""Request collapsing across the workers of a machine: the process that holds a key's lock fetches, the others wait.

A lock is a byte range of one file, locked by the open file: it ends with its process, however that ends. The outcome
goes to the other processes as a datagram. If one is lost, the waiting processes try the lock again after `POLL`, and
look into the store once they have it.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from typing import Any, Final

import orjson

from edgecache.storage.fetch_lease import Lease, LeaseOutcome, LeaseResult, LeaseWait, Waits

log = logging.getLogger("edgecache")
POLL: Final = 0.1  # seconds between two tries of a lock that another process holds
LOOK: Final = 1.0  # seconds for which the list of processes is good
DATAGRAM: Final = 4096  # bytes, at most
FLOCK: Final = struct.Struct("hhqqi4x")  # of fcntl(2), on 64 bits: kind, whence, start, length, process
LONGEST: Final = 60  # bytes of a directory in which a socket can be named (unix(7): 107 in all)
UNTOLD: Final = "no socket can be made in %s, this worker looks by itself whether others have fetched: %s"
PLACES: Final = (1 << 62) - 1


class FetchLocks(Waits):
    """The leases that this process holds, and those that it waits for. Mutable state: both, and its socket."""

    def __init__(self, directory: str, on_unreadable: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._on_unreadable = on_unreadable
        self._warned = False
        self._file = os.open(f"{directory}/fetches", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._wake = f"{directory}/wake"
        if len(self._wake) > LONGEST and os.path.isdir("/proc/self/fd"):
            self._wake = f"/proc/self/fd/{self._directory}/wake"
        self._name = f"{os.getpid()}-{id(self):x}"
        self._held: dict[bytes, Lease] = {}
        self._ending: set[bytes] = set()  # of those, keys whose responses are being stored: worth a wait
        self._others: list[str] = []
        self._looked = 0.0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            os.makedirs(self._wake, 0o700, exist_ok=True)
            self._socket.bind(f"{self._wake}/{self._name}")
        except OSError as error:
            log.warning(UNTOLD, self._wake, error)
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._receive)

    async def take(self, key: bytes, within: float) -> Lease | LeaseWait | None:
        """The lease of `key`, or a wait for another process's; None if this one has it, for others."""
        if key in self._held and key not in self._ending:
            return None
        if key not in self._held and self._lock(key, fcntl.F_WRLCK):
            lease = self._held[key] = Lease(key, b"")
            return lease
        waiting = self.wait_for(key)
        waiting.left = POLL
        return waiting

    def _lock(self, key: bytes, kind: int) -> bool:
        place = int.from_bytes(blake2b(key, digest_size=8).digest()) & PLACES
        try:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, FLOCK.pack(kind, os.SEEK_SET, place, 1, 0))
        except OSError:
            return False
        return True

    def release(self, lease: Lease, result: LeaseResult, after: Any = None) -> None:
        """Release the lease and send the outcome, once the changes that wait `after` are made."""
        if self._held.get(lease.key) is not lease:
            return
        if after is None:
            self._release(lease, result)
        else:
            self._ending.add(lease.key)
            after.after(partial(self._release, lease, result))

    def _release(self, lease: Lease, result: LeaseResult) -> None:
        self._ending.discard(lease.key)
        if self._held.pop(lease.key, None) is None:
            return
        self._lock(lease.key, fcntl.F_UNLCK)
        self.tell(lease.key, result)
        message = orjson.dumps((lease.key.decode(), result.outcome.value, result.status, result.reason[:256]))
        for other in self._processes():
            try:
                self._socket.sendto(message, other)
            except (ConnectionError, FileNotFoundError):
                self._others.remove(other)
                with suppress(OSError):
                    os.unlink(other)  # its process has ended
            except OSError:
                pass  # its queue is full: it polls

    def _processes(self) -> list[str]:
        """The sockets of the other processes."""
        now = time.monotonic()
        if now - self._looked > LOOK:
            self._looked = now
            with suppress(OSError):
                self._others = [f"{self._wake}/{name}" for name in os.listdir(self._wake) if name != self._name]
        return list(self._others)

    def _receive(self) -> None:
        for _ in range(64):
            try:
                key, came, status, reason = orjson.loads(self._socket.recv(DATAGRAM))
                result = LeaseResult(LeaseOutcome(came), int(status), str(reason))
            except BlockingIOError:
                return
            except (OSError, ValueError, TypeError) as error:
                self._unreadable(error)
                continue
            self.tell(str(key).encode(), result)

    def _unreadable(self, error: Exception) -> None:
        """A datagram that is no outcome; its key's fetch is found to be over by the next look."""
        self._on_unreadable()
        if not self._warned:
            self._warned = True
            log.warning("a message of another worker cannot be read, and is ignored: %s", error)

    async def close(self) -> None:
        """Close; the leases that are held end."""
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()
        with suppress(OSError):
            os.unlink(f"{self._wake}/{self._name}")
        os.close(self._file)
        os.close(self._directory)
        self._held.clear()

    def __len__(self) -> int:
        return len(self._held)
