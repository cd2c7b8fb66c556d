"""The names by which a listener is asked that no page of another site can take (DNS rebinding). Pure.

A browser sends the name of the page's site as Host, whatever address that name resolves to: an address itself,
localhost and the machine's own names are none that somebody else's page is served under.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address


def is_own(host: str | None, names: Collection[str]) -> bool:
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
