"""One stored response as a self-describing record, as kept in the regional tier.

    magic "ecr", schema version     4 bytes
    digest                          16 bytes: BLAKE2b of the key under which it lies, and of all that follows
    the fixed part                  see `FIXED`: the lengths of what follows, numbers and times
    url                             the full cache key
    block                           the fields, packed: see `semantics/field_codec.py`
    meta                            JSON, an array: the reason, Vary, the selecting values, the directives
    tags                            with a line feed between two
    seen                            the version vector of the invalidation log when the origin was asked
    chunks                          the name of the body's chunks; empty: the body follows
    body                            whole; or nothing

The digest is bound to the key, so that a record (or a chunk) that lies under another's key is as wrong as one with a
flipped bit. With a key for encryption, what follows the magic is a nonce and AES-GCM's ciphertext, which is bound in
the same way. Meta, which many records have in common, is parsed once and memoized by its bytes. Pure; input is not
trusted: anything that is not a record is `Corrupt`.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b
from itertools import accumulate
from math import isfinite
from typing import Final, NamedTuple, Protocol

import orjson

from edgecache.semantics.cache_control import ResponseDirectives
from edgecache.semantics.field_codec import content_type_in
from edgecache.semantics.memoize import memoize

MAGIC: Final = b"ecr\x04"  # the last byte is the schema's version
SEALED: Final = b"ecs\x04"  # the same, encrypted
DIGEST_SIZE: Final = 16
NONCE_SIZE: Final = 12
# Status; lengths of url, block, meta, tags, seen, chunks, body; received, initial age, lifetime, stale at and if error;
# machine and up.
FIXED: Final = struct.Struct(">HIIIIIHQdddddQd")
PREFIX: Final = len(MAGIC) + DIGEST_SIZE  # bytes before what was sealed


class Corrupt(Exception):
    """The data are not a record for that key; the word is the reason, for the metrics."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


class Record(NamedTuple):
    """One stored response. Times are epoch seconds, durations seconds, lengths bytes."""

    url: bytes  # the full cache key: a digest of it names the record
    status: int
    reason: bytes
    received: float
    initial_age: float
    lifetime: float
    stale_at: float
    stale_if_error: float
    vary: tuple[bytes, ...]
    selecting: tuple[bytes | None, ...]
    directives: ResponseDirectives
    tags: tuple[bytes, ...]
    seen: str  # the version vector of the invalidation log when the origin was asked
    length: int  # of the body
    chunks: bytes  # the name of the body's chunks; empty: the body is here
    block: bytes
    body: bytes
    machine: int = 0  # that received it, in one boot; 0: not known
    up: float = 0.0  # its uptime then, in seconds

    @property
    def content_type(self) -> bytes:
        """Its Content-Type; empty where it has none."""
        return content_type_in(self.block)


