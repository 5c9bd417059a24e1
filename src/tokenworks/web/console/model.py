"""
What the hub API answers, as far as the console reads it.

Every field that a role may not see, or that an older hub may not send, has a default:
a page copes with what is missing. Amounts stay decimal text until they are shown or added.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, TypeAlias

import msgspec

from tokenworks.web.console.wording import to_decimal

Document: TypeAlias = dict[str, Any]
"""A JSON object whose members the console only shows."""


class PartyRef(msgspec.Struct, frozen=True, kw_only=True):
    """
    A party by id and name.
    """

    party_id: str = ""
    name: str = ""


class Whoami(msgspec.Struct, frozen=True, kw_only=True):
    """
    Whose key it is.
    """

    role: str
    prefix: str
    party: PartyRef
    organisation: PartyRef
    expires_at: str | None = None

    @property
    def is_admin(self) -> bool:
        """
        Return whether the key sees the whole hub.
        """
        return self.role == "admin"

    @property
    def is_supplier(self) -> bool:
        """
        Return whether the key earns instead of spending.
        """
        return self.role == "supplier"

    @property
    def spends(self) -> bool:
        """
        Return whether agents may spend the reader's money.
        """
        return not self.is_supplier

    @property
    def has_plant(self) -> bool:
        """
        Return whether the reader runs machines, or answers for those who do.
        """
        return self.is_admin or self.is_supplier

    @property
    def ways(self) -> tuple[tuple[str, str], ...]:
        """
        Return the pages the header leads to, as path and name.
        """
        ways = [("/", "Live")]
        ways += [("/factory", "Factory")] if self.has_plant else []
        ways += [("/agents", "Agents"), ("/inbox", "Inbox")] if self.spends else []
        return (*ways, ("/escrows", "Escrows"))


class CallKey(msgspec.Struct, frozen=True, kw_only=True):
    """
    The key a call was made with.
    """

    key_id: str = ""
    prefix: str = ""
    label: str = ""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """
    One axis of a charge.
    """

    axis: str
    count: int
    usd_per_million: str
    price_id: str = ""


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """
    One request to a supplier.
    """

    ordinal: int
    status: str
    supplier: str | None = None
    http_status: int | None = None
    error_code: str | None = None
    started_at: str | None = None
    duration_ms: float | None = None
    payable: str | None = None


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """
    One call in the reader's view; ``lines`` and ``attempts`` only when it was asked for alone.
    """

    call_id: str
    status: str
    model: str
    tier: str
    started_at: str
    ended_at: str | None = None
    is_stream: bool = False
    is_estimate: bool = False
    party: PartyRef | None = None
    organisation: PartyRef | None = None
    team: PartyRef | None = None
    key: CallKey | None = None
    supplier: str | None = None
    usage: Mapping[str, int] | None = None
    total_tokens: int = 0
    charge: str | None = None
    payable: str | None = None
    currency: str = "USD"
    duration_ms: float | None = None
    first_token_ms: float | None = None
    attempt_count: int = 0
    error_code: str | None = None
    lines: tuple[Line, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    quoted: str | None = None

    @property
    def is_open(self) -> bool:
        """
        Return whether the call is still in flight.
        """
        return self.status == "open"

    @property
    def value(self) -> str | None:
        """
        Return what the call is worth to its reader: the charge, or a supplier's payable.
        """
        return self.charge if self.charge is not None else self.payable


class CallPage(msgspec.Struct, frozen=True, kw_only=True):
    """
    Calls, newest first.
    """

    items: tuple[Call, ...]
    next_cursor: str | None = None


class Node(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """
    One box of the flow picture.
    """

    id: str
    label: str
    kind: str


class Link(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """
    Money that went from one box to another.
    """

    source: str
    target: str
    amount: str


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """
    What flowed through the value chain in the last ``window_s`` seconds.
    """

    window_s: int
    currency: str = "USD"
    calls: int = 0
    tokens: int = 0
    charge: str = "0"
    calls_per_s: float = 0.0
    tokens_per_s: float = 0.0
    charge_per_s: str = "0"
    nodes: tuple[Node, ...] = ()
    links: tuple[Link, ...] = ()
    last_calls: tuple[Call, ...] = ()


class Cash(msgspec.Struct, frozen=True, kw_only=True):
    """
    Prepaid money of one currency.
    """

    currency: str
    available: str
    held: str = "0"


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """
    One account of the reader's own.
    """

    purpose: str
    asset: str
    debits_posted: str = "0"
    credits_posted: str = "0"


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the reader's organisation has.
    """

    cash: tuple[Cash, ...] = ()
    accounts: tuple[Account, ...] | None = None

    def owed(self, currency: str) -> Decimal:
        """
        Return what the hub owes a supplier: its payables less what was paid out.
        """
        return sum(
            (
                to_decimal(account.credits_posted) - to_decimal(account.debits_posted)
                for account in self.accounts or ()
                if account.purpose.endswith("_payable") and account.asset == currency
            ),
            Decimal(0),
        )


class AssetTotal(msgspec.Struct, frozen=True, kw_only=True):
    """
    The sums of one asset over all accounts.
    """

    asset: str
    debits_posted: str
    credits_posted: str
    is_balanced: bool


class TrialBalance(msgspec.Struct, frozen=True, kw_only=True):
    """
    Whether the books balance.
    """

    as_of: str
    is_balanced: bool
    totals: tuple[AssetTotal, ...] = ()


class Leg(msgspec.Struct, frozen=True, kw_only=True):
    """
    One side of a transfer; one of ``debit`` and ``credit`` is zero.
    """

    account_id: str
    purpose: str
    asset: str
    debit: str
    credit: str
    party: PartyRef | None = None


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """
    One applied operation with its legs.
    """

    operation: str
    ordinal: int
    recorded_at: str
    lane: int
    batch: int
    legs: tuple[Leg, ...] = ()


class EntryList(msgspec.Struct, frozen=True, kw_only=True):
    """
    All entries of one fact.
    """

    items: tuple[Entry, ...]


class PriceRow(msgspec.Struct, frozen=True, kw_only=True):
    """
    What can be called.
    """

    model: str
    tier: str


class PricePage(msgspec.Struct, frozen=True, kw_only=True):
    """
    Prices in force, newest first.
    """

    items: tuple[PriceRow, ...]


class ReceiptDocument(msgspec.Struct, frozen=True, kw_only=True):
    """
    A receipt as its reader gets it.
    """

    receipt: Document
    jws: str
