"""What an origin may take a path for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.semantics.path_readings import readings


@pytest.mark.parametrize(
    ("target", "reading"),
    [
        (b"/x/..%2fadmin?q=%2f", b"/admin"),
        (b"//admin", b"/admin"),
        (b"/admin;v=1/x", b"/admin/x"),
        (b"/x/..%5cadmin", b"/admin"),
        (b"/x\\..\\admin", b"/admin"),
        (b"/x/%252e%252e/admin", b"/admin"),
        (b"/a//../admin", b"/admin"),
        (b"/%41DMIN", b"/admin"),
        (b"/x/..;/admin", b"/admin"),
        (b"/x/%u002e%U002E/admin", b"/admin"),
        (b"/%u0061dmin", b"/admin"),
        (b"/x/%c0%ae%c0%ae/admin", b"/admin"),
        (b"/x/..%c0%afadmin", b"/admin"),
        (b"/x/..%c1%9cadmin", b"/admin"),
        (b"/x/..%00/y", b"/"),
    ],
)
def test_a_reading(target: bytes, reading: bytes) -> None:
    """Each server's peculiarity."""
    assert reading in readings(target, fold=True)


@given(st.text("abz09-_~.!$&'()*+,=:@/", max_size=40))
def test_plain_paths_have_but_one(path: str) -> None:
    """A path of lower-case segments that do not begin with a dot is taken for itself alone."""
    segments = [one.lstrip(".") for one in path.split("/")]
    target = "/" + "/".join(one for one in segments if one)
    assert readings(target.encode(), fold=True) == []


@given(st.text("aA/%2fFeE5cC;.\\?", max_size=200))
def test_there_are_few(path: str) -> None:
    """Whatever is sent, they are bounded."""
    assert len(readings(("/" + path).encode(), fold=True)) <= 64
