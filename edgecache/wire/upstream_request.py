"""A question upstream, and what is told of it: `Question` is what is asked, `Inquiry` is one time that it is asked.

An `Inquiry` is told what comes back by calls in this order: any number of `on_interim`, then one of `on_answer`,
`on_whole` and `on_failure`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from edgecache.invalidation.purge_log import Stamp
from edgecache.semantics.message import Response
from edgecache.semantics.outcomes import Tier
from edgecache.semantics.rfc9111 import SAFE_METHODS
from edgecache.wire.body import Body
from edgecache.wire.errors import OriginError

if TYPE_CHECKING:
    from edgecache.wire.h1.client import OriginConnection


class Wording(Protocol):
    """A question that may go to a parent or to the origin: its head is written when it is known to whom."""

    key: bytes  # of the object that is asked for

    def for_parent(self, scheme: bytes) -> bytes:
        """The head as a parent that is asked by `scheme` is to get it, signed now."""

    def for_origin(self) -> bytes:
        """The head as the origin is to get it."""

    def anew(self) -> Wording:
        """The same for another time that it is asked."""

    def proven(self, asked: Stamp, response: Response) -> Stamp:
        """What is known of when the answer of a parent, asked at `asked`, was asked of the origin."""


class Question(NamedTuple):
    """A request as it goes to the origin: the rendered head, and the body if there is one."""

    method: bytes
    head: bytes
    body: Body | None = None
    chunked: bool = False
    upgrade: bool = False
    conditional: bool = False  # a 304 may answer it
    ranged: bool = False  # a 206 may answer it
    region: bytes = b""  # whose origins it is for; empty where geography does not say
    wording: Wording | None = None  # of what may go to a parent; then there is no head yet
    jurisdiction: str = ""  # that the answer must not leave; empty: it may go anywhere
    unsafe: bool = False  # whatever its method: a field of it may name another
    shared: bool = False  # the answer is expected to serve others too: nothing in the question makes it one client's

    def anew(self) -> Question:
        """The same question for another time that it is asked."""
        return self if self.wording is None else self._replace(wording=self.wording.anew())

    @property
    def is_safe(self) -> bool:
        """Whether it asks for no change (RFC 9110 §9.2.1): nothing is lost if it is read twice."""
        return not self.unsafe and self.method in SAFE_METHODS

    @property
    def may_be_repeated(self) -> bool:
        """Whether it may be sent once more (RFC 9110 §9.2.2): it is safe, and its body, if any, is still here."""
        return self.is_safe and (self.body is None or self.body.joinable)

    def may_be_answered(self, status: int) -> bool:
        """Whether `status` can answer this question at all (RFC 9110 §15.3.7, §15.4.5)."""
        return (status != 304 or self.conditional) and (status != 206 or self.ranged)


class Inquiry:
    """One question on its way; a subclass says what becomes of the answer. It may be `cancel`led at any time."""

    cancelled = False
    retried = False
    is_check = False  # of whether somebody is well: what becomes of it is not a request's failure
    answered_by: Tier | None = None  # if not by the origin
    asked_on: OriginConnection | None = None  # the connection that it is under way on

    def __init__(self, question: Question, asked: float, seen: Stamp) -> None:
        self.question = question
        self.asked = asked  # epoch seconds
        self.seen = seen  # what of the purge log was known then

    def on_interim(self, response: Response) -> None:
        """A 1xx response has come."""

    def on_answer(self, response: Response, body: Body) -> None:
        """The head has come; `body` fills as bytes arrive, and what goes wrong from here on fails it."""
        raise NotImplementedError

    def on_whole(self, response: Response, content: bytes) -> None:
        """Head and content have come at once."""
        self.on_answer(response, Body.of(content))

    def on_failure(self, error: OriginError) -> None:
        """There is no answer."""
        raise NotImplementedError

    @property
    def uploads(self) -> bool:
        """Whether the question has its connection for as long as its client likes: a body that comes, or a tunnel."""
        body = self.question.body
        if self.question.upgrade and not self.cancelled:
            return self.asked_on is None or self.asked_on.belongs_to(self)
        if body is None or body.ended or self.cancelled:
            return False
        return self.asked_on is None or self.asked_on.is_sending(self)

    def cancel(self) -> None:
        """Nobody wants the answer any more."""
        self.cancelled = True
        if self.asked_on is not None:
            self.asked_on.close()

    def fail(self, error: OriginError) -> None:
        """There will be no answer."""
        if not self.cancelled:
            self.cancelled = True
            self.on_failure(error)
