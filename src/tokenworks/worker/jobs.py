"""
The worker's loop.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import psycopg
import structlog
from psycopg_pool import PoolTimeout

from tokenworks.agents.brake.service import Brake
from tokenworks.agents.escrow.service import Escrows
from tokenworks.agents.payments.store import PaymentStore
from tokenworks.factory.live.posting import EnergyPosting
from tokenworks.factory.live.store import FactoryStore
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import TokenworksError
from tokenworks.gateway.calls import CallStore
from tokenworks.gateway.orphans import Orphans
from tokenworks.gateway.refunding import Refunds
from tokenworks.ledger.archive import ArchiveReport
from tokenworks.ledger.checkpoint import take_checkpoint
from tokenworks.ledger.service import Ledger
from tokenworks.postgres.pool import Pool
from tokenworks.receipts.signing import LaneSigner
from tokenworks.reconciliation.service import Reconciliation
from tokenworks.worker.metering import Metering

TICK_S: Final = 1.0
EXPIRE_EVERY_S: Final = 2.0
ORPHANS_EVERY_S: Final = 2.0
DELIVER_EVERY_S: Final = 1.0
EXPIRE_GRACE: Final = timedelta(seconds=10)
EXPIRE_HOLDS_MAX: Final = 500
PAUSE_AFTER_START_S: Final = 15.0
CLOCK_JUMP: Final = timedelta(seconds=5)
ESCROWS_EVERY_S: Final = 1.0
OWED_EVERY_S: Final = 5.0
FINISH_EVERY_S: Final = 60.0
ENERGY_EVERY_S: Final = 2.0
CHECKPOINT_EVERY_S: Final = 60.0
PARTITIONS_EVERY_S: Final = 3_600.0
ARCHIVE_EVERY_S: Final = 3_600.0

_log = structlog.get_logger("tokenworks.worker")


@dataclass(slots=True)
class _Job:
    name: str
    every_s: float
    run: Callable[[], Awaitable[object]]
    due_s: float = 0.0


class Worker:
    """
    Run each job when it is due, one after the other.

    Args:
        ledger: Expires and collects.
        calls: Has partitions too.
        payments: Likewise.
        escrows: Does what time brings about, and finishes what others began.
        refunds: Finishes what a process that died had claimed.
        reconciliation: Finishes what was accepted likewise.
        brake: Ends reviews by their time, tells owners.
        orphans: Gives back the holds of processes that are gone.
        metering: Reads power meters, beside the jobs.
        energy: Divides and posts what they said.
        factory: Has partitions and old readings.
        pool: For checkpoints.
        clock: When something is due.
        signer: Signs checkpoints with this process's lane key.
        archive: Archives old months, blocking, given the time; ``None``: they stay.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        calls: CallStore,
        payments: PaymentStore,
        escrows: Escrows,
        refunds: Refunds,
        reconciliation: Reconciliation,
        brake: Brake,
        orphans: Orphans,
        metering: Metering,
        energy: EnergyPosting,
        factory: FactoryStore,
        pool: Pool,
        clock: Clock,
        signer: LaneSigner,
        archive: Callable[[datetime], ArchiveReport] | None = None,
    ) -> None:
        self._ledger = ledger
        self._calls = calls
        self._brake = brake
        self._metering = metering
        self._factory = factory
        self._payments = payments
        self._escrows = escrows
        self._pool = pool
        self._clock = clock
        self._signer = signer
        self._archive_months = archive
        self._archiving: asyncio.Task[None] | None = None
        self._delivering: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._expire_after_s = clock.monotonic_s() + PAUSE_AFTER_START_S
        self._jobs = (
            _Job("expire_holds", EXPIRE_EVERY_S, self._expire),
            _Job("give_back_orphans", ORPHANS_EVERY_S, orphans.give_back),
            _Job("expire_reviews", EXPIRE_EVERY_S, self._brake.expire_due),
            _Job("deliver_webhooks", DELIVER_EVERY_S, self._deliver),
            _Job("settle_escrows", ESCROWS_EVERY_S, self._settle_escrows),
            _Job("collect_owed", OWED_EVERY_S, self._ledger.collect_owed),
            _Job("finish_refunds", FINISH_EVERY_S, refunds.finish_claimed),
            _Job("finish_accepted", FINISH_EVERY_S, reconciliation.finish_accepted),
            _Job("post_energy", ENERGY_EVERY_S, energy.run),
            _Job("checkpoint", CHECKPOINT_EVERY_S, self._checkpoint),
            _Job("partitions", PARTITIONS_EVERY_S, self._partitions),
            _Job("archive", ARCHIVE_EVERY_S, self._archive),
        )

    async def run(self) -> None:
        """
        Work until SIGTERM or SIGINT.
        """
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._stop.set)
        _log.info("worker_ready", lane=self._ledger.lane)
        last = self._clock.now()
        reading = asyncio.create_task(self._metering.run(self._stop))
        while not self._stop.is_set():
            now = self._clock.now()
            if abs(now - last - timedelta(seconds=TICK_S)) > CLOCK_JUMP:
                _log.warning("clock_jumped", seconds=(now - last).total_seconds())
                self._expire_after_s = self._clock.monotonic_s() + PAUSE_AFTER_START_S
            last = now
            for job in self._jobs:
                await self._run_if_due(job)
            try:
                await asyncio.wait_for(self._stop.wait(), TICK_S)
            except TimeoutError:
                continue
        await reading

    async def _run_if_due(self, job: _Job) -> None:
        now_s = self._clock.monotonic_s()
        if now_s < job.due_s:
            return
        job.due_s = now_s + job.every_s
        try:
            await job.run()
        except (psycopg.Error, TokenworksError, OSError) as error:
            _log.warning("job_failed", job=job.name, reason=str(error))

    async def _expire(self) -> None:
        if self._clock.monotonic_s() < self._expire_after_s:
            return
        ended = await self._ledger.expire_due(grace=EXPIRE_GRACE, limit=EXPIRE_HOLDS_MAX)
        if ended:
            _log.info("holds_expired", count=ended)

    async def _settle_escrows(self) -> None:
        # A clock that jumped must not decide anything before it was looked at twice.
        if self._clock.monotonic_s() < self._expire_after_s:
            return
        await self._escrows.settle_due()

    async def _checkpoint(self) -> None:
        await take_checkpoint(self._pool, self._signer.sign_statement, self._clock)

    async def _partitions(self) -> None:
        await self._ledger.ensure_partitions()
        await self._calls.ensure_partitions()
        await self._payments.ensure_partitions()
        await self._brake.ensure_partitions()
        await self._factory.ensure_partitions(self._clock.now())

    async def _deliver(self) -> None:
        # Others' servers may be slow: beside the other jobs, and never twice at once.
        if self._delivering is None or self._delivering.done():
            self._delivering = asyncio.create_task(self._deliver_all())

    async def _deliver_all(self) -> None:
        try:
            while await self._brake.deliver_webhooks():
                continue
        except (psycopg.Error, PoolTimeout, TokenworksError, OSError) as error:
            _log.warning("job_failed", job="deliver_webhooks", reason=str(error))

    async def _archive(self) -> None:
        # It may take minutes: beside the other jobs, in a thread, and never twice at once.
        if self._archive_months is None or (self._archiving and not self._archiving.done()):
            return
        run = asyncio.to_thread(self._archive_months, self._clock.now())
        self._archiving = asyncio.create_task(_told(run))


async def _told(run: Awaitable[ArchiveReport]) -> None:
    try:
        report = await run
    except (psycopg.Error, TokenworksError, OSError) as error:
        _log.warning("job_failed", job="archive", reason=str(error))
        return
    if report.months or report.refusal:
        months = [f"{month.starts_at:%Y-%m}" for month in report.months]
        _log.info("months_archived", months=months, refusal=report.refusal)


def months_before(now: datetime, months: int) -> datetime:
    """
    Return the first moment of the month that lies so many months before this one, in UTC.
    """
    assert months >= 0, "months of the past"
    count = now.astimezone(UTC).year * 12 + now.astimezone(UTC).month - 1 - months
    return datetime(count // 12, count % 12 + 1, 1, tzinfo=UTC)
