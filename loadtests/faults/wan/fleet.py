"""POPs as processes, and the ways between them: relays that delay, swallow and cut."""

from __future__ import annotations

from pathlib import Path

from harness.fault_proxy import FaultProxy

from loadtests.lab.processes import Pop, pop

SECRET = "chain-of-the-load-test"
USUAL = {"workers": 1, "memory": "256MiB", "pop_secret": SECRET, "first_byte_timeout": "5s"}


def pop_of(name: str, folder: Path, **named: object) -> Pop:
    """A POP of the chain with one worker, to be started."""
    return pop(name, folder, **{**USUAL, **named})


class Way(FaultProxy):
    """The way to one port: a round trip takes so long, and a connection one more."""

    handshake = True

    def __init__(self, target_port: int, round_trip: float = 0.0) -> None:
        super().__init__(target_port)
        self.round_trip = round_trip
        self._delay()

    def _delay(self) -> None:
        self.up.latency = self.down.latency = self.round_trip / 2

    def swallow(self) -> None:
        """Whatever comes is dropped, in both directions; connections are still taken."""
        self.up.blackhole = self.down.blackhole = True

    def slow_down(self, by: float) -> None:
        """Answers take that much longer."""
        self.down.latency += by

    def mend(self) -> None:
        """Everything passes again, as late as ever; what was swallowed stays lost: its connections end."""
        lost = self.up.blackhole
        self.heal()
        self._delay()
        if lost:
            self.reset_all()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"
