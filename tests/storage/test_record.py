"""Records of the regional tier: what goes in comes out, under its own key only, and nothing else is taken for one."""

from __future__ import annotations

import os
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from harness.often import examples
from hypothesis import given
from hypothesis import strategies as st

from edgecache.semantics.cache_control import ResponseDirectives
from edgecache.storage.record import Codec, Corrupt, Record, chunk_key, storage_key, variant_key

PLAIN = Codec()
SEALED = Codec(AESGCM(bytes(range(32))), os.urandom)
seconds = st.floats(min_value=0.0, max_value=1e10)
name = st.binary(min_size=1, max_size=8)
tag = st.binary(min_size=1, max_size=8).filter(lambda value: b"\n" not in value)


@st.composite
def records(draw: Any) -> Record:
    """Any record that the tier could write."""
    vary = tuple(draw(st.lists(name, max_size=3)))
    body = draw(st.binary(max_size=64))
    chunks = draw(st.sampled_from([b"", b"0123456789abcdef"]))
    return Record(
        url=draw(st.binary(min_size=1, max_size=40)),
        status=draw(st.integers(0, 999)),
        reason=draw(st.binary(max_size=8)),
        received=draw(seconds),
        initial_age=draw(seconds),
        lifetime=draw(seconds),
        stale_at=draw(seconds),
        stale_if_error=draw(seconds),
        vary=vary,
        selecting=tuple(draw(st.one_of(st.none(), name)) for _ in vary),
        directives=ResponseDirectives(max_age=draw(st.one_of(st.none(), st.integers(0, 2**31)))),
        tags=tuple(draw(st.lists(tag, max_size=4))),
        seen=draw(st.sampled_from(["", "eu=1f.1700000000000-0"])),
        length=draw(st.integers(0, 2**40)) if chunks else len(body),
        chunks=chunks,
        block=draw(st.binary(max_size=40)),
        body=b"" if chunks else body,
    )


@pytest.mark.parametrize("codec", [PLAIN, SEALED], ids=["plain", "encrypted"])
@examples(60)
@given(record=records())
def test_what_goes_in_comes_out(codec: Codec, record: Record) -> None:
    """Every part of a record survives."""
    key = storage_key(record.url)

    assert codec.decode(key, record.url, codec.encode(key, record)) == record


@pytest.mark.parametrize("codec", [PLAIN, SEALED], ids=["plain", "encrypted"])
@examples(60)
@given(record=records(), data=st.data())
def test_a_changed_record_is_corrupt(codec: Codec, record: Record, data: st.DataObject) -> None:
    """One flipped bit, a cut or an addition, wherever it is."""
    key = storage_key(record.url)
    good = codec.encode(key, record)
    at = data.draw(st.integers(0, len(good) - 1))
    flipped = good[:at] + bytes([good[at] ^ 1 << data.draw(st.integers(0, 7))]) + good[at + 1 :]
    for bad in (flipped, good[:at], good + b"x"):
        with pytest.raises(Corrupt):
            codec.decode(key, record.url, bad)


@pytest.mark.parametrize("codec", [PLAIN, SEALED], ids=["plain", "encrypted"])
@examples(30)
@given(record=records(), other=st.binary(min_size=1, max_size=40))
def test_a_record_of_another_key_is_corrupt(codec: Codec, record: Record, other: bytes) -> None:
    """What lies under another's key is not taken for it, nor what says that it is of another URL."""
    key = storage_key(record.url)
    good = codec.encode(key, record)
    if other != record.url:
        with pytest.raises(Corrupt):
            codec.decode(storage_key(other), other, good)
        with pytest.raises(Corrupt):
            codec.decode(key, other, good)


@given(rest=st.binary(max_size=200))
def test_well_sealed_nonsense_is_corrupt(rest: bytes) -> None:
    """A right checksum around what is no record: whoever may write to Valkey can make one."""
    key = storage_key(b"http://a/")
    with pytest.raises(Corrupt):
        PLAIN.decode(key, b"http://a/", PLAIN.seal(key, rest))


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("field", ["received", "initial_age", "lifetime", "stale_at", "stale_if_error"])
def test_times_are_numbers(field: str, odd: float) -> None:
    """A record whose times are none would never age."""
    record = Record(
        b"http://a/", 200, b"", 1.0, 1.0, 1.0, 1.0, 1.0, (), (), ResponseDirectives(), (), "", 0, b"", b"", b""
    )
    key = storage_key(record.url)
    with pytest.raises(Corrupt):
        PLAIN.decode(key, record.url, PLAIN.encode(key, record._replace(**{field: odd})))


def test_keys_of_one_url_share_a_slot() -> None:
    """A cluster keeps a record, its variants and its chunks on one node: the braces say so."""
    base = storage_key(b"http://a/")
    keys = [base, variant_key(base, b"1", (b"x", None)), chunk_key(base, b"n", 0)]

    assert {key[key.index(b"{") : key.index(b"}")] for key in keys} == {base[3:-1]}
    assert variant_key(base, b"1", (b"a", None)) != variant_key(base, b"1", (None, b"a"))
