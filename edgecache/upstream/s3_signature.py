"""AWS Signature Version 4 for S3: a request as its canonical form, signed. Pure: the time is an argument.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote_plus, unquote_to_bytes

from edgecache.semantics.message import FieldLine

ALGORITHM: Final = b"AWS4-HMAC-SHA256"
EMPTY: Final = hashlib.sha256(b"").hexdigest().encode()
UNSIGNED: Final = b"UNSIGNED-PAYLOAD"  # of content that streams, and is not known when its head is sent
UNRESERVED: Final = "-._~"


@dataclass(frozen=True, slots=True)
class AccessKey:
    """An access key, and the region that it is used in."""

    user: str  # the id of the key
    secret: str = field(repr=False)
    region: str

    def signed(
        self, method: bytes, target: bytes, lines: Sequence[FieldLine], payload: bytes, now: float
    ) -> list[FieldLine]:
        """The lines that authenticate this request; `lines` are those to be signed, Host among them."""
        stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
        added = [(b"x-amz-content-sha256", payload), (b"x-amz-date", stamp.encode())]
        canonical, names = canonical_request(method, target, [*lines, *added], payload)
        scope = f"{stamp[:8]}/{self.region}/s3/aws4_request"
        digest = hashlib.sha256(canonical).hexdigest()
        text = b"\n".join((ALGORITHM, stamp.encode(), scope.encode(), digest.encode()))
        signature = hmac.new(signing_key(self.secret, stamp[:8], self.region), text, hashlib.sha256).hexdigest()
        said = f"Credential={self.user}/{scope},SignedHeaders={names.decode()},Signature={signature}"
        return [*added, (b"Authorization", ALGORITHM + b" " + said.encode())]


def canonical_request(method: bytes, target: bytes, lines: Sequence[FieldLine], payload: bytes) -> tuple[bytes, bytes]:
    """The request in the form that is signed, and the names of the fields in it."""
    path, _, query = target.partition(b"?")
    fields: dict[bytes, list[bytes]] = {}
    for name, value in lines:
        fields.setdefault(name.lower(), []).append(b" ".join(value.split()))
    names = b";".join(sorted(fields))
    written = b"".join([b"%b:%b\n" % (name, b",".join(fields[name])) for name in sorted(fields)])
    return b"\n".join((method, canonical_path(path), canonical_query(query), written, names, payload)), names


def canonical_path(path: bytes) -> bytes:
    """The path with all but unreserved characters encoded, once: S3 decodes what it gets, and encodes it so."""
    return quote(unquote_to_bytes(path), safe="/" + UNRESERVED).encode()


def canonical_query(query: bytes) -> bytes:
    """The parameters, encoded anew and sorted."""
    pairs = []
    for part in query.split(b"&"):
        name, _, value = part.partition(b"=")
        if part:
            pairs.append((_encoded(name), _encoded(value)))
    return "&".join([f"{name}={value}" for name, value in sorted(pairs)]).encode()


def _encoded(text: bytes) -> str:
    return quote(unquote_plus(text.decode("latin-1"), "latin-1").encode("latin-1"), safe=UNRESERVED)


@lru_cache(maxsize=64)
def signing_key(key: str, day: str, region: str) -> bytes:
    """The key of a day, a region and S3."""
    derived = b"AWS4" + key.encode()
    for part in (day, region, "s3", "aws4_request"):
        derived = hmac.new(derived, part.encode(), hashlib.sha256).digest()
    return derived
