"""
Accounts, entries, holds and closed dates as they leave the hub API.
"""

from __future__ import annotations

from datetime import date
from typing import Any, Literal
from uuid import UUID

from tokenworks.web.hub_api.shapes.parts import Decimal, Moment, PartyRef, Shape


class AccountShape(Shape):
    """
    One account and its four counters.

    ``balance`` is posted, on the account's normal side; ``available`` is what a
    no-overdraft account may still give.
    """

    account_id: str
    party: PartyRef | None
    purpose: str
    asset: str
    account_class: str
    debits_pending: Decimal
    credits_pending: Decimal
    debits_posted: Decimal
    credits_posted: Decimal
    balance: Decimal
    available: Decimal


class AssetTotal(Shape):
    """
    The sums of one asset over all accounts.
    """

    asset: str
    debits_posted: Decimal
    credits_posted: Decimal
    debits_pending: Decimal
    credits_pending: Decimal
    is_balanced: bool


class TrialBalanceShape(Shape):
    """
    Every account with its counters, and the proof that they balance.
    """

    as_of: Moment
    is_balanced: bool
    rows: list[AccountShape]
    totals: list[AssetTotal]


class LegShape(Shape):
    """
    One side of a transfer.
    """

    account_id: str
    party: PartyRef | None
    purpose: str
    asset: str
    debit: Decimal
    credit: Decimal


class EntryShape(Shape):
    """
    One applied operation with every leg.
    """

    fact_id: UUID
    operation: str
    ordinal: int
    recorded_at: Moment
    lane: int
    batch: int
    meta: dict[str, Any]  # what it is: its kind, and of a correction the reason and the actor
    legs: list[LegShape]


class HoldPartShape(Shape):
    """
    One account's part of a hold, what was captured taken off.
    """

    account_id: str
    asset: str
    held: Decimal


class HoldShape(Shape):
    """
    An open hold.
    """

    hold_id: UUID
    placed_at: Moment
    expires_at: Moment
    state: Literal["open"] = "open"
    parts: list[HoldPartShape]


class ClosingRow(Shape):
    """
    All accounts of one purpose and asset at the end of a closed date.
    """

    asset: str
    purpose: str
    account_class: str
    debits_of_day: Decimal
    credits_of_day: Decimal
    debits: Decimal
    credits: Decimal
    balance: Decimal


class ClosingProof(Shape):
    """
    The sums of one asset: debits equal credits, and what is safeguarded covers client money.
    """

    asset: str
    debits: Decimal
    credits: Decimal
    client_money: Decimal
    safeguarded: Decimal


class ClosingShape(Shape):
    """
    A closed date; ``signature`` covers the text in ``statement``, byte for byte.
    """

    date: date
    closed_at: Moment
    actor: str
    entries: int
    rows: list[ClosingRow]
    totals: list[ClosingProof]
    statement: str
    signature: str
    replayed: bool
