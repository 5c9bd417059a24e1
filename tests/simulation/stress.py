"""
Several writers on one database at once: real races, judged by what must be true in any order.

The simulator decides each answer beforehand; here nobody can. So the auditor adds up what was
acknowledged and compares the sums with the books: each fact has one effect, whoever was told of
it; every counter is the sum of acknowledged effects; no bound is broken; a freeze that was
answered stops every hold that is asked for later; no writer ever waits for another in a circle.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from uuid import UUID

import psycopg

from tests.databases import OpenDatabase
from tests.patience import patient_hub
from tests.simulation.simulator.database import NO_DATABASE, open_server
from tests.simulation.simulator.laws import BrokenLawError, Law
from tests.simulation.simulator.run import quiet_logs
from tokenworks.foundation.clock import SystemClock
from tokenworks.foundation.errors import TokenworksError
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.foundation.money import LIMIT_TOKENS, LIMIT_USD, USD, Amount
from tokenworks.ledger.check import check_books
from tokenworks.ledger.model import (
    Outcome,
    Placement,
    Posting,
    PostingKind,
    Reservation,
    Transfer,
)
from tokenworks.ledger.service import PLATFORM_ID, Ledger
from tokenworks.ledger.writer import Writer
from tokenworks.postgres.pool import Connection, Pool, open_pool

WRITERS = 3
BUYERS = 5
SPENDERS = 12
USD_ID, LIMIT_USD_ID, LIMIT_TOKENS_ID = 1, 11, 13
FUNDS = 20_000
"""Each buyer's money, in quanta: about half of what its calls want."""


@dataclass
class Tally:
    """
    What was acknowledged, added up in whatever order it came.
    """

    pending: Counter[int] = field(default_factory=Counter[int])
    debits: Counter[int] = field(default_factory=Counter[int])
    credits: Counter[int] = field(default_factory=Counter[int])
    done: Counter[tuple[UUID, str, int]] = field(default_factory=Counter[tuple[UUID, str, int]])
    refused: Counter[str] = field(default_factory=Counter[str])
    paid_in: Counter[str] = field(default_factory=Counter[str])
    operations: int = 0


@dataclass
class Stress:
    """
    One database, its writers, and what they were told.
    """

    dsn: str
    random: Random
    ids: IdentifierSource
    ledgers: list[Ledger]
    writers: list[Writer]
    connection: Connection
    tally: Tally = field(default_factory=Tally)
    cash: list[int] = field(default_factory=list[int])
    buyers: list[UUID] = field(default_factory=list[UUID])
    paths: list[UUID] = field(default_factory=list[UUID])
    frozen: dict[UUID, bool] = field(default_factory=dict[UUID, bool])
    """Paths whose scope is certainly frozen, from the answer to the request to thaw."""
    supplier: UUID = PLATFORM_ID

    # ------------------------------------------------------------------ asking

    async def place(self, placement: Placement, *, times: int = 1) -> Outcome:
        """
        Send one placement through several writers at once; return the answer that counts.
        """
        was_frozen = self.frozen.get(placement.path_id or UUID(int=0), False)
        writers = self.random.sample(self.writers, times)
        outcomes = await asyncio.gather(*(writer.place(placement) for writer in writers))
        outcome = self._one_effect(outcomes, (placement.hold_id, "place", placement.extension))
        still_frozen = self.frozen.get(placement.path_id or UUID(int=0), False)
        if outcome.is_done and was_frozen and still_frozen:
            raise BrokenLawError(Law.SPEND_PATH, f"a frozen path held {placement.hold_id}")
        if outcome.is_done:
            for part in outcome.parts:
                self.tally.pending[part.account_id] += part.quanta
        return outcome

    async def post(self, posting: Posting, *, times: int = 1) -> Outcome:
        """
        Send one posting through several writers at once; return the answer that counts.
        """
        writers = self.random.sample(self.writers, times)
        outcomes = await asyncio.gather(*(writer.post(posting) for writer in writers))
        return self._one_effect(outcomes, (posting.fact_id, posting.kind.value, posting.ordinal))

    def _one_effect(self, outcomes: Sequence[Outcome], fact: tuple[UUID, str, int]) -> Outcome:
        self.tally.operations += len(outcomes)
        codes = Counter(outcome.code for outcome in outcomes)
        # A writer whose connection was cut asks again: all may say that it was done before.
        if codes["ok"] > 1 or (codes["ok"] and self.tally.done[fact]):
            raise BrokenLawError(Law.FACT_ONCE, f"{fact} was done twice: {dict(codes)}")
        done = [outcome for outcome in outcomes if outcome.is_done]
        if done:
            self.tally.done[fact] += 1
            return done[0]
        self.tally.refused[outcomes[0].code] += 1
        return outcomes[0]


