"""
The ledger's laws as slow and simple as they can be said: one operation after the other.

Shares no code with the real one. Lanes do not exist here; an account is its sum over lanes.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from fractions import Fraction
from uuid import UUID

from tokenworks.foundation.identifiers import identifier_floor
from tokenworks.ledger.model import NO_ACCOUNT, Placement, Posting, Transfer

CLIENT_MONEY = 1
SAFEGUARD = 2
QUANTA_MAX = 2**62
SPENDABLE = frozenset({1, 2, 11, 12})  # money and limits of money


@dataclass
class Account:
    """
    One account, lanes summed.
    """

    asset: int
    is_bounded: bool
    role: int = 0
    state: str = "active"
    pending: int = 0
    debits: int = 0
    credits: int = 0

    @property
    def available(self) -> int:
        """
        Return what may still be taken.
        """
        return self.credits - self.debits - self.pending

    @property
    def is_short(self) -> bool:
        """
        Return whether a bound is broken.
        """
        return self.is_bounded and self.available < 0


@dataclass
class Hold:
    """
    Parts by account: what was held, and what of it was captured.
    """

    expires_at: datetime
    fate: str
    payee: int | None
    path: tuple[UUID, int] | None
    held: dict[int, int]
    captured: dict[int, int]
    state: str = "open"

    def left(self, account_id: int) -> int:
        """
        Return what of one part was not captured yet.
        """
        return self.held[account_id] - self.captured[account_id]


@dataclass
class Path:
    """
    One version of a spend path, with the window account of each limit, root first.
    """

    scopes: list[UUID]
    funding: list[int]
    limits: list[tuple[UUID, int]]
    is_current: bool = True


@dataclass
class Result:
    """
    What the real ledger has to answer too.
    """

    code: str
    refused_account: int | None = None
    available: int | None = None
    overrun: int = 0
    moves: tuple[tuple[int, int, int], ...] = ()
    """What was moved: (debited account, credited account, quanta)."""
    recorded_at: datetime | None = None


@dataclass
class NaiveLedger:
    """
    Accounts, holds and facts in dictionaries.
    """

    now: datetime
    accounts: dict[int, Account] = field(default_factory=dict[int, Account])
    holds: dict[UUID, Hold] = field(default_factory=dict[UUID, Hold])
    paths: dict[tuple[UUID, int], Path] = field(default_factory=dict[tuple[UUID, int], Path])
    stopped: dict[UUID, str] = field(default_factory=dict[UUID, str])
    facts: dict[tuple[UUID, str, int], tuple[bytes, Result]] = field(
        default_factory=dict[tuple[UUID, str, int], tuple[bytes, Result]]
    )
    closed_through: date | None = None
    """The last accounting date that takes no more entries."""

    # ------------------------------------------------------------------ holds

    def place(self, wish: Placement) -> Result:
        """
        Place or extend one hold.
        """
        fact = (wish.hold_id, wish.operation, wish.extension)
        result = self._known(fact, wish.content) or self._place(wish)
        if result.code == "ok":
            result.recorded_at = self.now
            self.facts[fact] = (wish.content, result)
        return result

    def _known(self, fact: tuple[UUID, str, int], content: bytes) -> Result | None:
        if fact not in self.facts:
            return None
        stored, result = self.facts[fact]
        if stored != content:
            return Result("conflict")
        return Result("replayed", overrun=result.overrun, recorded_at=result.recorded_at)

    def _place(self, wish: Placement) -> Result:
        hold = self.holds.get(wish.hold_id)
        code = self._placement_stopped(wish, hold)
        if code:
            return Result(code)
        parts = self._parts(wish, hold)
        if isinstance(parts, str):
            return Result(parts)
        if any(quanta > QUANTA_MAX for quanta in parts.values()):
            return Result("amount_invalid")
        if any(self.accounts[account].state != "active" for account in parts):
            return Result("account_frozen")
        short = [
            (Fraction(self.accounts[account].available, quanta), index, account)
            for index, (account, quanta) in enumerate(parts.items())
            if self.accounts[account].is_bounded and self.accounts[account].available < quanta
        ]
        if short:
            account = min(short)[2]
            return Result("insufficient", account, self.accounts[account].available)
        if hold is None:
            hold = self.holds[wish.hold_id] = Hold(
                expires_at=wish.expires_at,
                fate=wish.fate.value,
                payee=wish.payee_account,
                path=self._path_of(wish),
                held={},
                captured={},
            )
        for account, quanta in parts.items():
            self.accounts[account].pending += quanta
            hold.held[account] = hold.held.get(account, 0) + quanta
            hold.captured.setdefault(account, 0)
        hold.expires_at = max(hold.expires_at, wish.expires_at)
        return Result("ok")

    def _path_of(self, wish: Placement) -> tuple[UUID, int] | None:
        return None if wish.path_id is None else (wish.path_id, wish.path_version or 0)

    def _placement_stopped(self, wish: Placement, hold: Hold | None) -> str | None:
        if wish.deadline < self.now:
            return "deadline_passed"
        is_new = not wish.extension
        if is_new and wish.hold_id > identifier_floor(self.now + timedelta(minutes=5)):
            return "id_outside_window"
        if not is_new and hold is None:
            return "hold_unknown"
        if not is_new and hold is not None and hold.state != "open":
            return "hold_closed"
        named = self._path_of(wish)
        if is_new and named is not None and named not in self.paths:
            return "spend_path_unknown"
        if is_new and named is not None and not self.paths[named].is_current:
            return "spend_path_stale"
        path = self.paths.get(named or (hold.path if hold else None) or (UUID(int=0), 0))
        if path is not None and (is_new or wish.reservations):
            states = {self.stopped[scope] for scope in path.scopes if scope in self.stopped}
            for state in ("frozen", "closed"):
                if state in states:
                    return f"scope_{state}"
        return None

    def _parts(self, wish: Placement, hold: Hold | None) -> dict[int, int] | str:
        """
        Return what each account has to give, or why it cannot be said.
        """
        path = self.paths.get(self._path_of(wish) or (UUID(int=0), 0))
        refusals: set[str] = set()
        # Money first, then the limits by asset, root first; of two as tight the first is named.
        found: list[tuple[tuple[int, int], int, int]] = []  # order, account, quanta
        for item in wish.reservations:
            if item.quanta < 0:
                refusals.add("amount_invalid")
            if item.quanta <= 0:
                continue
            if wish.extension and hold is not None:
                places = [
                    (place, account)
                    for place, account in enumerate(hold.held, start=1)
                    if self.accounts[account].asset == item.asset_id
                ]
                found += [((0, place), account, item.quanta) for place, account in places]
                if not places and item.asset_id < 10:
                    refusals.add("funding_account_missing")
            elif item.account_id is not None:
                account = self.accounts.get(item.account_id)
                if account is None:
                    refusals.add("account_unknown")
                elif account.asset != item.asset_id:
                    refusals.add("asset_mismatch")
                found.append(((0, 0), item.account_id, item.quanta))
            else:
                funding = path.funding if path else []
                paying = [a for a in funding if self.accounts[a].asset == item.asset_id]
                if not paying and item.asset_id < 10:
                    refusals.add("funding_account_missing")
                found += [((0, 0), account, item.quanta) for account in paying]
                for depth, scope in enumerate(path.scopes if path else [], start=1):
                    found += [
                        ((item.asset_id, depth), account, item.quanta)
                        for of, account in (path.limits if path else [])
                        if of == scope and self.accounts[account].asset == item.asset_id
                    ]
        if (
            not wish.extension
            and wish.fate.value == "capture"
            and (wish.payee_account not in self.accounts)
        ):
            refusals.add("account_unknown" if not refusals else "")
        for code in (
            "funding_account_missing",
            "account_unknown",
            "asset_mismatch",
            "amount_invalid",
        ):
            if code in refusals:
                return code
        parts: dict[int, int] = {}
        order: dict[int, tuple[int, int]] = {}
        for place, account, quanta in found:
            parts[account] = parts.get(account, 0) + quanta
            order[account] = min(place, order.get(account, place))
        return {a: parts[a] for a in sorted(parts, key=lambda a: (order[a], a))}

    # ------------------------------------------------------------------ entries

    def post(self, wish: Posting) -> Result:
        """
        Post an entry, or capture, void or expire a hold.
        """
        fact = (wish.fact_id, wish.kind.value, wish.ordinal)
        known = self._known(fact, wish.content)
        if known:
            return known
        before = self._touched(wish)
        result = self._post(wish)
        if result.code == "ok":
            result.recorded_at = self.now
            self.facts[fact] = (wish.content, result)
        else:
            accounts, holds = before
            if result.refused_account is not None:
                result.available = accounts[result.refused_account].available
            self.accounts.update(accounts)
            self.holds.update(holds)
        return result

    def _touched(self, wish: Posting) -> tuple[dict[int, Account], dict[UUID, Hold]]:
        """
        Return copies of every account and hold that a posting may change.
        """
        numbers = {n for t in wish.transfers for n in (t.debit, t.credit, t.fallback)}
        hold = self.holds.get(wish.fact_id)
        if hold is not None:
            numbers |= hold.held.keys() | {hold.payee or NO_ACCOUNT}
        accounts = {n: copy.copy(self.accounts[n]) for n in numbers if n in self.accounts}
        return accounts, {} if hold is None else {wish.fact_id: copy.deepcopy(hold)}

    def _post(self, wish: Posting) -> Result:
        if wish.deadline is not None and wish.deadline < self.now:
            return Result("deadline_passed")
        closed, named = self.closed_through, wish.accounting_date
        if closed is not None and named is not None and named <= closed:
            return Result("date_closed")
        kind = wish.kind.value
        hold = None if kind == "post" else self.holds.get(wish.fact_id)
        transfers = list(wish.transfers)
        if kind != "post":
            if hold is None:
                return Result("hold_unknown")
            if hold.state != "open":
                return Result("hold_closed")
        if kind == "expire" and hold is not None:
            if hold.expires_at > self.now:
                return Result("hold_not_due")
            if hold.fate == "wait":
                return Result("hold_waits")
            if hold.fate == "capture" and hold.payee is not None:
                transfers += [
                    Transfer(debit=account, credit=hold.payee, quanta=hold.left(account))
                    for account in hold.held
                    if hold.left(account)
                    and self.accounts[account].asset == self.accounts[hold.payee].asset
                ]
        for transfer in transfers:
            code = self._malformed(transfer, is_plain=kind == "post")
            if code:
                return Result(code)
        return self._move(wish, transfers, hold)

    def _malformed(self, transfer: Transfer, *, is_plain: bool) -> str | None:
        debit = self.accounts.get(transfer.debit)
        credit = self.accounts.get(transfer.credit)
        fallback = self.accounts.get(transfer.fallback)
        has_fallback = transfer.fallback != NO_ACCOUNT
        if debit is None or credit is None or (has_fallback and fallback is None):
            return "account_unknown"
        if debit.asset != credit.asset or (fallback and fallback.asset != credit.asset):
            return "asset_mismatch"
        if transfer.credit in {transfer.debit, transfer.fallback}:
            return "accounts_must_differ"
        if not 0 < transfer.quanta <= QUANTA_MAX:
            return "amount_invalid"
        if credit.state == "closed" or (is_plain and debit.state != "active"):
            return "account_frozen"
        return None

    def _growth(self, transfers: list[Transfer], hold: Hold) -> dict[int, int]:
        """
        Return by how much each part grows: all of them as needed, or none.
        """
        growth: dict[int, int] = {}
        for account in hold.held:
            wanted = sum(t.quanta for t in transfers if t.debit == account)
            growth[account] = max(0, wanted - hold.left(account))
        covered = all(
            not self.accounts[account].is_bounded or self.accounts[account].available >= quanta
            for account, quanta in growth.items()
            if quanta
        )
        return growth if covered else dict.fromkeys(growth, 0)

    def _move(self, wish: Posting, transfers: list[Transfer], hold: Hold | None) -> Result:
        kind = wish.kind.value
        start, _ = self._touched(wish)
        moves: list[tuple[int, int, int]] = []
        growth: dict[int, int] = {}
        if hold is not None and kind == "capture":
            growth = self._growth(transfers, hold)
            for account, quanta in growth.items():
                hold.held[account] += quanta
                self.accounts[account].pending += quanta
        overrun = short_client = 0
        watched: list[int] = []
        for transfer in transfers:
            debit, credit = self.accounts[transfer.debit], self.accounts[transfer.credit]
            has_fallback = transfer.fallback not in {NO_ACCOUNT, transfer.debit}
            quanta = transfer.quanta
            is_part = hold is not None and transfer.debit in hold.held
            if hold is not None and is_part:
                given = min(quanta, hold.left(transfer.debit))
                hold.captured[transfer.debit] += given
                debit.pending -= given
            elif has_fallback and debit.is_bounded and debit.available < quanta:
                given = max(debit.available, 0)
            else:
                if short_client and credit.role == SAFEGUARD:
                    cut = min(quanta, short_client)
                    quanta, short_client = quanta - cut, short_client - cut
                given = quanta
            if not is_part:
                watched.append(transfer.debit)
            debit.debits += given
            credit.credits += given
            if given:
                moves.append((transfer.debit, transfer.credit, given))
            rest = quanta - given
            if rest:
                overrun += rest if debit.asset < 10 else 0
                short_client += rest if debit.role == CLIENT_MONEY else 0
                if has_fallback:
                    self.accounts[transfer.fallback].debits += rest
                    credit.credits += rest
                    moves.append((transfer.fallback, transfer.credit, rest))
                    watched.append(transfer.fallback)
        short = next((a for a in watched if self.accounts[a].is_short), None)
        if short is not None:
            return Result("insufficient", short)
        if self._is_uncovered(start):
            return Result("client_money_unsafeguarded")
        left: int | None = None
        if hold is not None:
            self._end(wish, hold)
            left = self._spendable(hold)
        return Result("ok", available=left, overrun=overrun, moves=tuple(moves))

    def _spendable(self, hold: Hold) -> int | None:
        """
        Return what the spender may still spend: the tightest of its money and money limits.
        """
        parts = [self.accounts[number] for number in hold.held]
        tight = [a.available for a in parts if a.is_bounded and a.asset in SPENDABLE]
        return min(tight, default=None)

    def _is_uncovered(self, start: dict[int, Account]) -> bool:
        excess: dict[int, int] = {}
        for number, before in start.items():
            account = self.accounts[number]
            if account.role:
                change = account.credits - account.debits - before.credits + before.debits
                excess[account.asset] = excess.get(account.asset, 0) + change
        return any(value > 0 for value in excess.values())

    def _end(self, wish: Posting, hold: Hold) -> None:
        if wish.kind.value == "capture" and not wish.closes:
            return
        for account in hold.held:
            self.accounts[account].pending -= hold.left(account)
        hold.state = {"capture": "captured", "void": "voided", "expire": "expired"}[wish.kind.value]
