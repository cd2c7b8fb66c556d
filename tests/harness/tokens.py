"""Keys, key sets and tokens for tests of access."""

from __future__ import annotations

import base64
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

SECRET = b"0123456789abcdef0123456789abcdef"
PRIVATE = {
    "rsa": rsa.generate_private_key(65537, 2048),
    "rsa-2": rsa.generate_private_key(65537, 2048),
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "ed": ed25519.Ed25519PrivateKey.generate(),
}
ALGORITHM = {"rsa": "RS256", "rsa-2": "RS256", "p256": "ES256", "ed": "EdDSA", "secret": "HS256"}


def encoded(content: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def number(value: int, size: int = 0) -> str:
    """An integer as a JWK has it."""
    return encoded(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


def public_jwk(name: str) -> dict[str, Any]:
    """The public key of that name as a JWK."""
    if name == "secret":
        return {"kty": "oct", "kid": name, "k": encoded(SECRET)}
    public: Any = PRIVATE[name].public_key()
    if name.startswith("rsa"):
        numbers = public.public_numbers()
        return {"kty": "RSA", "kid": name, "use": "sig", "n": number(numbers.n), "e": number(numbers.e)}
    if name == "p256":
        numbers = public.public_numbers()
        return {"kty": "EC", "kid": name, "crv": "P-256", "x": number(numbers.x, 32), "y": number(numbers.y, 32)}
    raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return {"kty": "OKP", "kid": name, "crv": "Ed25519", "x": encoded(raw)}


def key_set(*names: str) -> bytes:
    """A key set of these."""
    return json.dumps({"keys": [public_jwk(name) for name in names]}).encode()


def public_pem(name: str) -> bytes:
    """The public key of that name as PEM."""
    return PRIVATE[name].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def private_pem(name: str) -> bytes:
    """The private key of that name as PEM."""
    return PRIVATE[name].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def raw_token(header: Any, claims: Any, signature: bytes = b"") -> str:
    """A token out of its parts, signed or not."""
    return ".".join([*(encoded(json.dumps(part).encode()) for part in (header, claims)), encoded(signature)])
