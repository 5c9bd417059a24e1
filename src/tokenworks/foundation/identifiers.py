"""
Identifiers of facts: UUIDv7 (RFC 9562 §5.7), minted once by the hub.

The first 48 bits are Unix milliseconds, so ids sort by time and a table partitioned
by id is partitioned by time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final
from uuid import UUID

from tokenworks.foundation.clock import Clock

_VERSION_7: Final = 0x7 << 76
_VARIANT: Final = 0b10 << 62
_COUNTER_MAX: Final = (1 << 12) - 1
_COUNTER_START_MASK: Final = _COUNTER_MAX >> 1
_RANDOM_B_MASK: Final = (1 << 62) - 1


class IdentifierSource:
    """
    Mint UUIDv7 identifiers from a clock and a source of random bytes.

    One source's ids increase while its clock does not run backwards: the twelve bits below
    the milliseconds start at a random number and count on within one (RFC 9562 §6.2,
    method 1), so facts of one millisecond are listed in the order in which they came.

    Args:
        clock: Gives the leading milliseconds.
        random_bytes: Returns that many unpredictable (or, in a simulation, seeded)
            bytes.
    """

    def __init__(self, clock: Clock, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._clock = clock
        self._random_bytes = random_bytes
        self._tick = -1
        self._milliseconds = -1
        self._counter = 0

    def mint(self) -> UUID:
        """
        Return a new identifier.
        """
        tick = int(self._clock.now().timestamp() * 1000)
        random = int.from_bytes(self._random_bytes(10))
        if self._tick <= tick <= self._milliseconds:
            self._counter += 1
        else:
            self._milliseconds = tick
            self._counter = random >> 64 & _COUNTER_START_MASK
        self._tick = tick
        if self._counter > _COUNTER_MAX:
            # More than a millisecond can count: the ids run ahead of the clock by one.
            self._milliseconds += 1
            self._counter = 0
        return UUID(
            int=self._milliseconds << 80
            | _VERSION_7
            | self._counter << 64
            | _VARIANT
            | random & _RANDOM_B_MASK
        )


def identifier_text(identifier: UUID) -> str:
    """
    Return what ``str`` does, remembered: a sixth of its cost for ids that come again.

    For ids of parties, keys, offers and prices, of which each call writes a dozen.
    """
    return _text_of_number(identifier.int)


@lru_cache(maxsize=4_096)
def _text_of_number(number: int) -> str:
    # In books of many buyers most ids do not come again soon: half of what str and UUID take.
    digits = f"{number:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def identifier_floor(moment: datetime) -> UUID:
    """
    Return the smallest UUIDv7-shaped value of ``moment``; a partition's bound.
    """
    return UUID(int=int(moment.timestamp() * 1000) << 80)


def identifier_time(identifier: UUID) -> datetime:
    """
    Return the millisecond at which a UUIDv7 was minted, in UTC.
    """
    return datetime.fromtimestamp((identifier.int >> 80) / 1000, tz=UTC)
