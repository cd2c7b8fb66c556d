"""Keys for the verification of tokens: from a JWK set, a JWK, a PEM public key or a certificate. Pure."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import orjson
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry

MOST_KEYS: Final = 100
OF_RSA: Final = frozenset(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"))
OF_CURVE: Final = {
    "P-256": frozenset(("ES256",)),
    "P-384": frozenset(("ES384",)),
    "P-521": frozenset(("ES512",)),
    "secp256k1": frozenset(("ES256K",)),
    "Ed25519": frozenset(("EdDSA", "Ed25519")),  # RFC 9864 names the second
    "Ed448": frozenset(("EdDSA", "Ed448")),
}
OF_SECRET: Final = frozenset(("HS256", "HS384", "HS512"))
ALGORITHMS: Final = OF_RSA.union(OF_SECRET, *OF_CURVE.values())


class Key(NamedTuple):
    """One key, and its algorithms: a public key is never used as a secret."""

    kid: str | None
    key: Any
    algorithms: frozenset[str]


def keys_of(content: bytes) -> list[Key]:
    """The keys in a JWK set, a JWK, a PEM public key or a certificate; ValueError if there are none."""
    if content.lstrip().startswith(b"-----BEGIN"):
        return [_of_pem(content)]
    written = orjson.loads(content)
    if not isinstance(written, dict):
        raise ValueError("is no key set")
    listed = written["keys"] if isinstance(written.get("keys"), list) else [written]
    found = [key for one in listed[:MOST_KEYS] if isinstance(one, dict) and (key := _of_jwk(one)) is not None]
    if not found:
        raise ValueError("has no usable key")
    return found


def _of_pem(content: bytes) -> Key:
    if b"-----BEGIN CERTIFICATE" in content:
        public: Any = x509.load_pem_x509_certificate(content).public_key()
    else:
        public = load_pem_public_key(content)
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for kind in ("RSA", "EC", "OKP"):
        try:
            key = _imported(pem, kind)
        except (JoseError, ValueError, TypeError, AttributeError):
            continue
        suits = _suits(key.as_dict(private=False))
        if suits:
            return Key(None, key, suits)
    raise ValueError("is a key of a kind that no algorithm has")


def _of_jwk(written: dict[str, Any]) -> Key | None:
    """One key of a set; None if it is not for signatures, or not understood (RFC 7517 §5)."""
    operations, kid = written.get("key_ops"), written.get("kid")
    if written.get("use", "sig") != "sig" or (isinstance(operations, list) and "verify" not in operations):
        return None
    try:
        key = _imported(written)
    except (JoseError, ValueError, TypeError, KeyError, AttributeError):
        return None
    suits = _suits(written)
    if isinstance(named := written.get("alg"), str):
        same = {"EdDSA", "Ed25519"} if named in ("EdDSA", "Ed25519") else {named}
        suits &= same
    return Key(kid if isinstance(kid, str) else None, key, suits) if suits else None


def _imported(written: Any, kind: str | None = None) -> Any:
    """A key, without the library's warnings of small ones, which the text of sites may not name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return JWKRegistry.import_key(written, kind)


def _suits(written: Any) -> frozenset[str]:
    """The algorithms of a key by its type."""
    kind = written.get("kty")
    if kind == "RSA":
        return OF_RSA
    if kind == "oct":
        return OF_SECRET
    return OF_CURVE.get(str(written.get("crv")), frozenset())


def suitable(keys: Iterable[Key], kid: str | None, algorithm: str) -> list[Key]:
    """The keys that a token with this header may be signed with."""
    named = [key for key in keys if algorithm in key.algorithms]
    if kid is None:
        return named
    return [key for key in named if key.kid == kid] or [key for key in named if key.kid is None]
