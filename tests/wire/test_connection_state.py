"""The state machine of a client's connection: its table, and the connection under random events."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter as Tally
from typing import Any

import pytest
from hostile.rig import Bench, Transport
from hypothesis import given
from hypothesis import strategies as st

from edgecache.wire.exchange import Exchange
from edgecache.wire.h1.connection_state import TRANSITIONS, Event, IllegalTransition, State
from edgecache.wire.h1.server import ClientConnection

HEAD = b"GET / HTTP/1.1\r\nHost: www.example.test\r\n"
KNOWN = HEAD + b"X-Known: 1\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: www.example.test\r\nTransfer-Encoding: chunked\r\n"
DATA = (
    KNOWN,
    HEAD + b"\r\n",
    HEAD + b"Connection: close\r\n\r\n",
    HEAD,
    b"\r\n",
    HEAD + b"\r\n" + HEAD + b"\r\n" + HEAD,
    b"POST / HTTP/1.1\r\nHost: www.example.test\r\nContent-Length: 5\r\n\r\nab",
    b"cde",
    b"POST / HTTP/1.1\r\nHost: www.example.test\r\nContent-Length: 70000\r\n\r\n" + b"a" * 69000,
    b"a" * 1000,
    CHUNKED + b"\r\n3\r\nabc\r\n",
    CHUNKED + b"Expect: 100-continue\r\n\r\n",
    b"1\r\na\r\n" * 1500,
    b"0\r\n\r\n",
    b"\x00",
)


# --- the table


def test_every_state_has_its_row_and_can_be_reached() -> None:
    """From a new connection."""
    reached, new = set(), {State.IDLE}
    while new:
        reached |= new
        new = {after for state in new for after in TRANSITIONS[state].values()} - reached

    assert reached == set(State) == set(TRANSITIONS)


@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_every_state_can_end_and_bears_back_pressure(state: State) -> None:
    """The transport may be lost, and may pause and resume writing, at any time."""
    assert TRANSITIONS[state][Event.CLOSE] is State.CLOSED
    assert {Event.PAUSE_WRITING, Event.RESUME_WRITING} <= set(TRANSITIONS[state])


def test_no_request_follows_the_last_response() -> None:
    """Nor comes anything back from a tunnel, or from a closed connection (RFC 9112 §9.6)."""
    for state in (State.LINGERING, State.TUNNEL):
        assert set(TRANSITIONS[state].values()) == {state, State.CLOSED}
    assert set(TRANSITIONS[State.CLOSED].values()) == {State.CLOSED}


@pytest.mark.parametrize(
    "walk",
    [
        [(Event.DATA, State.READING_HEAD), (Event.REQUEST, State.RESPONDING), (Event.RESPONSE_COMPLETE, State.IDLE)],
        [(Event.REQUEST, State.RESPONDING), (Event.LAST_RESPONSE, State.LINGERING), (Event.CLOSE, State.CLOSED)],
        [
            (Event.DATA, State.READING_HEAD),
            (Event.REQUEST_HELD, State.HOLDING),
            (Event.BODY_RELEASED, State.READING_BODY),
            (Event.BODY_COMPLETE, State.RESPONDING),
            (Event.UPGRADED, State.TUNNEL),
        ],
        [
            (Event.DATA, State.READING_HEAD),
            (Event.REQUEST_STREAMED, State.READING_BODY),
            (Event.LAST_RESPONSE, State.LINGERING),
        ],
        [
            (Event.PAUSE_WRITING, State.BLOCKED),
            (Event.RESUME_WRITING, State.READING_HEAD),
            (Event.EMPTIED, State.IDLE),
        ],
    ],
    ids=["GET", "close", "upgrade after a held body", "early response", "slow client"],
)
def test_walks(walk: list[tuple[Event, State]]) -> None:
    """The lives of connections, from IDLE on."""
    state = State.IDLE
    for event, expected in walk:
        state = TRANSITIONS[state][event]
        assert state is expected


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (State.IDLE, Event.RESPONSE_COMPLETE),
        (State.HOLDING, Event.RESPONSE_COMPLETE),  # it was not passed on yet
        (State.HOLDING, Event.UPGRADED),
        (State.READING_BODY, Event.RESPONSE_COMPLETE),  # what follows is no request: the connection cannot persist
        (State.RESPONDING, Event.REQUEST),  # one after the other
        (State.BLOCKED, Event.REQUEST),
        (State.TUNNEL, Event.LAST_RESPONSE),
        (State.LINGERING, Event.REQUEST),
        (State.CLOSED, Event.REQUEST),
    ],
    ids=lambda value: value.name,
)
def test_illegal_transitions_raise(state: State, event: Event) -> None:
    """What the table does not list."""
    with pytest.raises(IllegalTransition, match=f"{event.name} while {state.name}"):
        TRANSITIONS[state][event]


# --- the connection under random events


class Wire(Transport):
    """A transport whose write buffer and end are the test's."""

    def __init__(self, near: socket.socket) -> None:
        super().__init__()
        self._extra = {"socket": near}
        self.closing = False
        self.unsent = 0

    def is_closing(self) -> bool:
        """Whether it was closed or aborted."""
        return self.closing

    def write_eof(self) -> None:
        """FIN, after which it still reads."""

    def close(self) -> None:
        """FIN."""
        self.closing = True

    abort = close

    def get_write_buffer_size(self) -> int:
        """What the client has not taken."""
        return self.unsent


