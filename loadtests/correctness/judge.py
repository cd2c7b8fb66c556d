"""Whether a response is right: its bytes, its head, its version. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from loadtests.correctness.client import Received
from loadtests.correctness.history import History

CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)$")
VERSION = re.compile(r"(\d+)-([a-z]+)$")
SUCCESSES = (200, 206, 304, 416)


@dataclass
class Asked:
    """A GET or HEAD, and when it was under way."""

    method: str
    history: History
    language: str
    fields: dict[str, str]
    began: float = 0.0
    ended: float = 0.0
    cookie: str = ""
    ranges: list[tuple[int, int]] = field(default_factory=list)  # first and last byte; -1: open, (-1, n): suffix


def problem(asked: Asked, got: Received, hops: int) -> str:
    """What is wrong; empty if nothing is."""
    resource = asked.history.resource
    if got.status not in SUCCESSES:
        return "" if resource.flaky and got.status in (502, 503, 504) else f"status {got.status}"
    if resource.private:
        return _private_problem(asked, got)
    if got.status == 416:
        return _unsatisfiable_problem(asked)
    entity_tag = got.fields.get("etag", "").removeprefix("W/").strip('"')
    said = VERSION.match(entity_tag if got.status == 304 else got.fields.get("object-version", ""))
    if said is None:
        return "no version in the head"
    version, variant = int(said[1]), said[2]
    if variant != resource.variant(asked.language):
        return f"variant {variant} for {asked.language}"
    if got.fields.get("etag", "") != resource.entity_tag(version, variant):
        return f"ETag {got.fields.get('etag')} with version {version}"
    if why := asked.history.problem(version, asked.began, asked.ended, hops):
        return why
    return _content_problem(asked, got, resource.body(version, variant))


def _content_problem(asked: Asked, got: Received, body: bytes) -> str:
    if got.status == 304:
        entity_tag = got.fields.get("etag", "")
        matches = entity_tag and entity_tag.removeprefix("W/") in asked.fields.get("If-None-Match", "")
        return "" if matches else "304 for another validator"
    length = got.fields.get("content-length")
    if asked.method == "HEAD":
        return "" if got.status != 200 or length in (None, str(len(body))) else f"HEAD: Content-Length {length}"
    if got.status == 200:
        if length is not None and length != str(len(body)):
            return f"Content-Length {length} instead of {len(body)}"
        right = body.startswith(got.body) if got.left else got.body == body
        return "" if right else f"{len(got.body)} bytes that are not the {len(body)} of the version"
    if not asked.ranges:
        return "206 without Range"
    if asked.fields.get("If-Range", got.fields.get("etag")) != got.fields.get("etag"):
        return "206 though If-Range is of another version"
    return _range_problem(asked, got, body)


def _range_problem(asked: Asked, got: Received, body: bytes) -> str:
    wanted = [span for span in (resolve(one, len(body)) for one in asked.ranges) if span is not None]
    if "content-type" in got.fields and got.fields["content-type"].startswith("multipart/byteranges"):
        if got.left:
            return ""
        parts = got.parts
    else:
        said = CONTENT_RANGE.match(got.fields.get("content-range", ""))
        if said is None:
            return "206 without Content-Range"
        parts = [(int(said[1]), int(said[2]), int(said[3]), got.body)]
    for first, last, size, content in parts:
        if size != len(body):
            return f"Content-Range of {size} instead of {len(body)}"
        part = body[first : last + 1]
        if not (part.startswith(content) if got.left else part == content):
            return f"bytes {first}-{last} are not those of the version"
    covered = [(first, last) for first, last, _, _ in parts]
    missing = [span for span in wanted if not any(a <= span[0] and span[1] <= b for a, b in covered)]
    return f"ranges {missing} are missing" if missing else ""


def resolve(span: tuple[int, int], size: int) -> tuple[int, int] | None:
    """First and last byte of a range of `size` bytes; None if it is unsatisfiable (RFC 9110 §14.1.2)."""
    first, last = span
    if first < 0:
        return (max(0, size - last), size - 1) if last > 0 and size else None
    last = size - 1 if last < 0 else min(last, size - 1)
    return (first, last) if first < size else None


def _unsatisfiable_problem(asked: Asked) -> str:
    sizes = {asked.history.resource.size_of(version) for version in range(asked.history.present + 1)}
    some = any(all(resolve(one, size) is None for one in asked.ranges) for size in sizes)
    return "" if asked.ranges and some else "416 for a range that can be satisfied"


def _private_problem(asked: Asked, got: Received) -> str:
    if got.status != 200 or asked.method == "HEAD" or got.left:
        return ""
    owner = got.body.partition(b"\n")[0].decode()
    return "" if owner == asked.cookie else f"a private response of {owner!r} for {asked.cookie!r}"
