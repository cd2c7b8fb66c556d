"""`edgecache healthcheck`: whether the POP on this machine is ready, for orchestrators that ask by a command."""

from __future__ import annotations

import http.client
import json
from typing import Final

from edgecache.config import Address

TIMEOUT: Final = 2.5  # seconds
ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # an address to listen on, and one to ask it at


def ask(admin: Address) -> tuple[bool, str]:
    """Whether `/readyz` on the admin listener says ready, and its state in words."""
    connection = http.client.HTTPConnection(ANY.get(admin.host, admin.host), admin.port, timeout=TIMEOUT)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        state = str(json.loads(answer.read())["state"])
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
        return False, f"{admin} does not tell: {error or type(error).__name__}"
    finally:
        connection.close()
    return answer.status == http.client.OK, state
