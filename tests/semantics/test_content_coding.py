"""Which coding a client gets, against a reading of RFC 9110 §12.5.3 of its own; entity tags of codings."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from edgecache.semantics.content_coding import preferred, tag_of, uncoded_tags

NAMES = (b"gzip", b"x-gzip", b"zstd", b"br", b"identity", b"*", b"deflate")
WEIGHTS = (None, "0", "0.0", "0.001", "0.5", "1", "1.000")
Member = tuple[bytes, str | None]
MEMBERS = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(WEIGHTS)), max_size=6, unique_by=lambda one: one[0]
)
CODINGS = st.permutations([b"gzip", b"zstd", b"br"]).flatmap(
    lambda order: st.integers(0, 3).map(lambda count: tuple(order[:count]))
)


def written(members: list[Member]) -> bytes:
    """The field's value."""
    return b", ".join(name if weight is None else b"%b;q=%b" % (name, weight.encode()) for name, weight in members)


def weight_of(coding: bytes, members: list[Member]) -> float:
    """How much a client wants a coding; the last of two names for it counts."""
    named = [float(weight or 1) for name, weight in members if name.removeprefix(b"x-") == coding]
    others = [float(weight or 1) for name, weight in members if name == b"*"]
    return named[-1] if named else others[0] if others else 0.0


@settings(max_examples=300)
@given(MEMBERS, CODINGS)
def test_no_client_gets_what_it_refuses(members: list[Member], codings: tuple[bytes, ...]) -> None:
    """The one that it wants most, if it wants that at least as much as none; of equals, the operator's first."""
    chosen = preferred(written(members), codings)
    weights = {coding: weight_of(coding, members) for coding in codings}
    identity = [float(weight or 1) for name, weight in members if name == b"identity"]
    best = max(weights.values(), default=0.0)
    if best == 0 or best < (identity[0] if identity else 0.0):
        assert chosen is None
    else:
        assert chosen == next(coding for coding in codings if weights[coding] == best)


@given(
    st.text("abc;,gzipbrstd-", max_size=12).map(str.encode), st.sampled_from([b"gzip", b"zstd", b"br"]), st.booleans()
)
def test_tags_of_codings(opaque: bytes, coding: bytes, weak: bool) -> None:
    """A strong tag becomes another one, and finds its way back; a weak one holds for all codings."""
    tag = (b"W/" if weak else b"") + b'"' + opaque + b'"'
    assert (tag_of(tag, coding) == tag) is weak
    if not weak:
        assert uncoded_tags(b'"x", ' + tag_of(tag, coding)) == b'"x", ' + tag
