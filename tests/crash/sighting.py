"""
What a client saw of one try of a call: the lines that client processes write.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Seen(StrEnum):
    """
    How a try ended, for its client.
    """

    ANSWERED = "answered"
    """Status 200 to its last byte: the charge, and ``[DONE]`` where it is a stream."""
    REFUSED = "refused"
    """An error with a status."""
    BROKEN = "broken"
    """A stream that began and did not end with ``[DONE]``."""
    LOST = "lost"
    """No whole answer: the connection was refused, reset, or silent for too long."""
    GIVEN_UP = "given_up"
    """No try: the client's patience was over before its key came to an end."""


class Sighting(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    One try of one call. Times are of the machine's monotonic clock, in seconds.
    """

    key: str  # the Idempotency-Key
    seen: Seen
    begun_s: float
    ended_s: float
    is_stream: bool = False
    status: int | None = None
    code: str | None = None
    call_id: str | None = None
    charge: str | None = None  # what the answer says, in currency units
    has_retry_after: bool = False

    @property
    def settles_key(self) -> bool:
        """
        Whether the client may stop trying: it has the answer, or knows that it was charged.
        """
        return self.seen is Seen.ANSWERED or self.code == "call_already_settled"
