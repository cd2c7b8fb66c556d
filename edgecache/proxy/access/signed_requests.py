"""Access by signed URLs and cookies: the check, and the verifier that a rule's format has."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

from edgecache.proxy.access.admission import AccessRefused, Asked, Grant
from edgecache.semantics.client_address import CLIENT_ADDRESS_FIELDS
from edgecache.semantics.signing.signed_request import SignatureRefused, SignedRequest, Verifier

if TYPE_CHECKING:
    from edgecache.config.sites.model import SignedUrl

SHORTEST: Final = 16  # bytes of a secret


def verifier_of(written: SignedUrl, contents: Mapping[str, bytes]) -> Verifier:
    """The verifier of a rule, by the contents of its files of keys. Raises ValueError."""
    names = {"parameter": written.parameter, "cookie": written.cookie}
    secrets = {name: content.strip() for name, content in contents.items()}
    if written.format == "cloudfront":
        from edgecache.semantics.signing.cloudfront import CloudFront

        return CloudFront(contents, cookie=written.cookie, needs_address=written.address)
    if any(len(secret) < SHORTEST for secret in secrets.values()) and written.format == "edgecache":
        raise ValueError(f"a secret has fewer than {SHORTEST} bytes")
    if not all(secrets.values()):
        raise ValueError("a file of a secret is empty")
    if written.format == "nginx-secure-link":
        from edgecache.semantics.signing.secure_link import SecureLink

        return SecureLink(secrets.values(), needs_address=written.address)
    if written.format == "akamai":
        from edgecache.semantics.signing.edge_auth import EdgeAuth

        keys = [bytes.fromhex(secret.decode("ascii")) for secret in secrets.values()]
        return EdgeAuth(keys, needs_address=written.address, **names)
    from edgecache.semantics.signing.own_format import OwnFormat

    return OwnFormat(secrets, needs_address=written.address, **names)


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
