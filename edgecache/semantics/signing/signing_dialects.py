"""The verifier for each format of signed URLs, made from the contents of its key files. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Protocol

from edgecache.semantics.signing.signed_request import Verifier

SHORTEST: Final = 16  # bytes of a secret of our own format
SHORTEST_KEY: Final = 8  # bytes of a key of Akamai's, whose own example has 14


class Written(Protocol):
    """The settings of a rule for signatures."""

    @property
    def format(self) -> str:
        """The name of the format."""

    @property
    def address(self) -> bool:
        """Whether a signature must hold for the address of its client."""

    @property
    def parameter(self) -> str | None:
        """The query parameter with the token, if it is another than usual."""

    @property
    def cookie(self) -> str | None:
        """The cookie that may have the token."""


class UnusableKey(ValueError):
    """The content of a file is not a key of this format; the text ends a sentence."""

    def __init__(self, name: str, words: str) -> None:
        super().__init__(words)
        self.name = name  # of the key


def verifier_of(written: Written, contents: Mapping[str, bytes]) -> Verifier:
    """The verifier of a rule, by the contents of its files of keys. Raises `UnusableKey`."""
    return FORMATS[written.format].make(written, contents)


def parameters_of(written: Written) -> frozenset[str]:
    """The query parameters that signatures of a rule are in."""
    usual = FORMATS[written.format].parameters
    return frozenset((written.parameter,)) if written.parameter else usual


def _own_format(written: Written, contents: Mapping[str, bytes]) -> Verifier:
    from edgecache.semantics.signing.own_format import OwnFormat

    secrets = _secrets(contents, SHORTEST)
    return OwnFormat(secrets, parameter=written.parameter, cookie=written.cookie, needs_address=written.address)


def _secure_link(written: Written, contents: Mapping[str, bytes]) -> Verifier:
    from edgecache.semantics.signing.secure_link import SecureLink

    return SecureLink(_secrets(contents, 1).values(), needs_address=written.address)


def _edge_auth(written: Written, contents: Mapping[str, bytes]) -> Verifier:
    from edgecache.semantics.signing.edge_auth import EdgeAuth

    keys = [_hexadecimal(name, secret) for name, secret in _secrets(contents, 1).items()]
    return EdgeAuth(keys, parameter=written.parameter, cookie=written.cookie, needs_address=written.address)


def _cloudfront(written: Written, contents: Mapping[str, bytes]) -> Verifier:
    from edgecache.semantics.signing.cloudfront import CloudFront, public_key

    for name, content in contents.items():
        try:
            public_key(content)
        except (ValueError, TypeError) as error:
            raise UnusableKey(name, _said_of_public(content, error)) from None
    return CloudFront(contents, cookie=written.cookie, needs_address=written.address)


def _said_of_public(content: bytes, error: Exception) -> str:
    if b"PRIVATE KEY-----" in content:
        return "holds a private key, where CloudFront's public key belongs"
    if not content.lstrip().startswith(b"-----BEGIN"):
        return "is no public key in PEM"
    return str(error) if str(error).startswith("is ") else "is no public key in PEM that can be read"


def _secrets(contents: Mapping[str, bytes], shortest: int) -> dict[str, bytes]:
    """The secrets, without space around them."""
    found = {name: content.strip() for name, content in contents.items()}
    for name, secret in found.items():
        if len(secret) < shortest:
            raise UnusableKey(name, "is empty" if not secret else f"holds a secret of fewer than {shortest} bytes")
        if secret.startswith(b"-----BEGIN"):
            raise UnusableKey(name, "is a key in PEM; a secret is needed")
        if b"\n" in secret:
            raise UnusableKey(name, "holds more than one line")
    return found


def _hexadecimal(name: str, secret: bytes) -> bytes:
    try:
        key = bytes.fromhex(secret.decode("ascii"))
    except ValueError:
        raise UnusableKey(name, "is not hexadecimal, as Akamai's keys are") from None
    if len(key) < SHORTEST_KEY:
        raise UnusableKey(name, f"holds a key of fewer than {SHORTEST_KEY} bytes")
    return key


class Format(NamedTuple):
    """How a verifier is made, and the parameters that it reads."""

    make: Callable[[Written, Mapping[str, bytes]], Verifier]
    parameters: frozenset[str]


FORMATS: Final[Mapping[str, Format]] = {
    "edgecache": Format(_own_format, frozenset(("edgecache-token",))),
    "nginx-secure-link": Format(_secure_link, frozenset(("md5", "expires"))),
    "cloudfront": Format(_cloudfront, frozenset(("Expires", "Policy", "Signature", "Key-Pair-Id", "Hash-Algorithm"))),
    "akamai": Format(_edge_auth, frozenset(("hdnts",))),
}
