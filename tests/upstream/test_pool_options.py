"""Every option of a pool is used, and comes from a setting."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest

from edgecache.config.settings import Settings, load
from edgecache.upstream import pool, pool_options
from edgecache.upstream.pool_options import PoolOptions, for_origin, for_parent
from edgecache.wire.h1 import client_factory
from edgecache.wire.upstream_connection import ResponseRules


def settings(**given: str) -> Settings:
    """Settings with an origin and a parent."""
    environ = {"ORIGIN": "http://origin.test", "POP": "edge", "REGION": "eu", "PARENTS": "http://shield.test"}
    environ |= {"POP_SECRET": "x" * 32, **given}
    return load({f"EDGECACHE_{name}": value for name, value in environ.items()})


@pytest.mark.parametrize("name", [field.name for field in fields(PoolOptions)])
def test_every_option_is_used(name: str) -> None:
    """By the pool: an option that nothing reads is a setting that does nothing."""
    assert f"options.{name}" in inspect.getsource(pool)


@pytest.mark.parametrize("name", ResponseRules._fields)
def test_every_rule_for_responses_is_used(name: str) -> None:
    """By the protocol."""
    assert f"rules.{name}" in inspect.getsource(client_factory)


def test_options_of_a_parent() -> None:
    """A parent is verified whatever is said of origins, has the time to connect, too, and is believed as a POP."""
    of = settings(ORIGIN_TLS_VERIFY="off", CONNECT_TIMEOUT="2s", FIRST_BYTE_TIMEOUT="5s")
    assert of.origin is not None
    origin, parent = for_origin(of, of.origin), for_parent(of, of.origin)

    assert (origin.verify, parent.verify) == (False, True)
    assert (origin.first_byte_timeout, parent.first_byte_timeout) == (5.0, 7.0)
    assert (origin.responses.unbelieved, parent.responses.unbelieved) == (pool_options.OF_POPS, frozenset())
    assert origin.responses.max_fields < parent.responses.max_fields
