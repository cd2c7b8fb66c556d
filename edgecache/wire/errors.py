"""What can be wrong with a message: whose fault it is lies in the type, the status to answer in the value."""

from __future__ import annotations


class WireError(Exception):
    """A message or a connection that cannot be used. `reason` is a short fixed word for metrics."""

    status = 500

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason


class BadRequest(WireError):
    """The client's message is refused: one answer with `status`, then the connection closes."""

    def __init__(self, status: int, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.status = status


class OriginError(WireError):
    """The upstream failed: refused, reset, hung, or sent what is not HTTP. Answered 502 unless stale is allowed."""

    status = 502


class OriginTimeout(OriginError):
    """The upstream did not answer in time. Answered 504 unless stale is allowed."""

    status = 504


class OriginBusy(OriginError):
    """No connection to the upstream became free: its queue is full or its wait over. Answered 503."""

    status = 503
