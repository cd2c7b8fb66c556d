"""Notifications to systemd (sd_notify): ready, watchdog, stopping. Without a socket it does nothing."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping
from typing import Final, Literal

log = logging.getLogger("edgecache.supervisor")

LOOK_EVERY: Final = 0.05  # seconds, until the POP is ready


class ServiceManager:
    """The socket of NOTIFY_SOCKET and the interval of WATCHDOG_USEC."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog = int(environ.get("WATCHDOG_USEC", "0") or 0) / 2_000_000  # seconds: half of what is allowed

    async def run(self, state: Callable[[], Literal["starting", "ready", "draining"]]) -> None:
        """Notify readiness once, then the watchdog regularly; returns at once without a socket."""
        if not self._address:
            return
        while True:
            if (now := state()) != "starting":
                break
            await asyncio.sleep(LOOK_EVERY)
        if now == "ready":
            self.tell("READY=1")
        while self._watchdog:
            self.tell("WATCHDOG=1")
            await asyncio.sleep(self._watchdog)

    def tell(self, state: str) -> None:
        """Send a state; failures are logged."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto(state.encode(), self._address)
        except OSError as error:
            log.warning("the service manager cannot be notified of %s: %s", state, error)
