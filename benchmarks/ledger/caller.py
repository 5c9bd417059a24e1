"""
One process of callers: holds and settles calls as fast as the ledger lets it.

Says ``ready`` when every waiter has made a call; then reads lines: ``measure`` begins the
measured time, ``rest`` ends it, ``stop`` ends the process after the calls in flight. Its last
word is one JSON object.

Invariants: a waiter has one call in flight; hold and settle are each durable before its next
step; a call counts when its settle is answered within the measured time.
"""

from __future__ import annotations

import asyncio
import cProfile
import sys
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import msgspec
import structlog
import uvloop

from benchmarks.ledger.business import Business, settings_of
from benchmarks.ledger.fill import buyer_scopes
from benchmarks.ledger.ways import Way, make_way
from benchmarks.loader import percentiles
from tokenworks.bootstrap.gateway_process import calm_collector
from tokenworks.bootstrap.hub import Hub, open_hub
from tokenworks.identity.model import Principal

REFUSED_EACH: Final = 10
"""With refusals on, one call in so many asks for more than its key may."""

_MULTIPLIER: Final = 2_654_435_761
_MODULUS: Final = 2**32


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """
    What one process is to do.
    """

    name: str
    dsn: str
    data_dir: str
    business_file: str
    kind: str
    """As ``ways.make_way`` takes it."""
    waiters: int
    suppliers: int
    is_one_organisation: bool
    has_refusals: bool
    empty_waiters: int
    """So many of the waiters ask for an account without money."""
    grown_buyers: int = 0
    """Above zero: the payers are so many buyers of ``fill``, one after the other at random."""
    profile_file: str | None = None
    """Where cProfile's figures go; ``None``: it does not run."""


