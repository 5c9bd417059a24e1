"""
When a reading is taken.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from tokenworks.foundation.clock import Clock

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def now_us(clock: Clock) -> int:
    """
    Return microseconds since 1970.
    """
    return (clock.now() - _EPOCH) // timedelta(microseconds=1)
