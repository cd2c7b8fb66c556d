"""Rendezvous hashing: minimal movement, weights, bounded load; by properties and by counting."""

from __future__ import annotations

from collections import Counter
from math import ceil, inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.upstream import rendezvous_hash
from edgecache.upstream.rendezvous_hash import BOUND, ranked, ranked_by_load, score

NAMES = st.text("abcdef:0123456789", min_size=1, max_size=8)
NODES = st.dictionaries(NAMES, st.sampled_from([0.5, 1.0, 2.0, 3.0]), min_size=1, max_size=8)
KEYS = st.binary(max_size=20)
MANY = [b"http://site/%d" % number for number in range(20_000)]


@given(KEYS, NODES, st.randoms())
def test_the_order_of_the_configuration_does_not_count(key: bytes, nodes: dict[str, float], random: object) -> None:
    """Two POPs that list the same nodes ask the same one."""
    shuffled = list(nodes.items())
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert ranked(key, dict(shuffled)) == ranked(key, nodes)
    assert sorted(ranked(key, nodes)) == sorted(nodes)


@given(KEYS, NODES, st.data())
def test_a_node_that_goes_moves_only_its_own_keys(key: bytes, nodes: dict[str, float], data: st.DataObject) -> None:
    """The order of all others stays."""
    gone = data.draw(st.sampled_from(sorted(nodes)))
    left = {node: weight for node, weight in nodes.items() if node != gone}
    assert ranked(key, left) == [node for node in ranked(key, nodes) if node != gone]


@given(KEYS, NAMES, st.sampled_from([0.5, 1.0, 2.0]))
def test_more_weight_is_never_less_wanted(key: bytes, node: str, weight: float) -> None:
    """So raising a node's weight moves keys to it, and none away."""
    assert 0.0 < score(key, node, weight) < score(key, node, weight * 2)


def test_a_node_without_weight_owns_nothing() -> None:
    """A way to drain one."""
    assert ranked(b"key", {"a": 0.0, "b": 1.0}) == ["b"]
    assert ranked(b"key", {"a": 0.0}) == []
    assert ranked_by_load(b"key", {}, {}) == []


def test_keys_are_shared_out_by_weight() -> None:
    """Within a twentieth of the share, over 20,000 keys."""
    nodes = {"a": 1.0, "b": 1.0, "c": 2.0, "d": 4.0}
    owned = Counter(ranked(key, nodes)[0] for key in MANY)
    for node, weight in nodes.items():
        assert owned[node] / len(MANY) == pytest.approx(weight / 8, rel=0.05)


def test_the_keys_of_a_lost_node_are_spread_over_all_others() -> None:
    """Not on one neighbour."""
    nodes = dict.fromkeys("abcde", 1.0)
    second = Counter(order[1] for key in MANY if (order := ranked(key, nodes))[0] == "a")
    assert min(second[node] for node in "bcde") > 0.85 * sum(second.values()) / 4


def test_a_name_and_a_key_do_not_run_into_each_other() -> None:
    """Moving a byte over the border between them makes another score."""
    assert score(b"b/x", "a", 1.0) != score(b"/x", "ab", 1.0)


@given(KEYS, NODES, st.data())
def test_with_bounded_load_only_full_nodes_are_passed_over(
    key: bytes, nodes: dict[str, float], data: st.DataObject
) -> None:
    """The first in the order that has room; none is forgotten; at least one always has room."""
    load = data.draw(st.dictionaries(st.sampled_from(sorted(nodes)), st.integers(0, 50)))
    order, bounded = ranked(key, nodes), ranked_by_load(key, nodes, load)
    assert sorted(bounded) == sorted(order)
    total, weights = sum(load.values()) + 1, sum(nodes.values())
    room = [node for node in order if load.get(node, 0) < ceil(BOUND * total * nodes[node] / weights)]
    assert room
    assert bounded[: len(room)] == room


def test_one_hot_key_does_not_drown_its_owner() -> None:
    """A thousand questions for one key at once: nobody has more than 1.25 times the fair share."""
    nodes = dict.fromkeys("abcd", 1.0)
    load: Counter[str] = Counter()
    for _ in range(1000):
        load[ranked_by_load(b"hot", nodes, load)[0]] += 1
    assert max(load.values()) <= ceil(BOUND * 250)
    assert load[ranked(b"hot", nodes)[0]] == max(load.values())


@pytest.mark.parametrize("digest", [bytes(8), b"\xff" * 8])
def test_the_rarest_hashes_have_a_score_too(digest: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lowest and the highest do not divide by zero."""

    class Hash:
        """A hash that comes to `digest`."""

        def digest(self) -> bytes:
            return digest

    monkeypatch.setattr(rendezvous_hash, "blake2b", lambda *_, **__: Hash())
    assert 0.0 < score(b"key", "a", 1.0) < inf
