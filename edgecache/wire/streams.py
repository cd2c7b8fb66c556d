"""What a body is read from and into, and who is told of its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from edgecache.semantics.rope import Piece

if TYPE_CHECKING:
    from edgecache.wire.body import Body


class Source(Protocol):
    """Where the bytes come from, as far as it can be slowed down."""

    def pause_reading(self) -> None:
        """Send nothing for now."""

    def resume_reading(self) -> None:
        """Go on."""

    def abandoned(self) -> None:
        """Nobody will read what is still to come."""


class Sink(Protocol):
    """Where the bytes go."""

    @property
    def writable(self) -> bool:
        """Whether more would not pile up."""

    def write(self, piece: Piece) -> None:
        """Take `piece`, whether it is convenient or not."""

    def finish(self) -> None:
        """The body is complete."""

    def abort(self) -> None:
        """The body will never be complete: the receiver must see that."""

    def goes_alone(self, at: int) -> bool:
        """Whether the receiver gets what follows byte `at` by another way from now on."""


class BodyEnd(Protocol):
    """Told when a body has ended."""

    def __call__(self, body: Body, /) -> None:
        """`body` is `finished` or `failed`."""
