"""The states of an HTTP/1.1 connection to a server, as the response to its request goes through them.

Orthogonal to the state, and kept beside it by the connection: whether the transport has ended, whether the connection
persists after this response (RFC 9112 §9.3), and whether the request's body is still being sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final


class State(Enum):
    """What the connection does. Members are singletons, hashed by identity."""

    IDLE = auto()  # no request is under way
    AWAITING_HEAD = auto()  # a request is sent, or its head is; no final response's head has come
    READING_BODY = auto()  # the response's head is known, its body arrives
    ANSWERED = auto()  # the response is complete, and the request is let go next
    SWITCHED = auto()  # the server has left HTTP (RFC 9110 §15.2.2), and the client is not joined yet
    TUNNEL = auto()  # both sides' bytes are passed on

    __hash__ = object.__hash__


TRANSITIONS: Final[Mapping[State, frozenset[State]]] = {
    State.IDLE: frozenset((State.AWAITING_HEAD,)),
    State.AWAITING_HEAD: frozenset((State.IDLE, State.READING_BODY, State.ANSWERED, State.SWITCHED)),
    State.READING_BODY: frozenset((State.ANSWERED,)),
    State.ANSWERED: frozenset((State.IDLE,)),
    State.SWITCHED: frozenset((State.TUNNEL,)),
    State.TUNNEL: frozenset(),
}


class IllegalTransition(RuntimeError):
    """A state that cannot follow another: a bug."""


def checked(before: State, after: State) -> State:
    """`after`, if it may follow `before`; else raises `IllegalTransition`."""
    if after not in TRANSITIONS[before]:
        raise IllegalTransition(f"{after.name} after {before.name}")
    return after
