"""
The worker archives beside its other work, and never twice at once.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from tokenworks.foundation.clock import FakeClock
from tokenworks.ledger.archive import ArchiveReport
from tokenworks.ledger.errors import ArchiveRefusedError
from tokenworks.worker.jobs import Worker, months_before

NOW = datetime(2026, 3, 15, 7, tzinfo=UTC)


def _worker(archive: Any) -> Worker:  # noqa: ANN401 - a stand-in
    nobody = cast("Any", None)

    class _Idle:
        collect_owed = finish_claimed = finish_accepted = expire_due = give_back = run = None

    return Worker(
        ledger=cast("Any", _Idle()),
        calls=nobody,
        payments=nobody,
        escrows=nobody,
        refunds=cast("Any", _Idle()),
        reconciliation=cast("Any", _Idle()),
        brake=cast("Any", _Idle()),
        orphans=cast("Any", _Idle()),
        metering=nobody,
        energy=cast("Any", _Idle()),
        factory=nobody,
        pool=nobody,
        clock=FakeClock(NOW),
        signer=nobody,
        archive=archive,
    )


@pytest.mark.parametrize(
    ("months", "first"),
    [(1, (2026, 2)), (2, (2026, 1)), (3, (2025, 12)), (15, (2024, 12))],
)
def test_months_are_counted_back_over_new_year(months: int, first: tuple[int, int]) -> None:
    """
    So many whole months before this one stay.
    """
    assert months_before(NOW, months) == datetime(*first, 1, tzinfo=UTC)


async def test_archive_runs_once_at_a_time_and_blocks_nothing() -> None:
    """
    While one is at work a second is not begun; afterwards it may be.
    """
    begun: list[datetime] = []
    may_end = threading.Event()

    def archive(now: datetime) -> ArchiveReport:
        begun.append(now)
        may_end.wait(30)
        return ArchiveReport(months=())

    worker = _worker(archive)
    await worker._archive()
    await worker._archive()
    assert worker._archiving is not None
    may_end.set()
    await worker._archiving
    assert begun == [NOW]
    await worker._archive()
    await worker._archiving
    assert len(begun) == 2


async def test_archive_that_fails_is_told_and_tried_again() -> None:
    """
    The worker goes on; without the setting nothing is archived at all.
    """

    def archive(_now: datetime) -> ArchiveReport:
        raise ArchiveRefusedError("full")

    worker = _worker(archive)
    await worker._archive()
    assert worker._archiving is not None
    await worker._archiving
    idle = _worker(None)
    await idle._archive()
    assert idle._archiving is None