@dataclass(slots=True)
class Tally:
    """
    What happened in the measured time; durations in nanoseconds.
    """

    settled: int = 0
    refused: int = 0
    holds: array[int] = field(default_factory=lambda: array("Q"))
    settles: array[int] = field(default_factory=lambda: array("Q"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """
    What the process has used and done so far.
    """

    time_s: float
    cpu_s: float
    batches: int
    operations: int


class Caller:
    """
    All waiters of one process.
    """

    def __init__(self, job: Job, hub: Hub, way: Way, payers: Payers) -> None:
        self._job = job
        self._hub = hub
        self._way = way
        self._payers = payers
        self._is_stopping = False
        self._is_measuring = False
        self._tally = Tally()
        self._not_called = job.waiters
        self._all_called = asyncio.Event()
        self.calls_total = 0
        """Settled since the start, warm-up included."""

    async def run(self, commands: asyncio.StreamReader) -> dict[str, object]:
        """
        Call until told to stop; return the figures of the measured time.
        """
        waiters = [asyncio.create_task(self._wait_and_call(n)) for n in range(self._job.waiters)]
        await asyncio.wait(
            [asyncio.create_task(self._all_called.wait()), *waiters],
            return_when=asyncio.FIRST_COMPLETED,
        )
        say("ready")
        await self._expect(commands, "measure", waiters)
        self._tally, self._is_measuring = Tally(), True
        begun = self._spent()
        profile = cProfile.Profile() if self._job.profile_file else None
        if profile is not None:
            profile.enable()
        await self._expect(commands, "rest", waiters)
        if profile is not None:
            profile.disable()
            profile.dump_stats(self._job.profile_file)
        self._is_measuring = False
        report = self._report(begun, self._spent())
        await self._expect(commands, "stop", waiters)
        self._is_stopping = True
        await asyncio.gather(*waiters)
        return report | {"calls_total": self.calls_total}

    async def _expect(
        self, commands: asyncio.StreamReader, word: str, waiters: Sequence[asyncio.Task[None]]
    ) -> None:
        line = asyncio.create_task(commands.readline())
        done, _ = await asyncio.wait([line, *waiters], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {line}:
            await task  # a waiter never ends by itself: this raises
        assert line.result().decode().strip() == word, f"the driver says {word} now"

    async def _wait_and_call(self, waiter: int) -> None:
        await self._call(waiter, waiter)
        self._not_called -= 1
        if not self._not_called:
            self._all_called.set()
        number = waiter
        while not self._is_stopping:
            number += self._job.waiters
            await self._call(waiter, number)

    async def _call(self, waiter: int, number: int) -> None:
        principal = self._payers.of(waiter, number)
        begun_ns = time.perf_counter_ns()
        opened = await self._way.hold(number, principal)
        held_ns = time.perf_counter_ns()
        if opened is None:
            self._tally.refused += self._is_measuring
            return
        await self._way.settle(opened)
        self.calls_total += 1
        if self._is_measuring:
            self._tally.settled += 1
            self._tally.holds.append(held_ns - begun_ns)
            self._tally.settles.append(time.perf_counter_ns() - held_ns)

    def _spent(self) -> Spent:
        return Spent(
            time_s=time.perf_counter(),
            cpu_s=time.process_time(),
            batches=self._hub.writer.batches,
            operations=self._hub.writer.operations,
        )

    def _report(self, begun: Spent, ended: Spent) -> dict[str, object]:
        batches = ended.batches - begun.batches
        return {
            "took_s": ended.time_s - begun.time_s,
            "cpu_s": ended.cpu_s - begun.cpu_s,
            "settled": self._tally.settled,
            "refused": self._tally.refused,
            "batches": batches,
            "operations": ended.operations - begun.operations,
            "hold_ms": percentiles(self._tally.holds),
            "settle_ms": percentiles(self._tally.settles),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Payers:
    """
    Who pays for which call.
    """

    keys: tuple[Principal, ...]
    refused: Principal | None
    """Is asked for every tenth call; ``None``: for none."""
    empty: Principal
    empty_waiters: int
    grown_buyers: int

    def of(self, waiter: int, number: int) -> Principal:
        """
        Return the payer of a waiter's call.
        """
        if self.grown_buyers:
            return self._grown(number)
        if waiter < self.empty_waiters:
            return self.empty
        if self.refused is not None and number % REFUSED_EACH == 0:
            return self.refused
        return self.keys[number % len(self.keys)]

    def _grown(self, number: int) -> Principal:
        # A multiplicative hash: every buyer comes, in no order, the same in each run.
        buyer = number * _MULTIPLIER % _MODULUS % self.grown_buyers
        organisation, team, user, key = buyer_scopes(buyer)
        return replace(
            self.keys[0],
            key_id=key,
            party_id=user,
            organisation_id=organisation,
            chain=(organisation, team, user),
            spend_path_id=key,
            spend_path_version=1,
        )


async def _payers(job: Job, hub: Hub, business: Business) -> Payers:
    secrets = business.keys_one if job.is_one_organisation else business.keys_many
    authenticate = hub.identity.authenticate
    return Payers(
        keys=tuple([await authenticate(secret) for secret in secrets]),
        refused=await authenticate(business.key_refused) if job.has_refusals else None,
        empty=await authenticate(business.key_empty),
        empty_waiters=job.empty_waiters,
        grown_buyers=job.grown_buyers,
    )


async def _run(job: Job, business: Business) -> None:
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
    )
    async with open_hub(settings_of(Path(job.data_dir)), job.dsn, name=job.name) as hub:
        way = await make_way(job.kind, hub, business, suppliers=job.suppliers)
        caller = Caller(job, hub, way, await _payers(job, hub, business))
        calm_collector()  # as a gateway process does
        report = await caller.run(commands)
    say(msgspec.json.encode(report).decode())


def say(line: str) -> None:
    """
    Tell the driver.
    """
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """
    Do the job that the one argument describes, as JSON.
    """
    # Standard output is the driver's; whatever the hub logs must not get in between.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    job = msgspec.json.decode(sys.argv[1], type=Job)
    business = msgspec.json.decode(Path(job.business_file).read_bytes(), type=Business)
    uvloop.run(_run(job, business))
    return 0


if __name__ == "__main__":
    sys.exit(main())