# ---------------------------------------------------------------------- what goes on


async def spend(stress: Stress, rounds: int) -> None:
    """
    Hold and settle, one after the other, on any buyer's money; some of it through two writers.
    """
    random = stress.random
    for _ in range(rounds):
        buyer = random.randrange(BUYERS)
        now = SystemClock().now()
        quanta = random.randint(1, 400)
        placement = Placement(
            hold_id=stress.ids.mint(),
            path_id=stress.paths[buyer],
            path_version=1,
            reservations=(
                Reservation(asset_id=USD_ID, quanta=quanta),
                Reservation(asset_id=LIMIT_USD_ID, quanta=quanta),
                Reservation(asset_id=LIMIT_TOKENS_ID, quanta=7),
            ),
            expires_at=now + timedelta(minutes=5),
            deadline=now + timedelta(minutes=1),
        )
        outcome = await stress.place(placement, times=random.choice((1, 1, 2, 3)))
        if outcome.is_done:
            await _settle(stress, buyer, placement.hold_id, outcome, quanta)


async def _settle(stress: Stress, buyer: int, hold_id: UUID, held: Outcome, quanta: int) -> None:
    random = stress.random
    used = random.randint(1, quanta)
    fate = random.random()
    if fate < 0.15:
        kind, transfers = PostingKind.VOID, ()
    else:
        kind, transfers = PostingKind.CAPTURE, await _legs(stress, buyer, held, used)
    posting = Posting(kind=kind, fact_id=hold_id, transfers=transfers)
    # A settle races with an expiry and with itself; exactly one of them ends the hold.
    ends = [posting, Posting(kind=PostingKind.VOID, fact_id=hold_id, meta='{"by":"rival"}')]
    if random.random() < 0.2 and kind is PostingKind.CAPTURE:
        outcomes = await asyncio.gather(*(stress.post(end, times=1) for end in ends))
        winners = [end for end, outcome in zip(ends, outcomes, strict=True) if outcome.is_done]
        if len(winners) != 1:
            raise BrokenLawError(Law.HOLD_ONCE, f"{hold_id} was ended {len(winners)} times")
        posting = winners[0]
    else:
        outcome = await stress.post(posting, times=random.choice((1, 2)))
        if not outcome.is_done:
            raise BrokenLawError(Law.OVERRUN, f"a settle was refused: {outcome.code}")
    for part in held.parts:
        stress.tally.pending[part.account_id] -= part.quanta
    for transfer in posting.transfers:
        stress.tally.debits[transfer.debit] += transfer.quanta
        stress.tally.credits[transfer.credit] += transfer.quanta


async def _legs(stress: Stress, buyer: int, held: Outcome, used: int) -> tuple[Transfer, ...]:
    ledger = stress.ledgers[0]
    revenue = await ledger.account(PLATFORM_ID, "platform_revenue")
    payable = await ledger.account(stress.supplier, "supplier_payable")
    purchases = await ledger.account(PLATFORM_ID, "purchases")
    own_funds = await ledger.account(PLATFORM_ID, "own_funds")
    bank = await ledger.account(PLATFORM_ID, "safeguarded")
    transfers = [
        Transfer(debit=stress.cash[buyer], credit=revenue, quanta=used),
        Transfer(debit=purchases, credit=payable, quanta=used),
        Transfer(debit=own_funds, credit=bank, quanta=used),
    ]
    for part in held.parts:
        if part.asset_id != USD_ID:
            asset = "LIMIT.USD" if part.asset_id == LIMIT_USD_ID else "LIMIT.TOK"
            spent = await ledger.account(PLATFORM_ID, "limit_spent", asset)
            quanta = used if part.asset_id == LIMIT_USD_ID else 7
            transfers.append(Transfer(debit=part.account_id, credit=spent, quanta=quanta))
    return tuple(transfers)


