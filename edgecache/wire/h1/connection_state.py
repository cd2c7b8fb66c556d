"""The states of a client's HTTP/1.1 connection, and the events that change them.

Only `TRANSITIONS` decides which state follows which: an event that it does not list for a state is a bug and raises.
Orthogonal to the state, and kept beside it by the connection: whether it persists after the response under way
(RFC 9112 §9.3), whether the client has sent FIN, and whether reading is paused.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final


class State(Enum):
    """What the connection does. Members are singletons, hashed by identity."""

    IDLE = auto()  # between requests, nothing is buffered: the next bytes may be a known head
    BLOCKED = auto()  # between requests, but the client has not taken earlier responses: its requests wait
    READING_HEAD = auto()  # bytes are buffered that are not a request yet
    HOLDING = auto()  # the request waits until its body is known to be well-formed, or is large or slow
    READING_BODY = auto()  # the request is being answered while its body still comes in
    RESPONDING = auto()  # the request is complete, its response is not
    TUNNEL = auto()  # the connection has left HTTP (RFC 9110 §7.8)
    LINGERING = auto()  # the last response is sent: what the client still sends is discarded (RFC 9112 §9.6)
    CLOSED = auto()  # closed by either side; written bytes may still be under way

    __hash__ = object.__hash__


class Event(Enum):
    """What changes the state. Members are singletons, hashed by identity."""

    DATA = auto()  # bytes that are not a known request
    EMPTIED = auto()  # all buffered bytes are used up
    PAUSE_WRITING = auto()  # the client does not keep up
    RESUME_WRITING = auto()  # the client has caught up
    REQUEST = auto()  # a complete request
    REQUEST_HELD = auto()  # a request whose body is read before anything is sent upstream
    REQUEST_STREAMED = auto()  # a request whose body is passed on as it arrives
    BODY_RELEASED = auto()  # a held body is passed on as it arrives from now on
    BODY_COMPLETE = auto()  # the last byte of the request's body
    RESPONSE_COMPLETE = auto()  # the response is written, and the connection persists
    LAST_RESPONSE = auto()  # a response is written after which the connection does not persist
    UPGRADED = auto()  # 101 (Switching Protocols) is sent
    CLOSE = auto()  # the transport is closed or lost

    __hash__ = object.__hash__


class IllegalTransition(RuntimeError):
    """An event in a state that has no transition for it: a bug."""


# Bound once: in Python 3.11, every look-up of a member in its class is a call.
IDLE, BLOCKED, READING_HEAD, HOLDING, READING_BODY, RESPONDING, TUNNEL, LINGERING, CLOSED = State
DATA, EMPTIED, REQUEST, RESPONSE_COMPLETE = Event.DATA, Event.EMPTIED, Event.REQUEST, Event.RESPONSE_COMPLETE


class Row(dict[Event, State]):
    """The state that follows each event in one state; raises `IllegalTransition` for the others."""

    def __init__(self, state: State, transitions: Mapping[Event, State]) -> None:
        super().__init__(transitions)
        self._state = state

    def __missing__(self, event: Event) -> State:
        raise IllegalTransition(f"{event.name} while {self._state.name}")


def _staying(state: State, *events: Event) -> dict[Event, State]:
    """Transitions that stay in `state`: pauses of writing concern only the states between requests."""
    return dict.fromkeys((Event.PAUSE_WRITING, Event.RESUME_WRITING, *events), state)


_TABLE: Final[Mapping[State, Mapping[Event, State]]] = {
    State.IDLE: {
        Event.DATA: State.READING_HEAD,
        Event.PAUSE_WRITING: State.BLOCKED,
        Event.RESUME_WRITING: State.IDLE,
        Event.REQUEST: State.RESPONDING,
        Event.LAST_RESPONSE: State.LINGERING,
        Event.CLOSE: State.CLOSED,
    },
    State.BLOCKED: {
        Event.PAUSE_WRITING: State.BLOCKED,
        Event.RESUME_WRITING: State.READING_HEAD,
        Event.LAST_RESPONSE: State.LINGERING,
        Event.CLOSE: State.CLOSED,
    },
    State.READING_HEAD: {
        Event.EMPTIED: State.IDLE,
        Event.PAUSE_WRITING: State.BLOCKED,
        Event.RESUME_WRITING: State.READING_HEAD,
        Event.REQUEST: State.RESPONDING,
        Event.REQUEST_HELD: State.HOLDING,
        Event.REQUEST_STREAMED: State.READING_BODY,
        Event.LAST_RESPONSE: State.LINGERING,
        Event.CLOSE: State.CLOSED,
    },
    State.HOLDING: {
        **_staying(State.HOLDING),
        Event.BODY_RELEASED: State.READING_BODY,
        Event.BODY_COMPLETE: State.RESPONDING,
        Event.LAST_RESPONSE: State.LINGERING,
        Event.CLOSE: State.CLOSED,
    },
    State.READING_BODY: {
        **_staying(State.READING_BODY),
        Event.BODY_COMPLETE: State.RESPONDING,
        Event.LAST_RESPONSE: State.LINGERING,
        Event.UPGRADED: State.TUNNEL,
        Event.CLOSE: State.CLOSED,
    },
    State.RESPONDING: {
        **_staying(State.RESPONDING),
        Event.RESPONSE_COMPLETE: State.IDLE,
        Event.LAST_RESPONSE: State.LINGERING,
        Event.UPGRADED: State.TUNNEL,
        Event.CLOSE: State.CLOSED,
    },
    State.TUNNEL: {**_staying(State.TUNNEL), Event.CLOSE: State.CLOSED},
    State.LINGERING: {**_staying(State.LINGERING, Event.LAST_RESPONSE), Event.CLOSE: State.CLOSED},
    State.CLOSED: _staying(
        State.CLOSED, Event.RESPONSE_COMPLETE, Event.LAST_RESPONSE, Event.UPGRADED, Event.BODY_COMPLETE, Event.CLOSE
    ),
}
TRANSITIONS: Final = {state: Row(state, transitions) for state, transitions in _TABLE.items()}
