"""
What is asked of the ledger, and what it answers.

An operation names a *fact*: (fact id, kind, ordinal). The same fact with the same
content always has the same answer, however often and by whomever it is sent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

import msgspec

OK: Final = "ok"
REPLAYED: Final = "replayed"

NO_ACCOUNT: Final = 0
"""Stands for 'no fallback' in a transfer; real ids start at 1."""


ASSET_IDS: Final[Mapping[str, int]] = {
    "USD": 1,
    "CNY": 2,
    "UJ": 3,
    "LIMIT.USD": 11,
    "LIMIT.CNY": 12,
    "LIMIT.TOK": 13,
    "LIMIT.PAYMENTS": 14,
}
ASSET_CODES: Final[Mapping[int, str]] = {number: code for code, number in ASSET_IDS.items()}


class Refusal(StrEnum):
    """
    Why an operation was refused, in the order in which reasons are looked for.
    """

    CONFLICT = "conflict"
    """The fact is recorded with other content."""
    DEADLINE_PASSED = "deadline_passed"
    """The request came after the ledger time it was good for."""
    ID_OUTSIDE_WINDOW = "id_outside_window"
    """The id is older than the oldest partition or minted in the future."""
    DATE_CLOSED = "date_closed"
    """The entry names an accounting date that takes no more entries."""
    HOLD_UNKNOWN = "hold_unknown"
    HOLD_CLOSED = "hold_closed"
    HOLD_NOT_DUE = "hold_not_due"
    """Expiry was asked for before the hold's time."""
    HOLD_WAITS = "hold_waits"
    """The hold's fate is to wait for a person or a rail; it never expires by itself."""
    SPEND_PATH_UNKNOWN = "spend_path_unknown"
    SPEND_PATH_STALE = "spend_path_stale"
    SCOPE_FROZEN = "scope_frozen"
    SCOPE_CLOSED = "scope_closed"
    FUNDING_ACCOUNT_MISSING = "funding_account_missing"
    ACCOUNT_UNKNOWN = "account_unknown"
    ASSET_MISMATCH = "asset_mismatch"
    ACCOUNTS_MUST_DIFFER = "accounts_must_differ"
    AMOUNT_INVALID = "amount_invalid"
    ACCOUNT_FROZEN = "account_frozen"
    INSUFFICIENT = "insufficient"
    CLIENT_MONEY_UNSAFEGUARDED = "client_money_unsafeguarded"
    INTERNAL = "internal"
    """A constraint stopped the operation: a bug; the operation stood alone when it failed."""


class Fate(StrEnum):
    """
    What becomes of a hold whose time has come.
    """

    VOID = "void"
    CAPTURE = "capture"
    WAIT = "wait"


class Transfer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    One movement from a debited to a credited account.

    ``fallback`` bears what the debited account cannot give (see ``ledger.post_v2``).
    """

    debit: int
    credit: int
    quanta: int
    fallback: int = NO_ACCOUNT


class Reservation(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    One thing a hold takes: an amount of an asset, from one account or along the path.
    """

    asset_id: int
    quanta: int
    account_id: int | None = None
    """``None``: the path's funding account and every limit of this asset on the path."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """
    A request to place or extend a hold; its fact id is the hold's id.
    """

    hold_id: UUID
    reservations: tuple[Reservation, ...]
    expires_at: datetime
    deadline: datetime
    path_id: UUID | None = None
    path_version: int | None = None
    fate: Fate = Fate.VOID
    payee_account: int | None = None
    meta: str = "{}"
    """Canonical JSON, kept with the entry; never a secret, never personal data."""
    extension: int = 0
    """0 places the hold; n > 0 is its n-th extension."""

    @property
    def operation(self) -> str:
        """
        Return the kind of operation.
        """
        return "extend" if self.extension else "place"

    @property
    def content(self) -> bytes:
        """
        Return the hash by which a repeat is told from a contradiction.

        Deadline and expiry are left out: a retry may carry later ones.
        """
        return _content_hash(
            self.operation,
            [(item.asset_id, item.quanta, item.account_id) for item in self.reservations],
            str(self.path_id),
            self.meta,
        )


class PostingKind(StrEnum):
    """
    What a posting does.
    """

    POST = "post"
    CAPTURE = "capture"
    VOID = "void"
    EXPIRE = "expire"


@dataclass(frozen=True, kw_only=True)
class Posting:
    """
    An entry of its own, or the capture, return or expiry of a hold.
    """

    kind: PostingKind
    fact_id: UUID
    """For a hold's operations the hold's id."""
    transfers: tuple[Transfer, ...] = ()
    ordinal: int = 0
    closes: bool = True
    """Whether a capture is the last one; the remainder goes back."""
    deadline: datetime | None = None
    receipt_root: bytes | None = None
    """SHA-256 root of the receipt's commitments; links it into the lane's receipt chain."""
    meta: str = "{}"
    is_exact: bool = False
    """
    Whether accounts are meant as named. Otherwise a laned account stands for this writer's
    share of it.
    """
    accounting_date: date | None = None
    """
    The date (UTC) an entry of its own counts in; ``None``: the date of its ledger time.
    Captures, voids and expiries never name one, so no closed date refuses them.
    """
    rider_row: str | None = None
    """One row for the writer's rider (a read model in the same transaction), as text."""

    def __post_init__(self) -> None:
        # Here, with the caller who is wrong: in the writer it would end everybody's batches.
        assert self.accounting_date is None or self.kind is PostingKind.POST, (
            "only an entry of its own names a date"
        )

    @property
    def content(self) -> bytes:
        """
        Return the hash by which a repeat is told from a contradiction.
        """
        return _content_hash(
            self.kind.value,
            [(t.debit, t.credit, t.quanta, t.fallback) for t in self.transfers],
            str(self.closes),
            self.meta,
            *(() if self.accounting_date is None else (self.accounting_date.isoformat(),)),
        )