async def pay_in(stress: Stress, rounds: int) -> None:
    """
    Tell several processes of the same payment at once.
    """
    for number in range(rounds):
        buyer = stress.random.randrange(BUYERS)
        quanta = stress.random.randint(1, 300)
        posted = await asyncio.gather(
            *(
                ledger.deposit(
                    party_id=stress.buyers[buyer],
                    amount=Amount(quanta=quanta, asset=USD),
                    rail="bank",
                    reference=f"payment {number}",
                    actor="stress",
                )
                for ledger in stress.ledgers
            )
        )
        if len({item.fact_id for item in posted}) != 1:
            raise BrokenLawError(Law.FACT_ONCE, f"payment {number} has several facts")
        bank = await stress.ledgers[0].account(PLATFORM_ID, "safeguarded")
        stress.tally.debits[bank] += quanta
        stress.tally.credits[stress.cash[buyer]] += quanta


async def pay_out(stress: Stress, rounds: int) -> None:
    """
    Pay the supplier from several processes at once, each all that is owed: one is done.
    """
    own_funds = await stress.ledgers[0].account(PLATFORM_ID, "own_funds")
    payable = await stress.ledgers[0].account(stress.supplier, "supplier_payable")
    for number in range(rounds):
        (balance,) = [
            b
            for b in await stress.ledgers[0].balances(stress.supplier)
            if b.purpose == "supplier_payable"
        ]
        if balance.balance > 0:
            paid = await asyncio.gather(
                *(
                    ledger.payout(
                        party_id=stress.supplier,
                        purpose="supplier_payable",
                        amount=Amount(quanta=balance.balance, asset=USD),
                        rail="bank",
                        reference=f"payout {number}",
                        actor="stress",
                    )
                    for ledger in stress.ledgers
                ),
                return_exceptions=True,
            )
            wrong = [p for p in paid if isinstance(p, Exception)]
            if wrong and not isinstance(wrong[0], TokenworksError):
                raise wrong[0]
            if len(wrong) < len(paid):
                stress.tally.debits[payable] += balance.balance
                stress.tally.credits[own_funds] += balance.balance
        await asyncio.sleep(0)


async def freeze(stress: Stress, rounds: int) -> None:
    """
    Freeze and thaw a buyer: from the answer on, no process holds anything on its path.
    """
    for _ in range(rounds):
        buyer = stress.random.randrange(BUYERS)
        ledger = stress.random.choice(stress.ledgers)
        await ledger.set_scope_state(stress.buyers[buyer], "frozen")
        stress.frozen[stress.paths[buyer]] = True
        for _ in range(stress.random.randint(1, 5)):
            await asyncio.sleep(0)
        stress.frozen[stress.paths[buyer]] = False
        await ledger.set_scope_state(stress.buyers[buyer], "active")


async def change_limits(stress: Stress, rounds: int) -> None:
    """
    Raise and lower a limit while it is being spent.
    """
    for _ in range(rounds):
        buyer = stress.random.randrange(BUYERS)
        ledger = stress.random.choice(stress.ledgers)
        await ledger.set_limit(
            scope_id=stress.buyers[buyer],
            asset=LIMIT_USD,
            quanta=stress.random.choice((500, 5_000, 50_000)),
            window="month",
            actor="stress",
        )


async def cut_connections(stress: Stress, rounds: int) -> None:
    """
    Cut the connection of a writer in the middle of whatever it does.
    """
    for _ in range(rounds):
        for _ in range(40):
            await asyncio.sleep(0)
        await stress.connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = "
            "current_database() AND application_name = 'tokenworks ledger writer' "
            "ORDER BY random() LIMIT 1"
        )


Task = Callable[[Stress, int], Awaitable[None]]
TASKS: Sequence[tuple[Task, float]] = (
    *[(spend, 1.0)] * SPENDERS,
    (pay_in, 0.5),
    (pay_out, 0.2),
    (freeze, 0.3),
    (change_limits, 0.3),
    (cut_connections, 0.08),
)
"""What runs at once, and how many rounds of it for each round of spending."""


# ---------------------------------------------------------------------- judging


