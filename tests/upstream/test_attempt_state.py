"""The table of an attempt's states."""

from __future__ import annotations

import pytest

from edgecache.upstream.attempt_state import OVER, TRANSITIONS, IllegalTransition, State, checked
from edgecache.wire.h1 import client_state


def test_every_state_has_its_row_and_can_be_reached() -> None:
    """From an attempt that was just made."""
    reached, new = set(), {State.QUEUED}
    while new:
        reached |= new
        new = {after for state in new for after in TRANSITIONS[state]} - reached

    assert reached == set(State) == set(TRANSITIONS)


def test_what_is_over_stays_over() -> None:
    """An attempt that is answered, cancelled or retried is never sent again."""
    assert not any(TRANSITIONS[state] & {State.QUEUED, State.SENT} for state in (State.ANSWERED, *OVER))


def test_what_the_table_does_not_list_is_a_bug() -> None:
    """It raises."""
    with pytest.raises(IllegalTransition, match="SENT after ANSWERED"):
        checked(State.ANSWERED, State.SENT)


def test_every_state_of_a_connection_to_a_server_can_be_reached() -> None:
    """From a new connection; and only what has a request can answer."""
    states, rows = client_state.State, client_state.TRANSITIONS
    reached, new = set(), {states.IDLE}
    while new:
        reached |= new
        new = {after for state in new for after in rows[state]} - reached

    assert reached == set(states) == set(rows)
    with pytest.raises(client_state.IllegalTransition, match="READING_BODY after IDLE"):
        client_state.checked(states.IDLE, states.READING_BODY)
