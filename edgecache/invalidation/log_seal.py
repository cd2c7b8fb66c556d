"""Sealed log entries: without the key none can be written, altered or moved. Pure.

    i, p   incarnation and previous ID, as the server's script compares them
    e      base64 of what `record.Codec` makes of all other fields, bound to the log, the incarnation, and both IDs

An entry is sealed for one place, between its predecessor and its own ID, so that a removed one leaves a gap. Entries
without a valid seal, such as openings of incarnations, may have named anything: they only mark a place.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Final, NamedTuple

import orjson

from edgecache.invalidation.log_entry import Draft, StreamFields
from edgecache.storage.record import Codec, Corrupt

SEALED: Final = b"e"
PLACE: Final = (b"i", b"p")


class LogPlace(NamedTuple):
    """Place of an entry in the stream."""

    stream: bytes
    incarnation: bytes
    previous: bytes
    id: bytes


def seal(codec: Codec, place: LogPlace, draft: Draft) -> bytes:
    """Value of the field `e` for `draft` at `place`."""
    plain = orjson.dumps([part.decode("latin-1") for part in draft.fields()])
    return b64encode(codec.seal(_key(place), plain))


def unseal(codec: Codec, stream: bytes, id_: bytes, fields: StreamFields) -> StreamFields | None:
    """The unsealed fields of the entry `id_`; None without a valid seal for that place."""
    place = LogPlace(stream, fields.get(b"i", b""), fields.get(b"p", b""), id_)
    try:
        plain = codec.open(_key(place), b64decode(fields[SEALED], validate=True))
        parts = [part.encode("latin-1") for part in orjson.loads(plain)]
        found = dict(zip(parts[::2], parts[1::2], strict=True))
    except (Corrupt, KeyError, ValueError, AttributeError, TypeError):
        return None
    return {**found, b"i": place.incarnation, b"p": place.previous}


def place_fields(fields: StreamFields) -> StreamFields:
    """Place of an entry without a valid seal."""
    return {name: fields[name] for name in PLACE if name in fields}


def _key(place: LogPlace) -> bytes:
    return b"\0".join(place)
