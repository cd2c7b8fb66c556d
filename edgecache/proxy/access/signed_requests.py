"""Access control by signed URLs and cookies."""

from __future__ import annotations

from functools import partial

from edgecache.proxy.access.admission import AccessRefused, Asked, Grant
from edgecache.semantics.client_address import CLIENT_ADDRESS_FIELDS
from edgecache.semantics.signing.signed_request import SignatureRefused, SignedRequest, Verifier


class SignedCheck:
    """Admits requests with a valid signature, which is not passed on."""

    order = 10

    def __init__(self, verifier: Verifier, *, reads_cookies: bool) -> None:
        self._verifier = verifier
        self.reads = CLIENT_ADDRESS_FIELDS | (frozenset((b"cookie",)) if reads_cookies else frozenset())

    def admit(self, asked: Asked) -> Grant:
        """Admit a request by its signature."""
        request, client = asked.request, asked.facts.client
        seen = SignedRequest(request.scheme, request.host, request.received_target, client, asked.facts.cookies)
        try:
            signed = self._verifier.verify(seen, asked.now)
        except SignatureRefused as refused:
            raise AccessRefused(403, str(refused), "this needs a valid signature") from None
        by_address = partial(_is_same, client) if signed.for_address else None
        return Grant(signed.until, cookies=signed.cookies, parameters=signed.parameters, by_address=by_address)


def _is_same(client: str, other: str) -> bool:
    return client == other
