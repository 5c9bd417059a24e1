"""
Rebuild a hold from its records alone; pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tokenworks.ledger.record import ENDINGS, Record

_PAID_BY: Final = frozenset({"cash"})
_STATES: Final = {"capture": "captured", "void": "voided", "expire": "expired"}


@dataclass(slots=True)
class CheckedAccount:
    """
    An account as the check finds it.
    """

    asset: str
    purpose: str
    is_bounded: bool
    money_role: int
    counters: tuple[int, int, int, int]  # debits, credits pending; debits, credits posted

    @property
    def available(self) -> int:
        """
        Return what it may still give.
        """
        pending, _, debits, credits = self.counters
        return credits - debits - pending


@dataclass(slots=True)
class HoldHistory:
    """
    A hold as its records tell it.
    """

    placed_at: int | None = None
    expires_at: int = 0
    fate: str | None = None
    state: str = "open"
    closed_at: int | None = None
    endings: int = 0
    held: dict[int, int] = field(default_factory=dict[int, int])
    captured: dict[int, int] = field(default_factory=dict[int, int])
    released: dict[int, int] = field(default_factory=dict[int, int])
    paid: int = 0  # from the buyer's cash or by the platform
    paid_by: dict[tuple[str, int], int] = field(default_factory=dict[tuple[str, int], int])
    """The same by operation and ordinal, of what took from the hold or ended it."""
    payments: set[tuple[str, int]] = field(default_factory=set[tuple[str, int]])
    """Those of them that say they are a payment's."""

    def add(self, record: Record, accounts: Mapping[int, CheckedAccount]) -> None:
        """
        Add what one record did; records of the placement and of extensions come first.
        """
        for account_id, quanta in record.parts:
            self.held[account_id] = self.held.get(account_id, 0) + quanta
            self.captured.setdefault(account_id, 0)
        if record.operation == "place":
            self.placed_at, self.fate = record.time, record.fate
        self.expires_at = max(self.expires_at, record.expires or 0)
        if record.operation in ENDINGS:
            self._end(record)
        paid = 0
        for debit, _, quanta in record.transfers:
            account = accounts.get(debit)
            if account is not None and account.purpose in _PAID_BY:
                paid += quanta
        self.paid += paid
        if record.operation in ENDINGS:
            key = (record.operation, record.ordinal)
            self.paid_by[key] = paid
            if record.kind == "payment":
                self.payments.add(key)

    def _end(self, record: Record) -> None:
        taken = dict(record.taken)
        debited: Counter[int] = Counter()
        for debit, _, quanta in record.transfers:
            debited[debit] += quanta
        # Captures may come before the records of the parts: only those that name one count.
        for account_id in set(taken) | (set(debited) & set(self.held)):
            # What was debited beyond what was held grew the hold in the same breath.
            growth = debited[account_id] - taken.get(account_id, 0)
            self.held[account_id] = self.held.get(account_id, 0) + growth
            self.captured[account_id] = self.captured.get(account_id, 0) + debited[account_id]
        for account_id, quanta in record.released:
            self.released[account_id] = self.released.get(account_id, 0) + quanta
        if record.closes:
            self.endings += 1
            self.closed_at = record.time
            self.state = _STATES[record.operation]

    def left(self) -> dict[int, int]:
        """
        Return by account what was held and not captured.
        """
        return {
            account_id: held - self.captured[account_id] for account_id, held in self.held.items()
        }
