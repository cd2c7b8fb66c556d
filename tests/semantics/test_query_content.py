"""Contents of QUERYs as parts of cache keys: two that an origin may tell apart never are one."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl

import pytest
from harness.often import examples
from hypothesis import given
from hypothesis import strategies as st

from edgecache.semantics.message import Fields, Request
from edgecache.semantics.query_content import content_digest, normalised, with_content

JSON = b"application/json"
FORM = b"application/x-www-form-urlencoded"


def digest(content: bytes, *fields: tuple[bytes, bytes]) -> bytes:
    """Of one content."""
    return content_digest(with_content(Request(b"QUERY", b"/", b"a.test", Fields(fields)), content))


def meaning(content: bytes, kind: bytes) -> Any:
    """What an origin of the strictest kind makes of it: an oracle that shares no code with the product."""
    if kind == FORM:
        pairs = parse_qsl(content, keep_blank_values=True, strict_parsing=False)
        names = [name.lower() for name, _ in pairs]
        plain = len(set(names)) == len(names) and content.replace(b"=", b"").replace(b"&", b"").isalnum()
        return frozenset(content.split(b"&")) if plain else content
    try:
        return json.dumps(
            json.loads(
                content.decode(),
                object_pairs_hook=lambda pairs: ["object", *map(list, pairs)],
                parse_int=lambda text: ["number", text],
                parse_float=lambda text: ["number", text],
            )
        )
    except ValueError:
        return content


SPACE = st.text(" \t\n\r", max_size=2)
LITERALS = st.one_of(
    st.sampled_from(
        ["1", "1.0", "10", "-0", "0", "1e0", "true", "false", "null", '""', '" "', '"a b"', '"a  b"', '"ab"']
    ),
    st.sampled_from(['"\\""', '"\\\\"', '"\\\\\\" "', '"\\u0041"', '"A"', '" :"', '", "', '"[ ]"']),
)


def _joined(opens: str, closes: str) -> Any:
    def joined(parts: tuple[list[str], list[str]]) -> str:
        members, spaces = parts
        return opens + ",".join(spaces[0] + member + spaces[1] for member in members) + spaces[2] + closes

    return joined


def _nested(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    spaces = st.lists(SPACE, min_size=3, max_size=3)
    member = st.tuples(st.sampled_from(['"a"', '"b"', '"a "']), SPACE, SPACE, inner).map(
        lambda parts: f"{parts[0]}{parts[1]}:{parts[2]}{parts[3]}"
    )
    return st.one_of(
        st.tuples(st.lists(inner, max_size=2), spaces).map(_joined("[", "]")),
        st.tuples(st.lists(member, max_size=2), spaces).map(_joined("{", "}")),
    )


DOCUMENTS = st.recursive(LITERALS, _nested, max_leaves=3).map(str.encode)
FIELDS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "A", "a[]", "a.b", "c"]), st.sampled_from(["", "=", "=1", "=2", "=1;b=2", "=%20"])
    ),
    max_size=3,
).map(lambda parts: "&".join(name + value for name, value in parts).encode())


@examples(5000)
@given(st.data())
def test_contents_that_mean_different_things_never_share(data: st.DataObject) -> None:
    """Of JSON and of forms, against an oracle; and what is equal but for white space does share."""
    kind = data.draw(st.sampled_from([JSON, b"application/geo+json", FORM, b"text/plain"]))
    contents = FIELDS if kind == FORM else DOCUMENTS
    one = data.draw(contents)
    cut = st.integers(0, max(0, len(one) - 1)).map(lambda at: one[:at] + one[at + 1 :])
    spread = st.integers(0, len(one)).map(lambda at: one[:at] + b" " + one[at:])
    other = data.draw(st.one_of(contents, cut, spread))
    same = digest(one, (b"Content-Type", kind)) == digest(other, (b"Content-Type", kind))
    if kind == b"text/plain":
        assert same is (one == other)
    elif same:
        assert meaning(one, kind) == meaning(other, kind), (one, other)
    elif kind != FORM:
        assert meaning(one, kind) != meaning(other, kind) or b"\\" in one + other, (one, other)


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        (JSON, b'{"a": [1, 2]}', b'{"a":[1,2]}'),
        (b"application/LD+json; Charset=UTF-8", b" [ ] ", b"[]"),
        (JSON, b'"\\" "', b'"\\" "\n'),
        (FORM, b"b=2&a=1", b"a=1&b=2"),
    ],
)
def test_one_content_in_two_spellings(kind: bytes, one: bytes, other: bytes) -> None:
    """They share."""
    assert one != other
    assert normalised(one, kind) == normalised(other, kind)


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        (JSON, b'{"a":1,"b":2}', b'{"b":2,"a":1}'),  # some origins heed it: MongoDB, Elasticsearch
        (JSON, b"[1.0]", b"[1]"),
        (JSON, b"[12345678901234567890.1]", b"[12345678901234567890.2]"),
        (JSON, b"[ NaN]", b"[NaN]"),
        (JSON, b"[1 ", b"[1"),
        (JSON, b'"a\xff "', b'"a\xff " '),
        (JSON, b"[" * 60_000 + b" ", b"[" * 60_000),
        (JSON, b"[ 1" + b"]" * 2, b"[1" + b"]" * 2),
        (b"application/json; charset=utf-16", b"[ ]", b"[]"),
        (b"application/json, text/plain", b"[ ]", b"[]"),
        (b"application/json-seq", b"[ ]", b"[]"),
        (FORM, b"a=1&a=2", b"a=2&a=1"),
        (FORM, b"a=1&A=2", b"A=2&a=1"),
        (FORM, b"a[]=1&a[0]=2", b"a[0]=2&a[]=1"),
        (FORM, b"a.b=1&a_b=2", b"a_b=2&a.b=1"),
        (FORM, b"a=1;c=2&b=3", b"b=3&a=1;c=2"),
        (FORM, b"a=1&", b"a=1"),
        (b"text/plain", b"b=2&a=1", b"a=1&b=2"),
    ],
)
def test_two_contents(kind: bytes, one: bytes, other: bytes) -> None:
    """They never share."""
    assert digest(one, (b"Content-Type", kind)) != digest(other, (b"Content-Type", kind))


def test_what_describes_the_content_counts() -> None:
    """Its type, its coding, its language and each of several lines; not its length, nor fields of the request."""
    kind = (b"Content-Type", JSON)
    described = [
        (),
        (kind,),
        (kind, kind),
        ((b"Content-Type", b"application/json;v=1"),),
        (kind, (b"Content-Encoding", b"gzip")),
        (kind, (b"Content-Encoding", b"br")),
        (kind, (b"Content-Language", b"de")),
        (kind, (b"Content-Location", b"/a")),
    ]
    assert len({digest(b"[]", *fields) for fields in described}) == len(described)
    assert digest(b"[]", kind) == digest(b"[]", kind, (b"Content-Length", b"2"), (b"User-Agent", b"x"))
    coded = (kind, (b"Content-Encoding", b"gzip"))
    assert digest(b"[ ]", *coded) != digest(b"[]", *coded)
