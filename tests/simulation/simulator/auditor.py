"""
Watch every batch that a hub's writers send, and keep the same books naively beside it.

The auditor stands between a writer and the database. Each batch goes to the real functions
first; then the naive ledger decides the same operations one by one, and every answer has to be
its answer. What was moved is kept until the simulation has said what it meant to move.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import TypeVar
from uuid import UUID

import psycopg

from tests.simulation.naive_ledger import Account, NaiveLedger, Path, Result
from tests.simulation.simulator.failing_commits import failing_commits
from tests.simulation.simulator.laws import BrokenLawError, Law, law_of_codes
from tests.simulation.simulator.naive_windows import NaiveLimit, NaiveLimits, NaiveWindow
from tokenworks.foundation.clock import Clock
from tokenworks.ledger.model import NO_ACCOUNT, Outcome, Placement, Posting, PostingKind, Transfer
from tokenworks.ledger.service import Ledger
from tokenworks.ledger.writer import Writer
from tokenworks.postgres.pool import Connection

PAYABLES = frozenset(
    {"supplier_payable", "power_payable", "rights_payable", "reseller_payable", "tax_payable"}
)
LANED = PAYABLES | {
    "platform_revenue",
    "purchases",
    "safeguarded",
    "own_funds",
    "limit_source",
    "limit_spent",
}
ROLES = {"cash": 1, "safeguarded": 2}
PLATFORM = UUID(int=1)
BEFORE_EVERYTHING = datetime.min.replace(tzinfo=UTC)
Operation = Placement | Posting
Kind = TypeVar("Kind", Placement, Posting)
LimitTerms = tuple[int, str, int]
"""Of a limit: asset, kind of window, quanta."""
Name = tuple[UUID, str, int]
"""An account, lanes aside: whose, what for, of which asset."""


@dataclass(frozen=True)
class Move:
    """
    One movement that the ledger has recorded.
    """

    fact: UUID
    kind: str
    debit: Name
    credit: Name
    quanta: int


@dataclass(frozen=True)
class Answered:
    """
    One operation, the real answer and the naive one.
    """

    wish: Operation
    outcome: Outcome
    expected: Result


@dataclass
class Auditor:
    """
    The naive books of a whole hub.
    """

    clock: Clock
    connection: Connection
    naive: NaiveLedger
    limits: NaiveLimits = field(default_factory=NaiveLimits)
    names: dict[int, Name] = field(default_factory=dict[int, Name])
    shares: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    """(main account, lane) -> that lane's share."""
    mains: dict[int, int] = field(default_factory=dict[int, int])
    scope_expiries: dict[UUID, datetime] = field(default_factory=dict[UUID, datetime])
    scope_states: dict[UUID, str] = field(default_factory=dict[UUID, str])
    awaited: dict[UUID, Counter[LimitTerms]] = field(
        default_factory=dict[UUID, "Counter[LimitTerms]"]
    )
    """Scopes that are opened with limits, and with which; ``learn_limits`` compares."""
    lose_next: str | None = None
    """
    ``request``: the next batch does not arrive; ``answer``: its answer does not; ``commit``: the
    database fails when it commits.
    """
    on_breach: Callable[[], object] = lambda: None
    """Called at the first answer that breaks a law: nothing after it can be trusted."""
    answered: list[Answered] = field(default_factory=list[Answered])
    moves: list[Move] = field(default_factory=list[Move])
    breaches: list[BrokenLawError] = field(default_factory=list[BrokenLawError])
    operations: int = 0
    last_time: datetime = BEFORE_EVERYTHING
    """Of the last batch that recorded anything."""
    journal: list[tuple[date, Name, Name, int]] = field(
        default_factory=list[tuple[date, Name, Name, int]]
    )
    """Everything that was moved, with the date it counts in."""
    booked: set[date] = field(default_factory=set[date])
    """Dates that anything was booked on, or counts in."""
    _last_account: int = 0
    _last_window: int = 0

    # ------------------------------------------------------------------ standing between

    def attach(self, writer: Writer) -> None:
        """
        Stand between a writer and the database.
        """
        batches = writer._batches
        place, post = batches.place, batches.post

        async def run_placements(batch: Sequence[Placement]) -> list[Outcome]:
            return await self._watch(batch, place, writer.lane, self._decide_placements)

        async def run_postings(batch: Sequence[Posting]) -> list[Outcome]:
            return await self._watch(batch, post, writer.lane, self._decide_postings)

        vars(batches)["place"] = run_placements
        vars(batches)["post"] = run_postings

    def follow(self, ledger: Ledger) -> None:
        """
        Learn which accounts a ledger freezes and thaws; whether it should is judged elsewhere.
        """
        accounts = ledger._accounts
        change = accounts.set_state

        async def set_state(account_id: int, state: str, connection: Connection) -> None:
            await change(account_id, state, connection)
            await self.learn_accounts()
            for number, main in self.mains.items():
                if main == account_id:
                    self.naive.accounts[number].state = state

        vars(accounts)["set_state"] = set_state

    async def _watch(
        self,
        batch: Sequence[Kind],
        run: Callable[[Sequence[Kind]], Awaitable[list[Outcome]]],
        lane: int,
        decide: Callable[[Sequence[Kind], int], Awaitable[list[Result]]],
    ) -> list[Outcome]:
        facts = Counter(_fact(wish) for wish in batch)
        self._note(
            max(facts.values()) == 1, Law.ONE_FACT_A_BATCH, "one fact stands twice in a batch"
        )
        lost, self.lose_next = self.lose_next, None
        if lost == "request":
            raise psycopg.OperationalError("SIMULATED: the request was lost")
        async with failing_commits(self.connection, is_wished=lost == "commit"):
            outcomes = await run(batch)
        if lost == "commit":
            await self._require_recorded(batch, outcomes)
        self.operations += len(batch)
        # Ledger time never runs backwards, whatever the clock does: it stands still instead.
        self.naive.now = max(self.clock.now(), self.last_time)
        decided = await decide(batch, lane)
        if any(result.code == "ok" for result in decided):
            self.last_time = self.naive.now
        for wish, outcome, expected in zip(batch, outcomes, decided, strict=True):
            self._compare(wish, outcome, expected)
            self.answered.append(Answered(wish, outcome, expected))
            self._note_moves(wish, expected)
        if lost == "answer":
            raise psycopg.OperationalError("SIMULATED: the answer was lost")
        return outcomes

    async def _require_recorded(
        self, batch: Sequence[Operation], outcomes: Sequence[Outcome]
    ) -> None:
        for wish, outcome in zip(batch, outcomes, strict=True):
            if outcome.code == "ok":
                cursor = await self.connection.execute(
                    "SELECT FROM ledger.entries WHERE fact_id = %s AND operation = %s",
                    (_fact(wish), _kind(wish)),
                )
                is_there = await cursor.fetchone() is not None
                self._note(is_there, Law.DURABLE, f"{_title(wish)}: acknowledged, not recorded")

    async def _decide_placements(self, batch: Sequence[Placement], lane: int) -> list[Result]:
        named = {n.account_id for wish in batch for n in wish.reservations if n.account_id}
        await self._meet(named | {wish.payee_account or NO_ACCOUNT for wish in batch})
        await self._open_windows(batch, lane)
        self._stop_scopes()
        results: list[Result] = []
        for wish in batch:
            path = self.naive.paths.get((wish.path_id or UUID(int=0), wish.path_version or 0))
            if path is not None:
                path.limits = self.limits.accounts(path.scopes, self.naive.now)
            results.append(self.naive.place(wish))
        return results

    async def _decide_postings(self, batch: Sequence[Posting], lane: int) -> list[Result]:
        named = {n for w in batch for t in w.transfers for n in (t.debit, t.credit, t.fallback)}
        await self._meet(named, lane=lane)
        return [self.naive.post(self._in_lane(wish, lane)) for wish in batch]

    def _in_lane(self, wish: Posting, lane: int) -> Posting:
        """
        Return a posting with each laned account replaced by the lane's share of it.
        """
        if wish.is_exact:
            return wish

        def share(number: int) -> int:
            return self.shares.get((number, lane), number)

        posting = Posting(
            kind=wish.kind,
            fact_id=wish.fact_id,
            transfers=tuple(
                Transfer(
                    debit=share(t.debit),
                    credit=share(t.credit),
                    quanta=t.quanta,
                    fallback=share(t.fallback),
                )
                for t in wish.transfers
            ),
            ordinal=wish.ordinal,
            closes=wish.closes,
            deadline=wish.deadline,
            meta=wish.meta,
            accounting_date=wish.accounting_date,
        )
        # What tells a repeat from a contradiction is what the caller asked, not the lane.
        posting.__dict__["content"] = wish.content
        return posting

    def _compare(self, wish: Operation, outcome: Outcome, expected: Result) -> None:
        said = f"{_title(wish)}: answered {outcome.code}, naively {expected.code}"
        short = expected.refused_account or outcome.refused_account
        is_window = short is not None and self.names[short][1] == "limit_available"
        law = law_of_codes(expected.code, outcome.code)
        law = Law.LIMITED if is_window and law is Law.AVAILABLE else law
        self._note(outcome.code == expected.code, law, said)
        pairs = (
            ("overrun", outcome.overrun, expected.overrun, Law.OVERRUN),
            ("account", outcome.refused_account, expected.refused_account, Law.REFUSAL),
        )
        for what, found, naive, law in pairs:
            self._note(found == naive, law, f"{said}; {what} {found}, naively {naive}")
        if expected.code == "insufficient" or (expected.code == "ok" and isinstance(wish, Posting)):
            available = expected.available
            self._note(
                outcome.available == available,
                Law.WINDOW if is_window else Law.AVAILABLE,
                f"{said}; {outcome.available} available, naively {available}",
            )
        if outcome.is_done and expected.code in {"ok", "replayed"}:
            self._note(
                outcome.recorded_at == expected.recorded_at,
                Law.FACT_ONCE,
                f"{said}; recorded at {outcome.recorded_at}, naively {expected.recorded_at}",
            )
            if isinstance(wish, Placement):
                held = self.naive.holds[wish.hold_id].held
                parts = {part.account_id: part.quanta for part in outcome.parts}
                uncounted = {self.names[n][1] for n in held.keys() - parts.keys()}
                law = Law.LIMITED if "limit_available" in uncounted else Law.HOLD_ONCE
                self._note(parts == held, law, f"{said}; held {parts}, naively {held}")

    def _note(self, is_lawful: bool, law: Law, message: str) -> None:
        if not is_lawful:
            self.breaches.append(BrokenLawError(law, message))
            self.on_breach()

    def _note_moves(self, wish: Operation, result: Result) -> None:
        if result.code == "ok":
            self.booked.add(self.naive.now.date())
        dated = wish.accounting_date if isinstance(wish, Posting) else None
        day = dated or self.naive.now.date()
        for debit, credit, quanta in result.moves:
            self.moves.append(
                Move(_fact(wish), _kind(wish), self.names[debit], self.names[credit], quanta)
            )
            self.journal.append((day, self.names[debit], self.names[credit], quanta))
            self.booked.add(day)

    def ledger_now(self) -> datetime:
        """
        Return what ledger time would be now.
        """
        return max(self.clock.now(), self.last_time)

    # ------------------------------------------------------------------ meeting accounts

    async def _meet(self, numbers: set[int], *, lane: int = 0) -> None:
        """
        Learn of accounts that were opened since; what kind they are follows from their purpose.
        """
        unshared = {n for n in numbers if self._is_laned(n) and (n, lane) not in self.shares}
        if numbers - self.naive.accounts.keys() - {NO_ACCOUNT} or (lane and unshared):
            await self.learn_accounts()

    def _is_laned(self, number: int) -> bool:
        return self.mains.get(number) == number and self.names[number][1] in LANED

    async def learn_accounts(self) -> None:
        """
        Read which accounts were opened.
        """
        cursor = await self.connection.execute(
            "SELECT account_id, party_id, purpose, asset_id, lane, main_account_id, opened_at "
            "FROM ledger.accounts WHERE account_id > %s ORDER BY account_id",
            (self._last_account,),
        )
        for number, party, purpose, asset, lane, main, _ in await cursor.fetchall():
            self._last_account = number
            self.names[number] = (party, purpose, asset)
            self.mains[number] = main or number
            is_bounded = purpose in {"cash", "limit_available"} or purpose in PAYABLES
            self.naive.accounts[number] = Account(
                asset=asset, is_bounded=is_bounded and main is None, role=ROLES.get(purpose, 0)
            )
            if main is not None:
                self.shares[main, lane] = number
                self.naive.accounts[number].state = self.naive.accounts[main].state

    async def number(self, name: Name) -> int:
        """
        Return the main account of a name.
        """
        await self.learn_accounts()
        return next(n for n, known in self.names.items() if known == name and self.mains[n] == n)

    def main(self, name: Name) -> Account:
        """
        Return the naive account of a name, the main one where there are lanes.
        """
        return next(
            self.naive.accounts[n]
            for n, known in self.names.items()
            if known == name and self.mains[n] == n
        )

    # ------------------------------------------------------------------ limits and scopes

    async def learn_limits(self) -> None:
        """
        Read the limits of scopes that were opened with some; they have to be those.
        """
        if not self.awaited:
            return
        cursor = await self.connection.execute(
            "SELECT scope_id, limit_id, asset_id, window_kind, quanta, time_zone, opened_at "
            "FROM ledger.limits WHERE scope_id = ANY (%s) ORDER BY limit_id",
            (list(self.awaited),),
        )
        found: dict[UUID, Counter[LimitTerms]] = {}
        for scope, limit_id, asset, kind, quanta, zone, opened_at in await cursor.fetchall():
            found.setdefault(scope, Counter())[asset, kind, quanta] += 1
            self.limits.limits[limit_id] = NaiveLimit(
                limit_id, scope, asset, quanta, kind, zone, opened_at
            )
        for scope, limits in found.items():
            meant = self.awaited.pop(scope)
            self._note(limits == meant, Law.LIMITED, f"limits {limits}, naively {meant}")

    async def _open_windows(self, batch: Sequence[Placement], lane: int) -> None:
        await self.learn_limits()
        scopes: set[UUID] = set()
        for wish in batch:
            if not wish.extension and wish.path_id is not None:
                path = self.naive.paths.get((wish.path_id, wish.path_version or 0))
                scopes |= set(path.scopes if path else [])
        needed = self.limits.needed(sorted(scopes), self.naive.now)
        fresh = needed - self.limits.windows.keys()
        if not fresh:
            return
        await self.learn_accounts()
        cursor = await self.connection.execute(
            "SELECT limit_id, window_start, account_id FROM ledger.limit_windows "
            "WHERE account_id > %s ORDER BY account_id",
            (self._last_window,),
        )
        opened = {(row[0], row[1]): int(row[2]) for row in await cursor.fetchall()}
        self._note(
            opened.keys() == fresh,
            Law.WINDOW,
            f"opened windows {_shown(opened)}, naively {_shown(fresh)}",
        )
        for window, account in opened.items():
            self._last_window = account
            self._grant(window, account, lane)

    def _grant(self, window: tuple[int, datetime], account: int, lane: int) -> None:
        limit = self.limits.limits[window[0]]
        self.limits.windows[window] = NaiveWindow(account, limit.quanta, limit.quanta)
        if not limit.quanta:
            return
        source = next(
            n
            for n, name in self.names.items()
            if name == (PLATFORM, "limit_source", limit.asset) and self.mains[n] == n
        )
        self.last_time = self.naive.now
        self.booked.add(self.naive.now.date())
        self.journal.append(
            (self.naive.now.date(), self.names[source], self.names[account], limit.quanta)
        )
        self.naive.accounts[account].credits += limit.quanta
        self.naive.accounts[self.shares[source, lane]].debits += limit.quanta

    def _stop_scopes(self) -> None:
        expired = {s: "closed" for s, at in self.scope_expiries.items() if at <= self.naive.now}
        stopped = {s: state for s, state in self.scope_states.items() if state != "active"}
        self.naive.stopped = expired | stopped

    def publish(self, path_id: UUID, version: int, scopes: list[UUID], funding: int) -> None:
        """
        Note the current version of a spend path.
        """
        for (known, _), path in self.naive.paths.items():
            if known == path_id:
                path.is_current = False
        self.naive.paths[path_id, version] = Path(scopes=scopes, funding=[funding], limits=[])

    # ------------------------------------------------------------------ what was meant

    def take_moves(self) -> list[Move]:
        """
        Return what was moved since the last time.
        """
        moves, self.moves = self.moves, []
        return moves

    def take_answers(self) -> list[Answered]:
        """
        Return what was answered since the last time.
        """
        answered, self.answered = self.answered, []
        return answered

    def raise_breach(self) -> None:
        """
        Raise the first breach of a law, if there is one.
        """
        if self.breaches:
            raise self.breaches[0]


def tally(moves: Iterable[Move]) -> Counter[tuple[Name, Name]]:
    """
    Return how much went from whom to whom.
    """
    total: Counter[tuple[Name, Name]] = Counter()
    for move in moves:
        total[move.debit, move.credit] += move.quanta
    return total


def _fact(wish: Operation) -> UUID:
    return wish.hold_id if isinstance(wish, Placement) else wish.fact_id


def _kind(wish: Operation) -> str:
    return wish.operation if isinstance(wish, Placement) else wish.kind.value


def _title(wish: Operation) -> str:
    ordinal = wish.extension if isinstance(wish, Placement) else wish.ordinal
    return f"{_kind(wish)} {str(_fact(wish))[-6:]}/{ordinal}"


def _shown(windows: Iterable[tuple[int, datetime]]) -> str:
    return str(sorted(f"{limit}@{start.isoformat()}" for limit, start in windows))


__all__ = ["Answered", "Auditor", "Move", "Name", "PostingKind", "tally"]
