"""Kept connections that the other side has closed: whether it can have read what was written to one (RFC 9112 §9.5).

A close that was under way before the request arrived is no answer to it. Two signs tell: the kernel there has met the
request with a reset, which a process that has read it does not cause; or the close came sooner than any answer can.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from edgecache.semantics.message import Response
from edgecache.wire.upstream_request import UpstreamRequest

AT_ONCE: Final = 64 * 1024  # bytes

MIN_RTT: Final = slice(148, 152)  # of Linux's struct tcp_info: the shortest round trip, in microseconds


def is_farewell(request: UpstreamRequest, response: Response) -> bool:
    """Whether a 408 ends a connection that was idle for too long, and has crossed `request` on its way.

    Then the request has not been read, and may be sent again (RFC 9110 §15.5.9).
    """
    return response.status == 408 and request.may_be_repeated


def has_ended(transport: asyncio.Transport) -> bool:
    """Whether anything has come on a connection on which nothing was asked: its end, or what is no answer."""
    if transport.is_closing():
        return True
    waiting = select.poll()
    waiting.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(waiting.poll(0))


def closed_unread(transport: asyncio.Transport, after: float, fastest: float) -> bool:
    """Whether a connection that ends `after` so many seconds cannot end because of the request that was written to it.

    `fastest` is the least time in which its origin has ever begun an answer.
    """
    connection = transport.get_extra_info("socket")
    if connection is None:
        return False
    if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):  # reset after its end: nobody was there to read
        return True
    return after < max(fastest, _round_trip(connection))


def unread(transport: asyncio.Transport) -> Iterator[bytes]:
    """What came on a connection that was reset while it was written to, and was not read (RFC 9112 §9.5, §9.6).

    Of TLS there is nothing to be had: its state has ended with the transport.
    """
    connection = transport.get_extra_info("socket")
    if connection is None or transport.get_extra_info("ssl_object") is not None:
        return
    with suppress(OSError):
        while data := os.read(connection.fileno(), AT_ONCE):
            yield data


def _round_trip(connection: socket.socket) -> float:
    """The shortest round trip of a connection, in seconds; 0 where the system does not tell."""
    if sys.platform != "linux":
        return 0.0
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, MIN_RTT.stop)
    return int.from_bytes(info[MIN_RTT], sys.byteorder) / 1e6
