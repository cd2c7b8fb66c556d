"""Rendezvous hashing: which node owns a key, so that all who know the same nodes ask the same one. Pure.

Each node gets a score for each key, and the highest wins. A node that goes takes only its own keys with it, each of
them to its own second choice; a node that comes takes from each other node its share, and moves nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from math import ceil, log
from typing import Final

HASHES: Final = 1 << 52  # as many as a float tells apart below 1.0, which has no logarithm to divide by
BOUND: Final = 1.25  # of its fair share of what is under way, that a node takes before the next one is asked


def score(key: bytes, node: str, weight: float) -> float:
    """How much `node` wants `key`: a draw from the exponential distribution whose mean is `weight`.

    Of such draws, the highest is a node's with a probability of its weight's share in all weights.
    """
    name = node.encode()
    digest = blake2b(b"%d:%b%b" % (len(name), name, key), digest_size=8).digest()
    return -weight / log(((int.from_bytes(digest, "big") >> 12) + 0.5) / HASHES)


def ranked(key: bytes, nodes: Mapping[str, float]) -> list[str]:
    """The nodes, given with their weights, in the order in which they are to be asked for `key`; no weight, no key."""
    scores = {node: score(key, node, weight) for node, weight in nodes.items() if weight > 0.0}
    return sorted(scores, key=lambda node: (-scores[node], node))


def ranked_by_load(key: bytes, nodes: Mapping[str, float], load: Mapping[str, int], bound: float = BOUND) -> list[str]:
    """The same, but for nodes that have more than `bound` times their share of the `load` already: those come last.

    `load` counts what each node has under way. So a key that everybody wants spills over to its second choice before
    its owner drowns (consistent hashing with bounded loads, Mirrokni and others, 2016).
    """
    order = ranked(key, nodes)
    weights = sum(nodes[node] for node in order)
    total = sum(load.get(node, 0) for node in order) + 1
    full = {node for node in order if load.get(node, 0) >= ceil(bound * total * nodes[node] / weights)}
    return [node for node in order if node not in full] + [node for node in order if node in full]
