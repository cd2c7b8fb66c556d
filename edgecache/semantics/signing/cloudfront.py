"""Amazon CloudFront's signed URLs and cookies, with a canned or a custom policy.

    URL       Expires, or Policy; Signature; Key-Pair-Id; Hash-Algorithm (SHA1 unless it is SHA256)
    cookies   the same, with `CloudFront-` before each name

The signature is of the policy, by RSA (PKCS #1 v1.5) or ECDSA; a canned policy is made of the URL and Expires. Pure.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from ipaddress import ip_network
from typing import Any, Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from edgecache.semantics.client_address import parsed_address
from edgecache.semantics.signing.signed_request import SignatureRefused, Signed, SignedRequest, expiry, wildcard

NAMES: Final = ("Expires", "Policy", "Signature", "Key-Pair-Id", "Hash-Algorithm")
PARAMETERS: Final = frozenset(name.encode() for name in NAMES)
DIGESTS: Final[Mapping[bytes, Any]] = {b"": hashes.SHA1(), b"SHA1": hashes.SHA1(), b"SHA256": hashes.SHA256()}
FROM_URL: Final = bytes.maketrans(b"-_~", b"+=/")
SMALLEST_RSA: Final = 2048  # bits
EVERYWHERE: Final = ("0.0.0.0/0", "::/0")


class Terms(NamedTuple):
    """What a policy allows."""

    resource: str
    until: float
    since: float = 0.0
    network: str = EVERYWHERE[0]


class CloudFront:
    """Verifies signatures of CloudFront's key pairs."""

    def __init__(self, keys: Mapping[str, bytes], *, cookie: str | None, needs_address: bool) -> None:
        self._keys = {name.encode(): public_key(pem) for name, pem in keys.items()}
        self._prefix = f"{cookie}-" if cookie else None
        self._needs_address = needs_address

    def verify(self, request: SignedRequest, now: float) -> Signed:
        """What is signed."""
        given = {name: request.parameter(name.encode()) for name in NAMES}
        if given["Signature"] is None and self._prefix:
            given = {name: request.cookie(self._prefix + name) for name in NAMES}
        signature, pair, written = given["Signature"], given["Key-Pair-Id"], given["Policy"]
        if signature is None or pair is None:
            raise SignatureRefused("signature-missing")
        target = request.without(PARAMETERS)
        url = (request.scheme + b"://" + request.host + target).decode("latin-1")
        if written is None:
            until = expiry(given["Expires"], 0)
            policy = canned(url, int(until)).encode("latin-1")
        else:
            policy = decoded(written)
        self._check_signature(pair, policy, decoded(signature), given["Hash-Algorithm"] or b"")
        terms = Terms(url, until) if written is None else terms_of(policy)
        self._check(terms, request, target, now)
        cookies = frozenset(self._prefix + name for name in NAMES) if self._prefix else frozenset[str]()
        return Signed(terms.until, PARAMETERS, cookies, for_address=terms.network not in EVERYWHERE)

    def _check_signature(self, pair: bytes, policy: bytes, signature: bytes, algorithm: bytes) -> None:
        key, digest = self._keys.get(pair), DIGESTS.get(algorithm)
        if key is None:
            raise SignatureRefused("signature-key")
        if digest is None:
            raise SignatureRefused("signature-malformed")
        try:
            if isinstance(key, rsa.RSAPublicKey):
                key.verify(signature, policy, padding.PKCS1v15(), digest)
            else:
                key.verify(signature, policy, ec.ECDSA(digest))
        except InvalidSignature:
            raise SignatureRefused("signature-wrong") from None

    def _check(self, terms: Terms, request: SignedRequest, target: bytes, now: float) -> None:
        if now >= terms.until:
            raise SignatureRefused("signature-expired")
        if now < terms.since:
            raise SignatureRefused("signature-not-yet-valid")
        if terms.network not in EVERYWHERE:
            address = parsed_address(request.client)
            if address is None or address not in ip_network(terms.network, strict=False):
                raise SignatureRefused("signature-address")
        elif self._needs_address:
            raise SignatureRefused("signature-address")
        _, mark, query = target.partition(b"?")
        paths = {target.partition(b"?")[0]} if "*" not in terms.resource else {request.path, *request.paths}
        matches = wildcard(terms.resource) if "*" in terms.resource or "?" in terms.resource else terms.resource.__eq__
        start = request.scheme + b"://" + request.host
        if not all(matches((start + path + mark + query).decode("latin-1")) for path in paths):
            raise SignatureRefused("signature-path")


def public_key(pem: bytes) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
    """The key in `pem`; ValueError if it is of another kind."""
    key = load_pem_public_key(pem)
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise ValueError("is neither an RSA nor an ECDSA key")
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < SMALLEST_RSA:
        raise ValueError(f"is an RSA key of {key.key_size} bits; {SMALLEST_RSA} is the secure minimum")
    return key


def canned(url: str, expires: int) -> str:
    """The canned policy of a URL, as it is signed."""
    condition = f'{{"DateLessThan":{{"AWS:EpochTime":{expires}}}}}'
    return f'{{"Statement":[{{"Resource":"{url}","Condition":{condition}}}]}}'


def decoded(written: bytes) -> bytes:
    """Base64 in the characters that CloudFront has for URLs."""
    try:
        return base64.b64decode(written.translate(FROM_URL), validate=True)
    except ValueError:
        raise SignatureRefused("signature-malformed") from None


def terms_of(policy: bytes) -> Terms:
    """What a custom policy allows; one that says more than is understood is refused."""
    try:
        (statement,) = json.loads(policy)["Statement"]
        conditions = dict(statement["Condition"])
        until = conditions.pop("DateLessThan")["AWS:EpochTime"]
        since = conditions.pop("DateGreaterThan", {"AWS:EpochTime": 0})["AWS:EpochTime"]
        network = conditions.pop("IpAddress", {"AWS:SourceIp": EVERYWHERE[0]})["AWS:SourceIp"]
        ip_network(network, strict=False)
        terms = Terms(str(statement["Resource"]), float(until), float(since), str(network))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        raise SignatureRefused("signature-malformed") from None
    if conditions:
        raise SignatureRefused("signature-malformed")
    return terms