async def judge(stress: Stress) -> None:
    """
    Compare the books with the sums of what was acknowledged.
    """
    await _judge_deadlocks(stress)
    await _judge_lanes(stress)
    await _judge_counters(stress)
    cursor = await stress.connection.execute(
        "SELECT count(*) FROM ledger.holds WHERE state = 'open'"
    )
    row = await cursor.fetchone()
    if row is None or row[0]:
        raise BrokenLawError(Law.HOLD_ONCE, f"{row and row[0]} holds are still open")
    report = await check_books(stress.dsn, clock=SystemClock())
    if report.problems:
        raise BrokenLawError(Law.BOOKS, str([str(p) for p in report.problems[:3]]))


async def _judge_deadlocks(stress: Stress) -> None:
    await stress.connection.execute("SELECT pg_stat_force_next_flush()")
    cursor = await stress.connection.execute(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    )
    row = await cursor.fetchone()
    if row is None or row[0]:
        raise BrokenLawError(Law.LOCK_ORDER, f"{row and row[0]} deadlocks")


async def _judge_lanes(stress: Stress) -> None:
    lanes = [writer.lane for writer in stress.writers]
    if len(set(lanes)) != len(lanes):
        raise BrokenLawError(Law.CHAIN, f"writers hold lanes {lanes}")


async def _judge_counters(stress: Stress) -> None:
    cursor = await stress.connection.execute(
        "SELECT coalesce(a.main_account_id, a.account_id), a.purpose, sum(b.debits_pending), "
        "sum(b.debits_posted), sum(b.credits_posted), bool_or(b.no_overdraft AND "
        "b.credits_posted < b.debits_posted + b.debits_pending) "
        "FROM ledger.balances AS b JOIN ledger.accounts AS a USING (account_id) GROUP BY 1, 2"
    )
    short: list[int] = []
    sums: dict[int, tuple[str, int, int, int]] = {}
    for number, purpose, pending, debits, credits, is_short in await cursor.fetchall():
        sums[number] = (purpose, int(pending), int(debits), int(credits))
        if is_short:
            short.append(number)
    if short:
        raise BrokenLawError(Law.AVAILABLE, f"accounts below zero: {short}")
    await _judge_sums(stress, sums)


async def _judge_sums(stress: Stress, sums: dict[int, tuple[str, int, int, int]]) -> None:
    tally, swept = stress.tally, await _swept(stress)
    for number, (purpose, pending, debits, credits) in sums.items():
        if purpose in {"limit_source", "limit_available"}:
            continue  # grants and what lowered limits gave back: `check_books` adds these up
        more = swept[number]
        found = (pending, debits, credits)
        meant = (tally.pending[number], tally.debits[number] + more, tally.credits[number] + more)
        if found != meant:
            message = f"{purpose} {number}: {found} in the books, {meant} acknowledged"
            raise BrokenLawError(Law.DURABLE, message)


async def _swept(stress: Stress) -> defaultdict[int, int]:
    """
    Return what payouts moved from shares to their main account.
    """
    cursor = await stress.connection.execute(
        "SELECT coalesce(a.main_account_id, a.account_id), sum(t.amount) "
        "FROM ledger.transfers AS t JOIN ledger.accounts AS a ON a.account_id = t.debit_account "
        "WHERE t.credit_account = a.main_account_id GROUP BY 1"
    )
    found: defaultdict[int, int] = defaultdict(int)
    for number, quanta in await cursor.fetchall():
        found[number] = int(quanta)
    return found


# ---------------------------------------------------------------------- running


@contextlib.asynccontextmanager
async def open_stress(dsn: str, seed: int, *, writers: int = WRITERS) -> AsyncGenerator[Stress]:
    """
    Open several writers with ledgers of their own, and a few buyers.
    """
    clock = SystemClock()
    ids = IdentifierSource(clock)
    async with contextlib.AsyncExitStack() as stack:
        connection = await stack.enter_async_context(
            await psycopg.AsyncConnection.connect(dsn, autocommit=True)
        )
        opened: list[tuple[Ledger, Writer]] = []
        for number in range(writers):
            pool: Pool = await open_pool(dsn, name=f"stress {number}", size_max=4)
            stack.push_async_callback(pool.close)
            writer = Writer(dsn, clock=clock, holder=f"stress {number}")
            await writer.start()
            stack.push_async_callback(writer.close)
            opened.append((Ledger(writer, pool, clock=clock, ids=ids), writer))
        stress = Stress(
            dsn=dsn,
            random=Random(seed),
            ids=ids,
            ledgers=[ledger for ledger, _ in opened],
            writers=[writer for _, writer in opened],
            connection=connection,
        )
        await _judge_lanes(stress)
        await _open_business(stress)
        yield stress