class Later(Bench):
    """A site that answers when the test says so, knows one head, and counts the ends of exchanges."""

    tunnel_timeout = 10.0
    crowded = finish_abandoned = False

    def __init__(self) -> None:
        super().__init__()
        self.now = 1.0
        self.waiting: list[Exchange] = []
        self.ends: Tally[int] = Tally()
        self.taken: list[Exchange] = []

    def clock(self) -> float:
        """The test's."""
        return self.now

    def answer_known(self, connection: ClientConnection, raw: bytes) -> bool:
        """One head is known."""
        if raw == KNOWN:
            connection.transport.write(b"known")
        return raw == KNOWN

    def answer(self, exchange: Exchange) -> None:
        """Later."""
        self.waiting.append(exchange)
        self.taken.append(exchange)

    def answer_now(self) -> None:
        """The one that waits, if there is one."""
        if self.waiting:
            super().answer(self.waiting.pop(0))

    def answered(self, exchange: Exchange, took: float) -> None:
        """Count it."""
        self.ends[id(exchange)] += 1


class Driver:
    """One connection, and what may happen to it."""

    def __init__(self, near: socket.socket) -> None:
        self.site = Later()
        self.wire = Wire(near)
        self.connection = ClientConnection(self.site, client="192.0.2.1")  # type: ignore[arg-type]
        self.connection.connection_made(self.wire)
        self.eof = False

    def data(self, number: int) -> None:
        """Bytes of the client, as long as the transport reads."""
        if not (self.wire.closing or self.eof or self.connection.reading_paused):
            self.connection.data_received(DATA[number % len(DATA)])

    def end_of_input(self, _: int) -> None:
        """FIN of the client."""
        if not (self.wire.closing or self.eof):
            self.eof = True
            if not self.connection.eof_received():
                self.wire.close()

    def pause(self, _: int) -> None:
        """The client takes nothing."""
        if self.connection.writable and not self.wire.closing:
            self.wire.unsent = 100_000
            self.connection.pause_writing()

    def resume(self, _: int) -> None:
        """It has taken all."""
        if not self.connection.writable and not self.wire.closing:
            self.wire.unsent = 0
            self.connection.resume_writing()

    def answer(self, _: int) -> None:
        """The response to the request under way, as soon as its body is whole."""
        self.site.answer_now()

    def answer_early(self, _: int) -> None:
        """The response to the request under way, before its body is whole."""
        if self.site.waiting:
            exchange = self.site.waiting.pop(0)
            body, exchange.body = exchange.body, None
            if body is not None:
                body.discard()
            Bench.answer(self.site, exchange)

    def abort(self, _: int) -> None:
        """The response cannot be completed."""
        if self.site.waiting:
            self.site.waiting.pop(0).abort()

    def upgrade(self, _: int) -> None:
        """The request under way becomes a tunnel."""
        if self.site.waiting and not (exchange := self.site.waiting.pop(0)).gone:
            exchange.started = True
            self.connection.become_tunnel(lambda data: None, lambda: None)

    def sweep(self, number: int) -> None:
        """Time passes."""
        self.site.now += (0.25, 1.2, 3.0, 11.0)[number % 4]
        self.connection.sweep(self.site.now)

    def drain(self, _: int) -> None:
        """The server drains."""
        self.site.draining = True

    def cut(self, _: int) -> None:
        """The worker cuts the connection, as it does with those that read too slowly."""
        if not self.wire.closing:
            self.connection.cut()

    def check(self) -> None:
        """What each state promises."""
        one, state = self.connection, self.connection.state
        under_way = {State.HOLDING, State.READING_BODY, State.RESPONDING, State.TUNNEL}
        assert (one.exchange is not None) == (state in under_way) or state is State.CLOSED
        if state is State.IDLE:
            assert (one.unread, one.writable, one.closing) == (0, True, False)
        elif state is State.BLOCKED:
            assert not one.writable
        elif state is State.READING_HEAD:
            assert one.writable
        elif state is State.LINGERING:
            assert one.unread == 0
        assert not [reason for reason in self.site.reasons if reason[1] == "internal"], "a bug was caught"

    def lose(self) -> None:
        """The connection ends: every exchange has ended once."""
        self.connection.connection_lost(None)
        assert self.connection.state is State.CLOSED
        assert self.connection.exchange is None
        assert all(self.site.ends[id(exchange)] == 1 for exchange in self.site.taken)


ACTIONS: list[Any] = [
    *[Driver.data] * 6,
    Driver.end_of_input,
    Driver.pause,
    Driver.resume,
    *[Driver.answer] * 3,
    Driver.answer_early,
    Driver.abort,
    Driver.upgrade,
    Driver.sweep,
    Driver.drain,
    Driver.cut,
]


async def play(steps: list[tuple[Any, int, bool]]) -> None:
    """Each step on one connection; the event loop turns after some of them."""
    near, far = socket.socketpair()
    with near, far:
        driver = Driver(near)
        driver.check()
        for action, number, turn in steps:
            action(driver, number)
            if turn:
                await asyncio.sleep(0)
            driver.check()
            if driver.wire.closing and turn:
                break
        driver.lose()
        await asyncio.sleep(0)
        assert driver.connection.state is State.CLOSED


@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 59), st.booleans()), max_size=25))
def test_any_sequence_of_events_is_legal(steps: list[tuple[Any, int, bool]]) -> None:
    """No sequence of bytes, ends, pauses, responses, sweeps, drains and cuts is illegal, or breaks a promise."""
    asyncio.run(play(steps))
