"""Protocols of what a body is read from and written to, and of callbacks at its end."""

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
        """No reader is left for what is still to come."""


class Sink(Protocol):
    """Where the bytes go."""

    @property
    def writable(self) -> bool:
        """Whether more would not pile up."""

    def write(self, piece: Piece) -> None:
        """Take `piece`, even if `writable` is false."""

    def finish(self) -> None:
        """The body is complete."""

    def abort(self) -> None:
        """The body will never be complete, which the receiver must see."""

    def goes_alone(self, at: int) -> bool:
        """Whether the receiver gets what follows byte `at` by another way from now on."""


class BodyEnd(Protocol):
    """Called when a body has ended."""

    def __call__(self, body: Body, /) -> None:
        """`body` is `finished` or `failed`."""
