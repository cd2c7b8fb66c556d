"""Credentials of routes: how requests authenticate upstream in the stead of their clients. Secrets lie in files."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from edgecache.semantics.message import FieldLine, Fields
from edgecache.upstream.s3_signature import EMPTY, UNSIGNED, AccessKey
from edgecache.wire.upstream_request import UpstreamRequest

AUTHORIZATION: Final = frozenset((b"authorization",))
AMAZON: Final = b"x-amz-"


@dataclass(frozen=True)
class Fixed:
    """A bearer token or a password: one line, the same for all requests."""

    line: FieldLine = field(repr=False)

    def without_clients(self, fields: Fields) -> Fields:
        """`fields` without the client's own Authorization."""
        return fields.without(AUTHORIZATION)

    def authorize(self, request: UpstreamRequest) -> UpstreamRequest:
        """`request` with the line."""
        return request.with_fields([*without_authorization(request), self.line])


def bearer(token: str) -> Fixed:
    """A token (RFC 6750)."""
    return Fixed((b"Authorization", b"Bearer " + token.encode()))


def basic(user: str, password: str) -> Fixed:
    """A user's password (RFC 7617)."""
    return Fixed((b"Authorization", b"Basic " + b64encode(f"{user}:{password}".encode())))


@dataclass(frozen=True)
class S3:
    """An access key of S3, or of what speaks its protocol. Each request is signed as it is sent."""

    key: AccessKey
    clock: Callable[[], float] = time.time

    def without_clients(self, fields: Fields) -> Fields:
        """`fields` without the client's own Authorization, and without what would change the meaning of a request."""
        names = [name for name in fields.names() if name.startswith(AMAZON)]
        return fields.without(AUTHORIZATION.union(names))

    def authorize(self, request: UpstreamRequest) -> UpstreamRequest:
        """`request`, signed now: Host and all of Amazon's fields. Its content is not known yet, and not signed."""
        payload = EMPTY if request.body is None else UNSIGNED
        signed = [line for line in request.fields if line[0].lower() == b"host" or line[0].lower().startswith(AMAZON)]
        lines = self.key.signed(request.method, request.target, signed, payload, self.clock())
        return request.with_fields([*without_authorization(request), *lines])


def without_authorization(request: UpstreamRequest) -> list[FieldLine]:
    """The fields of `request` but Authorization, which a rule may have set."""
    return [line for line in request.fields if line[0].lower() not in AUTHORIZATION]
