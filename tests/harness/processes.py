"""What the kernel says of processes' sockets: which of them has which connection."""

from __future__ import annotations

import os
from pathlib import Path

ESTABLISHED = "01"


def connections_of(pid: int, port: int, *, remote: bool = False) -> int:
    """How many open IPv4 connections of `pid` have `port` on their own side, or on the other one."""
    sockets = _sockets(pid)
    found = set()  # the kernel may name one twice while others come and go
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        _, local, peer, state, *_ = words = line.split()
        there = peer if remote else local
        if state == ESTABLISHED and int(there.rpartition(":")[2], 16) == port:
            found.add(words[9])
    return len(found & sockets)


def _sockets(pid: int) -> set[str]:
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(entry)
        except OSError:  # closed meanwhile
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    return inodes