class Cipher(Protocol):
    """AES-GCM, as `cryptography` has it."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes) -> bytes:
        """The ciphertext with its tag."""

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes) -> bytes:
        """The plaintext; raises if it was not made by this key for these data."""


class Codec:
    """Records to and from bytes; `cipher` encrypts them, with nonces of `random` bytes.

    `scope` is what the records belong to beside their keys, such as a jurisdiction: another's are `Corrupt` here.
    """

    def __init__(
        self, cipher: Cipher | None = None, random: Callable[[int], bytes] | None = None, scope: bytes = b""
    ) -> None:
        self._cipher = cipher
        self._random = random
        self._scope = scope and scope + b"!"

    @property
    def encrypts(self) -> bool:
        """Whether records are encrypted."""
        return self._cipher is not None

    def encode(self, key: bytes, record: Record) -> bytes:
        """`record`, to lie under `key`."""
        meta = _written_meta(record.reason, record.vary, record.selecting, record.directives)
        tags = b"\n".join(record.tags)  # a field's value holds no line feed
        seen = record.seen.encode("ascii")
        fixed = FIXED.pack(
            record.status,
            len(record.url),
            len(record.block),
            len(meta),
            len(tags),
            len(seen),
            len(record.chunks),
            record.length,
            record.received,
            record.initial_age,
            record.lifetime,
            record.stale_at,
            record.stale_if_error,
            record.machine,
            record.up,
        )
        return self.seal(key, b"".join((fixed, record.url, record.block, meta, tags, seen, record.chunks, record.body)))

    def decode(self, key: bytes, url: bytes, data: bytes, *, checked: bool = False) -> Record:
        """The record of `url` that lies under `key`; raises `Corrupt`. Its digest may have been `checked` before."""
        rest = data[PREFIX:] if checked and self._cipher is None else self.open(key, data)
        try:
            fixed = FIXED.unpack_from(rest)
        except struct.error:
            raise Corrupt("malformed") from None
        status, *lengths, length, received, age, lifetime, stale_at, if_error, machine, up = fixed
        _, block_at, meta_at, tags_at, seen_at, chunks_at, body_at = accumulate((FIXED.size, *lengths))
        if lengths[0] != len(url) or not rest.startswith(url, FIXED.size):
            raise Corrupt("key")
        if body_at > len(rest) or (chunks_at == body_at and len(rest) - body_at != length):
            raise Corrupt("length")
        try:
            reason, vary, selecting, directives = meta_of(rest[meta_at:tags_at])
            seen = rest[seen_at:chunks_at].decode("ascii")
        except (ValueError, TypeError, AttributeError):
            raise Corrupt("malformed") from None
        if not isfinite(received + age + lifetime + stale_at + if_error + up):
            raise Corrupt("malformed")
        tags = tuple(rest[tags_at:seen_at].split(b"\n")) if tags_at < seen_at else ()
        times = (received, age, lifetime, stale_at, if_error)
        parts = (rest[chunks_at:body_at], rest[block_at:meta_at], rest[body_at:])
        return Record(url, status, reason, *times, vary, selecting, directives, tags, seen, length, *parts, machine, up)

    def seal(self, key: bytes, plain: bytes) -> bytes:
        """`plain`, bound to `key`; also for chunks."""
        key = self._scope + key
        if self._cipher is not None:
            assert self._random is not None, "a cipher needs nonces"
            nonce = self._random(NONCE_SIZE)
            return SEALED + nonce + self._cipher.encrypt(nonce, plain, SEALED + key)
        return MAGIC + _digest(key, plain) + plain

    def open(self, key: bytes, data: bytes) -> bytes:
        """The plaintext that was sealed for `key`; raises `Corrupt`."""
        key = self._scope + key
        magic = data[:4]
        if magic != (MAGIC if self._cipher is None else SEALED):
            raise Corrupt("version" if magic[:3] in (b"ecr", b"ecs") else "magic")
        if self._cipher is not None:
            nonce_end = len(SEALED) + NONCE_SIZE
            try:
                return self._cipher.decrypt(data[len(SEALED) : nonce_end], data[nonce_end:], SEALED + key)
            except Exception:  # InvalidTag, or too short for one
                raise Corrupt("digest") from None
        rest = data[PREFIX:]
        if data[len(MAGIC) : PREFIX] != _digest(key, rest):
            raise Corrupt("digest")
        return rest


def _digest(key: bytes, rest: bytes) -> bytes:
    return blake2b(b"%d:%b%b" % (len(key), key, rest), digest_size=DIGEST_SIZE).digest()


Meta = tuple[bytes, tuple[bytes, ...], tuple[bytes | None, ...], ResponseDirectives]


@memoize(1024)
def meta_of(data: bytes) -> Meta:
    """Reason, Vary, selecting values and directives; raises ValueError, TypeError or AttributeError."""
    reason, vary, selecting, directives = orjson.loads(data)
    if len(vary) != len(selecting):
        raise ValueError("no record")
    return (
        reason.encode("latin-1"),
        tuple([name.encode("latin-1") for name in vary]),
        tuple([None if value is None else value.encode("latin-1") for value in selecting]),
        ResponseDirectives(*directives),
    )


@lru_cache(maxsize=1024)
def _written_meta(
    reason: bytes, vary: tuple[bytes, ...], selecting: tuple[bytes | None, ...], directives: ResponseDirectives
) -> bytes:
    """The same, written."""
    return orjson.dumps(
        (
            reason.decode("latin-1"),
            [name.decode("latin-1") for name in vary],
            [None if value is None else value.decode("latin-1") for value in selecting],
            dataclasses.astuple(directives),
        )
    )


def storage_key(url: bytes) -> bytes:
    """The key of what is stored for `url`; the braces keep all of its parts in one slot of a cluster."""
    return b"ec:{%b}" % blake2b(url, digest_size=16).hexdigest().encode()


def variant_key(base: bytes, generation: bytes, selecting: tuple[bytes | None, ...]) -> bytes:
    """The name of one variant; injective in the selecting values, since each says its length."""
    values = b"".join([b"-" if value is None else b"%d:%b" % (len(value), value) for value in selecting])
    return b"%b:%b:%b" % (base, generation, blake2b(values, digest_size=16).hexdigest().encode())


def chunk_key(base: bytes, name: bytes, number: int) -> bytes:
    """The name of one chunk of a body."""
    return b"%b:%b:%d" % (base, name, number)
