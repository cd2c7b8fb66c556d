"""Both ends of a body on its way: a source and sinks that take notes, and fail where the contract is broken."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class FakeSource:
    """Where a body comes from: it remembers whether it is held back, and whether anybody wants the rest."""

    paused: bool = False
    abandonments: int = 0

    def pause_reading(self) -> None:
        """Send nothing for now."""
        assert not self.paused, "paused twice"
        self.paused = True

    def resume_reading(self) -> None:
        """Go on."""
        assert self.paused, "resumed, but not paused"
        self.paused = False

    def abandoned(self) -> None:
        """Nobody will read what is still to come."""
        self.abandonments += 1


@dataclass
class FakeSink:
    """A reader that takes `room` pieces (None: any number), and remembers them and its end."""

    room: int | None = None
    got: bytes = b""
    ends: list[str] = field(default_factory=list)

    @property
    def writable(self) -> bool:
        """Whether more would not pile up."""
        return self.room is None or self.room > 0

    def write(self, piece: bytes) -> None:
        """Take `piece`."""
        assert not self.ends, "a piece after the end"
        assert self.writable, "a piece that there was no room for"
        self.room = None if self.room is None else self.room - 1
        self.got += piece

    def finish(self) -> None:
        """The body is complete."""
        self.ends.append("finish")

    def abort(self) -> None:
        """The body will never be complete."""
        self.ends.append("abort")

    def goes_alone(self, at: int) -> bool:
        """It has no other way to the rest."""
        return False