def _content_hash(*parts: object) -> bytes:
    return hashlib.sha256(msgspec.json.encode(parts)).digest()


class Part(msgspec.Struct, frozen=True, gc=False):
    """
    What a hold has taken from one account.
    """

    account_id: int
    asset_id: int
    quanta: int


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """
    The ledger's answer to one operation.
    """

    code: str
    """``ok``, ``replayed`` (done before: the stored answer) or a ``Refusal``."""
    recorded_at: datetime | None = None
    expires_at: datetime | None = None
    parts: tuple[Part, ...] = ()
    refused_account: int | None = None
    """The tightest account that was short; only with ``insufficient``."""
    available: int | None = None
    """
    What ``refused_account`` had; after a capture what the spender has left: the tightest of
    its money and its money limits, in quanta.
    """
    overrun: int = 0
    """Quanta of money the platform bears because the hold could not grow."""
    record: str | None = None
    lane: int | None = None
    receipt_sequence: int | None = None
    receipt_previous: bytes | None = None

    @property
    def is_done(self) -> bool:
        """
        Return whether the operation's effect is in the books, durably.
        """
        return self.code in {OK, REPLAYED}


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountBalance:
    """
    One account's four counters, its lanes summed.
    """

    account_id: int
    party_id: UUID
    purpose: str
    asset: str
    account_class: str
    normal_side: str
    title_holder: UUID
    debits_pending: int
    credits_pending: int
    debits_posted: int
    credits_posted: int

    @property
    def available(self) -> int:
        """
        Return what may still be spent: posted credits minus debits, holds included.
        """
        return self.credits_posted - self.debits_posted - self.debits_pending

    @property
    def balance(self) -> int:
        """
        Return the posted balance on the account's normal side.
        """
        net = self.credits_posted - self.debits_posted
        return net if self.normal_side == "credit" else -net


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialBalance:
    """
    All accounts, and per asset the sums that must agree.
    """

    rows: tuple[AccountBalance, ...]
    debits: Mapping[str, int]
    credits: Mapping[str, int]
    client_money: Mapping[str, int]
    safeguarded: Mapping[str, int]

    @property
    def is_balanced(self) -> bool:
        """
        Return whether debits equal credits and client money is covered, per asset.
        """
        return self.debits == self.credits and all(
            self.safeguarded.get(asset, 0) >= owed for asset, owed in self.client_money.items()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitView:
    """
    A limit and what is left of it in the current window.
    """

    limit_id: int
    scope_id: UUID
    asset: str
    quanta: int
    window: str
    time_zone: str
    remaining: int
    held: int
    resets_at: datetime | None
    """``None`` for a limit that never opens again by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitOpening:
    """
    A limit that a new scope begins with; it counts in UTC.
    """

    asset: str
    quanta: int
    window: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeOpening:
    """
    A node of the spend tree to be opened if it is not there yet.
    """

    scope_id: UUID
    expires_at: datetime | None = None  # None: never
    limits: tuple[LimitOpening, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """
    One transfer of an entry, with its accounts named.
    """

    debit_account: int
    debit_party: UUID
    debit_purpose: str
    credit_account: int
    credit_party: UUID
    credit_purpose: str
    asset: str
    quanta: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryView:
    """
    One recorded operation.
    """

    fact_id: UUID
    operation: str
    ordinal: int
    lane: int
    batch: int
    recorded_at: datetime
    legs: tuple[Leg, ...]
    meta: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldView:
    """
    One hold and its parts.
    """

    hold_id: UUID
    state: str
    placed_at: datetime
    expires_at: datetime
    parts: tuple[Part, ...]
    meta: str
