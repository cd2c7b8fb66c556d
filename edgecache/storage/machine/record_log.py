"""A circular file: records are stored in the order of their arrival.

Positions count all bytes ever written, so that no position is used twice: the bytes at a position are valid until
`begin` has passed it. In memory the file is mapped; on a disk it is read and written, and a read that would have to
wait for the disk can be refused.
"""

from __future__ import annotations

import errno
import mmap
import os
from contextlib import suppress
from typing import Final

from edgecache.storage.machine.schema import RECORD

NOWAIT: Final = getattr(os, "RWF_NOWAIT", 0)


class NotInMemory(Exception):
    """A read would have to wait for the disk."""


class CircularLog:
    """One such file, open in one process."""

    def __init__(self, path: str, size: int, *, mapped: bool) -> None:
        self.size = size
        self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._map: mmap.mmap | None = None
        self.view: memoryview | None = None  # of all of it, where it is mapped
        try:
            if os.fstat(self.fd).st_size != size:
                raise OSError(errno.EINVAL, "has another size than it was made with", path)
            if mapped:
                self._map = mmap.mmap(self.fd, size)
                self.view = memoryview(self._map)
        except BaseException:
            os.close(self.fd)
            raise

    def header(self, position: int) -> tuple[bytes, int, int, int, bytes]:
        """Magic, share, length, position and digest, as they are written at `position`."""
        return RECORD.unpack(self.read(position, RECORD.size, wait=True))

    def value(self, position: int, length: int, *, wait: bool) -> bytes:
        """The value of the record at `position`; raises NotInMemory unless it may `wait`, OSError if it fails."""
        return self.read(position + RECORD.size, length, wait=wait)

    def read(self, position: int, length: int, *, wait: bool) -> bytes:
        """Bytes, none of which lie behind the end of the file."""
        at = position % self.size
        if self._map is not None:
            return self._map[at : at + length]
        data = os.pread(self.fd, length, at) if wait or not NOWAIT else self._read_at_once(at, length)
        if len(data) != length:
            raise OSError(errno.EIO, "a read was short")
        return data

    def _read_at_once(self, at: int, length: int) -> bytes:
        buffer = bytearray(length)
        try:
            done = os.preadv(self.fd, [buffer], at, NOWAIT)
        except BlockingIOError:
            raise NotInMemory from None
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            raise NotInMemory from None
        if done < length:
            raise NotInMemory
        return bytes(buffer)

    def write(self, position: int, header: bytes, value: bytes) -> None:
        """Write a record at `position`, in one piece."""
        at = position % self.size
        if self._map is not None:
            middle = at + len(header)
            self._map[at:middle] = header
            self._map[middle : middle + len(value)] = value
        elif os.pwritev(self.fd, [header, value], at) != len(header) + len(value):
            raise OSError(errno.EIO, "a write was short")

    def sync(self) -> None:
        """Write it to the disk."""
        os.fsync(self.fd)

    def close(self) -> None:
        """Close the file."""
        if self._map is not None and self.view is not None:
            self.view.release()
            with suppress(BufferError):
                self._map.close()
        os.close(self.fd)
