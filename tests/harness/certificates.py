"""Certificates made while a test runs: authorities, and what they sign, as PEM files."""

from __future__ import annotations

import datetime
import ssl
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Files:
    """The PEM files of a certificate and its key."""

    certificate: Path
    key: Path

    @property
    def pair(self) -> str:
        """As EDGECACHE_TLS_CERTIFICATES lists it."""
        return f"{self.certificate}|{self.key}"

    def replace_with(self, other: Files) -> None:
        """Put another's certificate and key in the place of these, as a tool that renews certificates does."""
        for ours, theirs in ((self.key, other.key), (self.certificate, other.certificate)):
            fresh = ours.with_suffix(".new")
            fresh.write_bytes(theirs.read_bytes())
            fresh.replace(ours)


class Authority:
    """A certificate authority that writes what it signs into `directory`."""

    def __init__(self, directory: Path, name: str = "test") -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(f"{name} authority")
        builder = _builder(self._name, self._name, self._key.public_key(), NOW + 30 * DAY)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        certificate = builder.sign(self._key, hashes.SHA256())
        self.file = directory / f"{name}-ca.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self._issued = 0

    def issue(
        self,
        *names: str,
        uris: Iterable[str] = (),
        days: float = 10,
        client: bool = True,
        file: str = "",
    ) -> Files:
        """A certificate for these DNS names and URIs; negative `days` make one that has ended."""
        self._issued += 1
        key = ec.generate_private_key(ec.SECP256R1())
        others = [*map(x509.DNSName, names), *map(x509.UniformResourceIdentifier, uris)]
        builder = _builder(_name((names or ("client",))[0]), self._name, key.public_key(), NOW + days * DAY)
        if others:
            builder = builder.add_extension(x509.SubjectAlternativeName(others), critical=False)
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, *([ExtendedKeyUsageOID.CLIENT_AUTH] if client else [])]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        stem = self.directory / (file or f"{self.file.stem}-{self._issued}")
        files = Files(Path(f"{stem}.crt"), Path(f"{stem}.key"))
        files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files

    def trusting(self, files: Files | None = None, *, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        """The context of a client that trusts this authority, and shows `files`; at most of TLS `version`."""
        context = ssl.create_default_context(cafile=str(self.file))
        if files is not None:
            context.load_cert_chain(files.certificate, files.key)
        if version is not None:
            context.set_ciphers("ALL:@SECLEVEL=0")
            with warnings.catch_warnings(action="ignore"):  # old ones are deprecated, which is the point
                context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
                context.maximum_version = version
        return context


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, ends: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - 30 * DAY)
        .not_valid_after(ends)
    )
