"""Certificates with their private keys, as files: where they are, whether they fit together, what they are for.

A `ValueError` says what is wrong with a file in words that end the sentence `EDGECACHE_NAME: "value" …`.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

LARGEST: Final = 1024 * 1024  # bytes of one file
KEY_OF: Final = {".crt": ".key", ".cert": ".key"}  # in a directory: what lies beside a certificate
CERTBOT: Final = ("fullchain.pem", "privkey.pem")  # in a directory of its own for each name


@dataclass(frozen=True, slots=True)
class KeyPair:
    """The PEM files of a certificate with its chain, and of its key; both may be one file."""

    certificate: str
    key: str


@dataclass(frozen=True, slots=True)
class Described:
    """A key pair with its names and expiry."""

    pair: KeyPair
    names: tuple[str, ...]  # of its subject alternative names the DNS names, in lower case
    ends: float  # epoch seconds
    fingerprint: bytes

    def expired(self, now: float) -> bool:
        """Whether it has expired."""
        return now >= self.ends


def key_pairs(text: str) -> tuple[Described, ...]:
    """Key pairs of a setting: a directory, or `cert.pem|key.pem,…`; each is checked."""
    members = [part.strip() for part in text.split(",") if part.strip()]
    if len(members) == 1 and "|" not in members[0] and Path(members[0]).is_dir():
        pairs = tuple(in_directory(Path(members[0])))
        if not pairs:
            raise ValueError(
                "is a directory without NAME.pem, NAME.crt with NAME.key, or NAME/fullchain.pem with NAME/privkey.pem"
            )
    else:
        pairs = tuple(_pair(member) for member in members)
    return tuple(described(pair) for pair in pairs)


def _pair(text: str) -> KeyPair:
    certificate, bar, key = (part.strip() for part in text.partition("|"))
    if bar and not key:
        raise ValueError(f"holds {text}, which has no key after its bar")
    return KeyPair(certificate, key or certificate)


def in_directory(directory: Path) -> Iterator[KeyPair]:
    """Key pairs of a directory by name, `default` first; hidden files and those without a key are ignored."""
    found = []
    try:
        for entry in sorted(directory.iterdir()):
            if entry.name.startswith("."):
                continue
            chain, key = (entry / name for name in CERTBOT)
            beside = entry.with_suffix(KEY_OF.get(entry.suffix, entry.suffix))
            if chain.exists():
                found.append((entry.name, KeyPair(str(chain), str(key))))
            elif entry.suffix in KEY_OF:
                found.append((entry.stem, KeyPair(str(entry), str(beside))))
            elif entry.suffix == ".pem" and entry.is_file():
                found.append((entry.stem, KeyPair(str(entry), str(entry))))
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    yield from (pair for name, pair in sorted(found, key=lambda one: (one[0] != "default", one[0])))


def described(pair: KeyPair) -> Described:
    """`pair` with its names and expiry; ValueError if certificate and key do not match."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    try:
        certificate = x509.load_pem_x509_certificates(_read(pair.certificate))[0]
        names = _names(certificate)
    except ValueError as error:
        raise ValueError(_said(pair.certificate, error, "no certificate in PEM form")) from None
    try:
        key = serialization.load_pem_private_key(_read(pair.key), None)
    except TypeError:
        raise ValueError(f"names {pair.key}, a key that is encrypted") from None
    except ValueError as error:
        raise ValueError(_said(pair.key, error, "no private key in PEM form")) from None
    if key.public_key() != certificate.public_key():
        raise ValueError(f"names {pair.key}, which is not the key of {pair.certificate}")
    load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), pair)
    ends = certificate.not_valid_after_utc.timestamp()
    return Described(pair, names, ends, certificate.fingerprint(hashes.SHA256()))


class _Unreadable(ValueError):
    pass


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(LARGEST)
    except OSError as error:
        raise _Unreadable(f"names {path}, which cannot be read: {error.strerror}") from None


def _said(path: str, error: ValueError, otherwise: str) -> str:
    return str(error) if isinstance(error, _Unreadable) else f"names {path}, which holds {otherwise}"


def _names(certificate: Certificate) -> tuple[str, ...]:
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(name.lower().rstrip(".") for name in names.get_values_for_type(x509.DNSName))


def load_pair(context: ssl.SSLContext, pair: KeyPair) -> None:
    """Load `pair` into a context; OpenSSL may still refuse it, for example for a short key."""
    try:
        context.load_cert_chain(pair.certificate, pair.key, password=_no_password)
    except OSError as error:  # SSLError is one
        reason = getattr(error, "reason", None) or error.strerror or "refused"
        raise ValueError(f"names {pair.certificate}, which OpenSSL refuses: {reason}") from None


def _no_password() -> str:
    raise ValueError("the key is encrypted")
