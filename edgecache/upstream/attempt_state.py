"""The states of one attempt: a request put to one of several servers."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final


class State(Enum):
    """How far an attempt is. Members are singletons, hashed by identity."""

    QUEUED = auto()  # it waits for a connection, or one is being opened for it
    SENT = auto()  # it has left on a connection
    ANSWERED = auto()  # its response is passed on
    RETRIED = auto()  # another attempt goes on in its place
    CANCELLED = auto()  # its response is not wanted any more
    FAILED = auto()  # there is no response

    __hash__ = object.__hash__


QUEUED: Final = State.QUEUED  # to name a member by its class costs a call of Python before Python 3.12
SENT: Final = State.SENT
ANSWERED: Final = State.ANSWERED
RETRIED: Final = State.RETRIED
CANCELLED: Final = State.CANCELLED
FAILED: Final = State.FAILED

TRANSITIONS: Final[Mapping[State, frozenset[State]]] = {
    QUEUED: frozenset((SENT, RETRIED, CANCELLED, FAILED)),
    SENT: frozenset((SENT, ANSWERED, RETRIED, CANCELLED, FAILED)),  # again, if the connection had ended unread
    ANSWERED: frozenset((CANCELLED, FAILED)),  # it is being passed on
    RETRIED: frozenset(),
    CANCELLED: frozenset(),
    FAILED: frozenset((RETRIED,)),
}
OVER: Final = frozenset((RETRIED, CANCELLED, FAILED))  # no response is expected of it


class IllegalTransition(RuntimeError):
    """A state that cannot follow another: a bug."""


def checked(before: State, after: State) -> State:
    """`after`, if it may follow `before`; else raises `IllegalTransition`."""
    if after not in TRANSITIONS[before]:
        raise IllegalTransition(f"{after.name} after {before.name}")
    return after
