"""
Compare what the clients saw with the books, by SQL of its own on one read-only snapshot.

Laws (each finding begins with the name of one):
    * booked_once: every whole answer is one settled call with one capture, whose cash leg, row
      and answer name the same charge.
    * charged_once: of all calls that one idempotency key stood for at most one is charged and not
      refunded, and no call is charged that no key stands for.
    * settled_elsewhere: who was told ``call_already_settled`` was charged under that key.
    * ended: every key came to an end: an answer, or the word that it is charged.
    * money: deposits - charges = balance, and what is held is what open holds say.
    * holds: none is open past its expiry, the grace and the slack.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import psycopg

from tests.crash.sighting import Seen, Sighting

SCALE: Final = 10**9
"""Quanta of one US dollar."""
SUCCESSOR: Final = "\x01after:"
"""The name that the next call of a key takes when the call before it ended unpaid."""

CALLS: Final = "SELECT call_id::text, status, charge_quanta, refunded_quanta FROM gateway.calls"
CAPTURES: Final = """
SELECT fact_id::text, count(*) FROM ledger.entries WHERE operation = 'capture' GROUP BY fact_id
"""
PAID: Final = """
SELECT t.fact_id::text, sum(t.amount)
FROM ledger.transfers AS t
JOIN ledger.accounts AS a ON a.account_id = t.debit_account
WHERE t.operation = 'capture' AND a.purpose = 'cash'
GROUP BY t.fact_id
"""
DEPOSITED: Final = """
SELECT coalesce(sum(t.amount), 0)
FROM ledger.transfers AS t
JOIN ledger.accounts AS a ON a.account_id = t.credit_account
WHERE a.purpose = 'cash'
"""
BALANCE: Final = """
SELECT sum(b.credits_posted - b.debits_posted), sum(b.debits_pending)
FROM ledger.balances AS b
JOIN ledger.accounts AS a USING (account_id)
WHERE a.purpose = 'cash'
"""
KEYS: Final = "SELECT idempotency_key, call_id::text FROM gateway.idempotency_keys"
HELD: Final = """
SELECT coalesce(sum(part.held), 0)
FROM ledger.holds AS h
CROSS JOIN LATERAL unnest(h.part_accounts, h.part_held) AS part (account_id, held)
JOIN ledger.accounts AS a USING (account_id)
WHERE h.state = 'open' AND a.purpose = 'cash'
"""
LATE: Final = """
SELECT coalesce(max(extract(epoch FROM closed_at - expires_at)), 0)
FROM ledger.holds
WHERE state = 'expired'
"""
GIVEN_BACK: Final = """
SELECT count(*) FROM ledger.entries
WHERE operation = 'void' AND record::jsonb -> 'meta' ->> 'reason' = 'process_gone'
"""
OPEN_HOLDS: Final = """
SELECT hold_id::text, expires_at, clock_timestamp() FROM ledger.holds WHERE state = 'open'
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """
    What the database says, all of one moment; money in quanta.
    """

    charges: dict[str, int]  # of settled calls, by call id
    taken_back: frozenset[str]  # of these, whose whole charge was refunded: nobody got the answer
    unpaid: frozenset[str]  # calls that failed
    captures: dict[str, int]
    paid: dict[str, int]
    keys: dict[str, str]  # the call that took a name
    deposited: int
    balance: int
    pending: int
    held: int
    late_s_max: float  # from a hold's expiry until it was closed for that
    given_back: int  # holds, because their process was gone
    open_holds: list[tuple[str, datetime, datetime]]  # id, expiry, the database's clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """
    What was compared, and what is wrong.
    """

    findings: list[str]
    answers: int
    streams: int
    keys: int
    keys_retried: int
    keys_told_settled: int
    calls_settled: int
    calls_unpaid: int
    holds_given_back: int
    holds_ended_unpaid: int
    holds_open: int
    late_s_max: float
    charged: str


def read_books(dsn: str) -> Books:
    """
    Read everything on one snapshot.
    """
    with psycopg.connect(dsn, options="-c default_transaction_read_only=on") as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ

        def rows(query: str) -> list[tuple[Any, ...]]:
            return connection.execute(query.encode()).fetchall()

        calls = rows(CALLS)
        posted, pending = rows(BALANCE)[0]
        return Books(
            charges={row[0]: row[2] for row in calls if row[1] == "settled"},
            taken_back=frozenset(row[0] for row in calls if row[2] and row[2] == row[3]),
            unpaid=frozenset(row[0] for row in calls if row[1] != "settled"),
            captures=dict(rows(CAPTURES)),
            paid={row[0]: int(row[1]) for row in rows(PAID)},
            keys=dict(rows(KEYS)),
            deposited=int(rows(DEPOSITED)[0][0]),
            balance=int(posted),
            pending=int(pending),
            held=int(rows(HELD)[0][0]),
            late_s_max=float(rows(LATE)[0][0]),
            given_back=int(rows(GIVEN_BACK)[0][0]),
            open_holds=rows(OPEN_HOLDS),
        )


def audit(books: Books, sightings: Sequence[Sighting], *, slack: timedelta) -> Audit:
    """
    Compare; ``slack`` is what a hold may be open past its expiry.
    """
    calls_of = {seen.key: list(calls_of_key(books, seen.key)) for seen in sightings}
    findings = [
        *check_answers(books, sightings, calls_of),
        *check_keys(books, sightings, calls_of),
        *check_ends(sightings),
        *check_money(books),
        *check_holds(books, slack),
    ]
    answered = [seen for seen in sightings if seen.seen is Seen.ANSWERED]
    tries = Counter(seen.key for seen in sightings)
    claimed = {call_id for calls in calls_of.values() for call_id in calls}
    return Audit(
        findings=findings,
        answers=len(answered),
        streams=sum(seen.is_stream for seen in answered),
        keys=len(tries),
        keys_retried=sum(count > 1 for count in tries.values()),
        keys_told_settled=sum(seen.code == "call_already_settled" for seen in sightings),
        calls_settled=len(books.charges),
        calls_unpaid=len(books.unpaid),
        holds_given_back=books.given_back,
        holds_ended_unpaid=len(claimed - books.charges.keys() - books.unpaid),
        holds_open=len(books.open_holds),
        late_s_max=round(books.late_s_max, 1),
        charged=str(Decimal(sum(books.charges.values())) / SCALE),
    )


def calls_of_key(books: Books, key: str) -> Iterator[str]:
    """
    Yield every call that an idempotency key stood for, the first one first.
    """
    name = key
    while (call_id := books.keys.get(name)) is not None:
        yield call_id
        name = f"{SUCCESSOR}{call_id}"


def check_answers(
    books: Books, sightings: Sequence[Sighting], calls_of: dict[str, list[str]]
) -> Iterator[str]:
    """
    Every whole answer is in the books once, with its charge and under its key.
    """
    seen_before: set[str] = set()
    for seen in sightings:
        if seen.seen is not Seen.ANSWERED:
            continue
        call_id = seen.call_id or "(no call id)"
        if call_id in seen_before:
            yield f"booked_once: the call {call_id} was answered twice"
        seen_before.add(call_id)
        charge = int(Decimal(seen.charge or 0) * SCALE)
        booked = (books.charges.get(call_id), books.paid.get(call_id), books.captures.get(call_id))
        if booked != (charge, charge, 1):
            yield f"booked_once: {call_id} was answered for {charge}; row, cash, captures: {booked}"
        if call_id in books.taken_back:
            yield f"booked_once: {call_id} was answered and its charge taken back"
        if call_id not in calls_of[seen.key]:
            yield f"booked_once: {call_id} is not a call of its key {seen.key}"


def check_keys(
    books: Books, sightings: Sequence[Sighting], calls_of: dict[str, list[str]]
) -> Iterator[str]:
    """
    One key is charged at most once, and nothing is charged without a key.
    """
    explained: set[str] = set()
    for key, calls in calls_of.items():
        charged = [call_id for call_id in calls if call_id in books.charges]
        explained.update(charged)
        if len(set(charged) - books.taken_back) > 1:
            yield f"charged_once: the key {key} was charged for {charged}"
    for call_id in sorted(books.charges.keys() - explained):
        yield f"charged_once: {call_id} is charged and no client's key stands for it"
    for call_id, count in books.captures.items():
        if count != 1 or call_id not in books.charges:
            yield f"charged_once: {call_id} has {count} captures and {books.charges.get(call_id)}"
    for seen in sightings:
        if seen.code == "call_already_settled" and seen.call_id not in books.charges:
            yield f"settled_elsewhere: {seen.key} is said to be charged by {seen.call_id}"


def check_ends(sightings: Sequence[Sighting]) -> Iterator[str]:
    """
    Every key came to an end, and only once.
    """
    by_key: defaultdict[str, list[Sighting]] = defaultdict(list)
    for seen in sightings:
        by_key[seen.key].append(seen)
    for key, tries in by_key.items():
        ends = sum(seen.settles_key for seen in tries)
        if ends != 1:
            last = tries[-2:]
            yield f"ended: the key {key} has {ends} ends after {len(tries)} tries: {last}"


def check_money(books: Books) -> Iterator[str]:
    """
    What came in and was not charged is there, and only open holds hold.
    """
    expected = books.deposited - sum(books.charges.values())
    if books.balance != expected:
        yield f"money: {books.deposited} deposited, {expected} expected, {books.balance} there"
    if books.pending != books.held:
        yield f"money: {books.pending} pending, open holds hold {books.held}"


def check_holds(books: Books, slack: timedelta) -> Iterator[str]:
    """
    No hold outlives its expiry by more than the slack.
    """
    for hold_id, expires_at, now in books.open_holds:
        if now > expires_at + slack:
            yield f"holds: {hold_id} expired at {expires_at:%H:%M:%S} and is open at {now:%H:%M:%S}"
