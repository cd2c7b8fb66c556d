"""Host names that pages of other sites cannot use (protection against DNS rebinding). Pure.

A browser sends the page's site as Host, whatever address that name resolves to. Pages of other sites are never served
under an IP address, localhost or the machine's own names.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address


def is_own_host(host: str | None, names: Collection[str]) -> bool:
    """Whether `host`, the value of Host, is an address, localhost or one of these lower-case `names`.

    None is: a browser sends one.
    """
    if host is None:
        return True
    name = _without_port(host.strip().lower()).removesuffix(".")
    if name in names or name == "localhost" or name.endswith(".localhost"):  # RFC 6761 §6.3
        return True
    try:
        ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and (port.isdigit() or not port) and not host.endswith("]") else host
