"""What the origins serve: resources, their versions, and the exact bytes of each version. Pure."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

LANGUAGES: Final = ("en", "de", "fr")
KIB: Final = 1024
BOUNDS: Final = (64 * KIB, 128 * KIB, 256 * KIB)  # sizes at which a proxy may change the way it holds a body
LARGEST: Final = 1_200_000

Validator = Literal["strong", "weak", "none"]


@dataclass(frozen=True)
class Resource:
    """One URL and how its origin answers."""

    target: str
    size: int  # bytes of version 0; version N has N % 3 bytes more
    ttl: int = 2  # seconds of freshness
    swr: int = 0  # seconds of stale-while-revalidate
    sie: int = 0  # seconds of stale-if-error
    etag: Validator = "strong"
    ranges: bool = True  # the origin answers Range with 206
    chunked: bool = False  # no Content-Length
    varies: bool = False  # a variant per language
    private: bool = False  # a response per visitor, not to be shared
    flaky: bool = False  # the origin sometimes fails, or cuts the body
    tag: str = "all"

    def size_of(self, version: int) -> int:
        """The length of a version, in bytes."""
        return self.size + version % 3

    def variant(self, language: str) -> str:
        """The variant that a request with this Accept-Language selects."""
        return (language if language in LANGUAGES else LANGUAGES[0]) if self.varies else "any"

    def body(self, version: int, variant: str) -> bytes:
        """The bytes of a version and variant."""
        return body(self.target, version, variant, self.size_of(version))

    def entity_tag(self, version: int, variant: str) -> str:
        """The ETag of a version and variant; empty if the origin sends none."""
        if self.etag == "none":
            return ""
        return f'{"W/" if self.etag == "weak" else ""}"{version}-{variant}"'


@lru_cache(maxsize=512)
def body(target: str, version: int, variant: str, size: int) -> bytes:
    """Bytes that no other target, version or variant has at the same place."""
    seed = hashlib.sha256(f"{target} {version} {variant}".encode()).digest()
    numbered = b"".join(
        hashlib.sha256(seed + block.to_bytes(4, "big")).digest() for block in range(min(size // 32 + 1, 2048))
    )
    return (numbered * (size // len(numbered) + 1))[:size]


def resources(seed: int, count: int = 60) -> list[Resource]:
    """Resources of every kind: sizes around each bound, validators, framings, lifetimes."""
    draw = random.Random(seed)
    sizes = [0, 1, 5, 1000, LARGEST, *(bound + off for bound in BOUNDS for off in (-3, -1, 0, 1, 999))]
    made = [Resource(f"/c/{number}", size) for number, size in enumerate(sizes)]
    made += [
        Resource(
            f"/c/{number}",
            draw.choice([*sizes, draw.randrange(300_000)]),
            ttl=draw.choice([0, 1, 1, 2, 5, 60]),
            swr=draw.choice([0, 0, 0, 2]),
            sie=draw.choice([0, 0, 3]),
            etag=draw.choice(["strong", "strong", "weak", "none"]),
            ranges=draw.random() < 0.7,
            chunked=draw.random() < 0.25,
            varies=draw.random() < 0.25,
            flaky=draw.random() < 0.15,
            tag=draw.choice(["news", "shop"]),
        )
        for number in range(len(sizes), count)
    ]
    return [*made, Resource("/c/me", 700, private=True), Resource("/c/my-cart", 90_000, private=True, chunked=True)]
