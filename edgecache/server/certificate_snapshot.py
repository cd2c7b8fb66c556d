"""Copies of the files that a configuration was found good with, so that workers get those and no others.

Changes of a file after its check must not reach a worker. The copies are unnamed files in memory, which a worker opens
by the supervisor's descriptors. Where the system forbids that, workers read the files themselves.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from typing import Final

from edgecache.config.certificates import KeyPair

GENERATIONS: Final = 2  # configurations whose copies are kept: a worker may be starting with the previous one


class CertificateSnapshot:
    """Copies of files. Mutable state: descriptors by content, with the last generation that used each."""

    def __init__(self) -> None:
        self._held: dict[bytes, tuple[int, int]] = {}
        self._generation = 0

    def told(
        self, environ: Mapping[str, str], pairs: Iterable[KeyPair], pop_ca: str, sites: bytes = b""
    ) -> dict[str, str]:
        """`environ` with its certificates, and `sites`, replaced by copies; raises OSError if one cannot be read."""
        self._generation += 1
        told = dict(environ)
        if not workers_may_open():
            return told
        copies = [self._copy(pair.certificate, pair.key) for pair in pairs]
        if copies:
            told["EDGECACHE_TLS_CERTIFICATES"] = ",".join(copies)
        if pop_ca:
            told["EDGECACHE_POP_CA"] = self._copy(pop_ca)
        if sites:  # too long for a variable: Linux has 128 KiB for each
            told["EDGECACHE_SITES"] = self._copy_of(sites)
        self._forget()
        return told

    def _copy(self, *paths: str) -> str:
        """Path of a copy of these files, concatenated."""
        return self._copy_of(b"\n".join(_read(path) for path in dict.fromkeys(paths)))

    def _copy_of(self, content: bytes) -> str:
        mark = hashlib.sha256(content).digest()
        descriptor = self._held[mark][0] if mark in self._held else _in_memory(content)
        self._held[mark] = descriptor, self._generation
        return f"/proc/{os.getpid()}/fd/{descriptor}"

    def _forget(self) -> None:
        for mark, (descriptor, used) in tuple(self._held.items()):
            if used <= self._generation - GENERATIONS:
                os.close(descriptor)
                del self._held[mark]

    def close(self) -> None:
        """Close all copies."""
        for descriptor, _ in self._held.values():
            os.close(descriptor)
        self._held.clear()


def workers_may_open() -> bool:
    """Whether child processes may open this process's descriptors: not if it has file capabilities."""
    try:
        return os.stat("/proc/self").st_uid == os.geteuid()
    except OSError:
        return False


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _in_memory(content: bytes) -> int:
    descriptor = os.memfd_create("edgecache configuration")
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(content)
    return descriptor