async def _open_business(stress: Stress) -> None:
    ledger = stress.ledgers[0]
    await ledger.prepare()
    stress.supplier = stress.ids.mint()
    await ledger.open_party(stress.supplier, "supplier")
    bank = await ledger.account(PLATFORM_ID, "safeguarded")
    for number in range(BUYERS):
        buyer, path = stress.ids.mint(), stress.ids.mint()
        await ledger.open_party(buyer, "buyer")
        for scope in (buyer, path):
            await ledger.open_scope(scope)
        await ledger.publish_path(path_id=path, scope_ids=[buyer, path], funding_party_id=buyer)
        await ledger.set_limit(
            scope_id=buyer, asset=LIMIT_USD, quanta=50_000, window="month", actor="stress"
        )
        await ledger.set_limit(
            scope_id=path, asset=LIMIT_TOKENS, quanta=400, window="ever", actor="stress"
        )
        await ledger.deposit(
            party_id=buyer,
            amount=Amount(quanta=FUNDS, asset=USD),
            rail="bank",
            reference=f"opening {number}",
            actor="stress",
        )
        stress.buyers.append(buyer)
        stress.paths.append(path)
        stress.cash.append(await ledger.account(buyer, "cash"))
        stress.tally.debits[bank] += FUNDS
        stress.tally.credits[stress.cash[-1]] += FUNDS


def run_stress(dsn: str, *, seed: int, rounds: int) -> Tally:
    """
    Let everything race for some rounds, then judge.

    Raises:
        BrokenLawError: The books are not what was acknowledged.
    """

    async def run() -> Tally:
        async with open_stress(dsn, seed) as stress:
            async with asyncio.TaskGroup() as group:
                for work, share in TASKS:
                    group.create_task(_run(work, stress, max(1, int(rounds * share))))
            await judge(stress)
            return stress.tally

    with quiet_logs(), patient_hub():
        try:
            return asyncio.run(run())
        except* BrokenLawError as broken:
            raise broken.exceptions[0] from None


async def _run(work: Task, stress: Stress, rounds: int) -> None:
    await work(stress, rounds)


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the stress by hand: `make stress SEED=3 ROUNDS=500`; 0 sound, 1 a law broken, 2 no database.
    """
    parser = argparse.ArgumentParser(prog="stress", description="Let writers race.")
    parser.add_argument("--seed", type=int, default=1, help="of what each task wishes")
    parser.add_argument("--seeds", type=int, default=1, help="how many, one after the other")
    parser.add_argument("--rounds", type=int, default=200, help="of each of the spenders")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    options = parser.parse_args(arguments)
    started_s = time.monotonic()
    try:
        with open_server() as open_database:
            operations, failure = _run_seeds(open_database, options)
    except NO_DATABASE as error:
        print(f"stress: no database to run on: {error}", file=sys.stderr)
        return 2
    seconds = time.monotonic() - started_s
    if options.json:
        summary = {"operations": operations, "seconds": round(seconds, 1), "failure": failure}
        print(json.dumps(summary, indent=2))
    else:
        verdict = (
            "every law held" if failure is None else f"seed {failure['seed']}: {failure['said']}"
        )
        print(f"{operations} operations by {WRITERS} writers in {seconds:.1f} s: {verdict}")
    return 0 if failure is None else 1


def _run_seeds(
    open_database: OpenDatabase, options: argparse.Namespace
) -> tuple[int, dict[str, object] | None]:
    operations = 0
    for seed in range(options.seed, options.seed + options.seeds):
        with open_database() as dsn:
            try:
                operations += run_stress(dsn, seed=seed, rounds=options.rounds).operations
            except BrokenLawError as broken:
                law = broken.law.name.lower()
                return operations, {"seed": seed, "law": law, "said": str(broken)}
    return operations, None


if __name__ == "__main__":
    sys.exit(main())
