"""Commands to a cluster: whatever redis-py raises of a lost connection is a failure of the tier, never of a request."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import ReadOnlyError

from edgecache.valkey.cluster import run_by_node


class Cluster:
    """One node, whose pipeline raises what the test says."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def initialize(self) -> None:
        """It knows its node."""

    def get_node_from_key(self, key: bytes) -> Any:
        """The one node."""
        return SimpleNamespace(name="one")

    def pipeline(self, transaction: bool) -> Any:
        """A pipeline that fails."""

        async def execute(raise_on_error: bool) -> None:
            raise self._error

        return SimpleNamespace(execute_command=lambda *command: None, execute=execute)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (AttributeError("'NoneType' object has no attribute 'writelines'"), LostConnection),
        (LostConnection("reset"), LostConnection),
        (ReadOnlyError("a replica"), ReadOnlyError),
        (OSError("refused"), OSError),
    ],
)
async def test_what_is_raised_is_a_failure_of_the_tier(error: Exception, kind: type[Exception]) -> None:
    """Each command has the error in the place of its reply, of a kind that every caller expects."""
    replies = await run_by_node(Cluster(error), [("GET", b"a"), ("GET", b"b")])  # type: ignore[arg-type]

    assert [type(reply) for reply in replies] == [kind, kind]
