"""Version vectors: marks, order, text."""

from __future__ import annotations

import pytest
from harness.often import examples
from hypothesis import given
from hypothesis import strategies as st

from edgecache.invalidation import version_vector
from edgecache.invalidation.version_vector import NOTHING, Vector

OFTEN = examples(300)
NUMBERS = st.integers(0, 3) | st.integers(0, version_vector.SIXTY_FOUR)
INCARNATIONS = st.builds(
    version_vector.incarnation, st.integers(1, 3) | st.integers(1, 2**40 - 1), st.integers(0, 2**32 - 1)
)
MARKS = st.builds(version_vector.mark, INCARNATIONS, NUMBERS, NUMBERS)
VECTORS = st.dictionaries(st.sampled_from(["eu", "us", "ap", "a.b-c_d"]), MARKS).map(Vector)


@OFTEN
@given(VECTORS, VECTORS, VECTORS)
def test_merging_is_a_pointwise_maximum(one: Vector, two: Vector, three: Vector) -> None:
    """Commutative, associative, idempotent and monotone: a CRDT."""
    assert one.merged(two) == two.merged(one)
    assert one.merged(two).merged(three) == one.merged(two.merged(three))
    assert one.merged(one) == one
    assert one.merged(two).covers(one)
    assert one.covers(two) == (one.merged(two) == one)
    assert hash(one.merged(two)) == hash(two.merged(one))


@OFTEN
@given(VECTORS, VECTORS, VECTORS)
def test_covering_is_an_order(one: Vector, two: Vector, three: Vector) -> None:
    """Reflexive, antisymmetric, transitive; and merging keeps it."""
    assert one.covers(one)
    assert one.covers(NOTHING)
    assert not (one.covers(two) and two.covers(one)) or one == two
    if one.covers(two):
        assert one.merged(three).covers(two.merged(three))
        assert not two.covers(three) or one.covers(three)


@OFTEN
@given(VECTORS)
def test_a_vector_survives_being_written(vector: Vector) -> None:
    """Text and back; equal vectors have equal text."""
    assert Vector.decode(vector.encode()) == vector


@OFTEN
@given(st.binary(max_size=60) | st.text("eu=1f.,-0", max_size=40).map(str.encode))
def test_odd_text_is_a_canonical_vector_or_refused(text: bytes) -> None:
    """Nothing is guessed: what is read is written the same way, but for the order of regions."""
    try:
        vector = Vector.decode(text)
    except ValueError:
        return
    assert sorted(vector.encode().split(b",")) == sorted(text.split(b","))


@pytest.mark.parametrize(
    "text",
    [
        b"eu",
        b"eu=",
        b"=1.2-3",
        b"eu=1.2-3,",
        b"eu=1.2-3,eu=1.2-4",
        b"eu=1.02-3",
        b"eu=1.2-3 ",
        b"eu=1.18446744073709551616-0",
        b"eu=G.2-3",
        b"e u=1.2-3",
        b"\xff=1.2-3",
        b"a=1.1-1," * 300,
        b"a" * 65 + b"=1.2-3",
    ],
)
def test_a_malformed_vector_is_refused(text: bytes) -> None:
    """It proves nothing, rather than something that it may not mean."""
    with pytest.raises(ValueError, match=r"vector|mark|is not|ascii|2.64"):
        Vector.decode(text)


@OFTEN
@given(INCARNATIONS, INCARNATIONS, NUMBERS, NUMBERS, NUMBERS, NUMBERS)
def test_marks_are_ordered_by_incarnation_then_entry(one: int, two: int, a: int, b: int, c: int, d: int) -> None:
    """The order of the integers is the order of the log, and nothing of an incarnation passes into the next count."""
    first, second = version_vector.mark(one, a, b), version_vector.mark(two, c, d)

    assert (first < second) == ((one, a, b) < (two, c, d))
    assert version_vector.incarnation_of(first) == one
    assert version_vector.id_of(first) == (a, b)
    assert first < version_vector.beyond(first)
    assert (second >= version_vector.beyond(first)) == (version_vector.count_of(two) > version_vector.count_of(one))


@pytest.mark.parametrize(("count", "nonce"), [(0, 0), (2**40, 0), (1, 2**32), (1, -1)])
def test_an_incarnation_has_bounds(count: int, nonce: int) -> None:
    """A count or nonce that would run into its neighbour is refused."""
    with pytest.raises(ValueError, match="incarnation"):
        version_vector.incarnation(count, nonce)


@pytest.mark.parametrize("part", [-1, 2**64])
def test_an_entry_id_has_bounds(part: int) -> None:
    """Numbers that do not fit are refused, or they would change the incarnation."""
    with pytest.raises(ValueError, match="2\\^64"):
        version_vector.mark(1, part)
    with pytest.raises(ValueError, match="2\\^64"):
        version_vector.mark(1, 0, part)
