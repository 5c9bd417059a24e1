"""
How identifiers are written.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.identifiers import (
    IdentifierSource,
    identifier_text,
    identifier_time,
)


@pytest.mark.parametrize("number", [0, 1, 0x019C0000000070008000000000000001, 2**128 - 1])
def test_text_of_an_identifier_is_what_str_returns(number: int) -> None:
    """
    The remembered text is the canonical one, the first time and every time after.
    """
    identifier = UUID(int=number)
    assert identifier_text(identifier) == str(identifier)
    assert identifier_text(UUID(int=number)) == str(identifier)


@pytest.mark.parametrize("step_us", [0, 1, 999, 1_000])
def test_ids_of_one_source_increase(step_us: int) -> None:
    """
    Ids sort as they were minted, also within a millisecond and when more are minted in one
    than its counter holds.
    """
    clock = FakeClock(datetime(2026, 3, 1, tzinfo=UTC))
    identifiers = IdentifierSource(clock)
    minted = []
    for _ in range(10_000):
        minted.append(identifiers.mint())
        clock.advance(timedelta(microseconds=step_us))
    assert minted == sorted(set(minted))
    assert {identifier.version for identifier in minted} == {7}
    assert identifier_time(minted[-1]) - clock.now() < timedelta(milliseconds=3)


def test_clock_set_back_is_followed() -> None:
    """
    Ids carry the clock's time also after an operator corrected it backwards.
    """
    clock = FakeClock(datetime(2026, 3, 1, 12, tzinfo=UTC))
    identifiers = IdentifierSource(clock)
    identifiers.mint()
    clock.advance(-timedelta(hours=1))
    earlier = [identifiers.mint() for _ in range(3)]
    assert {identifier_time(identifier) for identifier in earlier} == {clock.now()}
    assert earlier == sorted(earlier)
