"""Why TLS handshakes fail, in a closed set of words for metrics."""

from __future__ import annotations

import ssl
from typing import Final

WORDS: Final = {  # by OpenSSL's reason
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no-certificate",
    "CERTIFICATE_VERIFY_FAILED": "bad-certificate",
    "UNSUPPORTED_PROTOCOL": "version",
    "WRONG_VERSION_NUMBER": "version",
    "NO_SHARED_CIPHER": "cipher",
    "HTTP_REQUEST": "plain-http",
}
NOT_A_POP: Final = "not-a-pop"
REASONS: Final = (*dict.fromkeys(WORDS.values()), NOT_A_POP, "timeout", "closed", "other")


def reason_of(error: OSError) -> str:
    """The word of `REASONS` for `error`."""
    if isinstance(error, ssl.SSLError):
        return WORDS.get(error.reason or "", "other")
    if isinstance(error, TimeoutError) or (type(error) is ConnectionAbortedError and "longer than" in str(error)):
        return "timeout"
    return "closed" if isinstance(error, ConnectionError) else "other"
