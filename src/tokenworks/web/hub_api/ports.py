"""
What the hub API needs from the ledger, the gateway's records and the receipts.

Each port is small and structural: the services satisfy it without knowing it.
"""
# ruff: noqa: D102 - the properties of a view are the fields of a record, named by themselves.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol
from uuid import UUID

from tokenworks.foundation.money import Amount, Asset


class PostedView(Protocol):
    """
    What posting an operation answered.
    """

    @property
    def fact_id(self) -> UUID: ...
    @property
    def recorded_at(self) -> datetime: ...
    @property
    def replayed(self) -> bool: ...


class BalanceView(Protocol):
    """
    One account and its counters, in quanta of its asset.
    """

    @property
    def account_id(self) -> object: ...
    @property
    def party_id(self) -> UUID | None: ...
    @property
    def purpose(self) -> str: ...
    @property
    def asset(self) -> Asset: ...
    @property
    def account_class(self) -> str: ...
    @property
    def debits_pending(self) -> int: ...
    @property
    def credits_pending(self) -> int: ...
    @property
    def debits_posted(self) -> int: ...
    @property
    def credits_posted(self) -> int: ...
    @property
    def available(self) -> int: ...


class AssetTotalView(Protocol):
    """
    The sums of one asset over all accounts.
    """

    @property
    def asset(self) -> Asset: ...
    @property
    def debits_posted(self) -> int: ...
    @property
    def credits_posted(self) -> int: ...
    @property
    def debits_pending(self) -> int: ...
    @property
    def credits_pending(self) -> int: ...


class TrialBalanceView(Protocol):
    """
    Every account at one moment.
    """

    @property
    def rows(self) -> Sequence[BalanceView]: ...
    @property
    def totals(self) -> Sequence[AssetTotalView]: ...
    @property
    def is_balanced(self) -> bool: ...


class LimitView(Protocol):
    """
    A limit of a scope and what is left of its current window.
    """

    @property
    def limit_id(self) -> UUID: ...
    @property
    def scope_id(self) -> UUID: ...
    @property
    def asset(self) -> Asset: ...
    @property
    def quanta(self) -> int: ...
    @property
    def window(self) -> str: ...
    @property
    def time_zone(self) -> str: ...
    @property
    def remaining(self) -> int: ...
    @property
    def resets_at(self) -> datetime | None: ...


class LegView(Protocol):
    """
    One side of a transfer; ``debit`` or ``credit`` is zero.
    """

    @property
    def account_id(self) -> object: ...
    @property
    def party_id(self) -> UUID | None: ...
    @property
    def purpose(self) -> str: ...
    @property
    def asset(self) -> Asset: ...
    @property
    def debit(self) -> int: ...
    @property
    def credit(self) -> int: ...


class EntryView(Protocol):
    """
    One applied operation with its legs.
    """

    @property
    def fact_id(self) -> UUID: ...
    @property
    def operation(self) -> str: ...
    @property
    def ordinal(self) -> int: ...
    @property
    def recorded_at(self) -> datetime: ...
    @property
    def lane(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def legs(self) -> Sequence[LegView]: ...


class HoldPartView(Protocol):
    """
    One account's part of a hold.
    """

    @property
    def account_id(self) -> object: ...
    @property
    def party_id(self) -> UUID | None: ...
    @property
    def purpose(self) -> str: ...
    @property
    def asset(self) -> Asset: ...
    @property
    def held(self) -> int: ...
    @property
    def captured(self) -> int: ...


class HoldView(Protocol):
    """
    An open hold.
    """

    @property
    def hold_id(self) -> UUID: ...
    @property
    def placed_at(self) -> datetime: ...
    @property
    def expires_at(self) -> datetime: ...
    @property
    def parts(self) -> Sequence[HoldPartView]: ...


class LedgerSetup(Protocol):
    """
    Open what a new party or key needs in the books.
    """

    async def open_party(self, party_id: UUID, kind: str) -> object: ...
    async def open_scope(self, scope_id: UUID) -> object: ...
    async def set_scope_state(self, scope_id: UUID, state: str) -> object: ...
    async def publish_path(
        self, *, path_id: UUID, scope_ids: Sequence[UUID], funding_party_id: UUID
    ) -> int: ...


class LedgerLimits(Protocol):
    """
    Limits of scopes.
    """

    async def set_limit(
        self, *, scope_id: UUID, asset: Asset, quanta: int, window: str, time_zone: str, actor: UUID
    ) -> LimitView: ...
    async def limits(self, scope_ids: Sequence[UUID]) -> Sequence[LimitView]: ...
    async def remove_limit(self, limit_id: UUID, actor: UUID) -> object: ...


class LedgerBooks(Protocol):
    """
    Money in, and the books as they stand.
    """

    async def deposit(
        self, *, party_id: UUID, amount: Amount, rail: str, reference: str, actor: UUID
    ) -> PostedView: ...
    async def balances(self, party_id: UUID) -> Sequence[BalanceView]: ...
    async def trial_balance(self) -> TrialBalanceView: ...
    async def entries_of(self, fact_id: UUID) -> Sequence[EntryView]: ...
    async def open_holds(self, limit: int) -> Sequence[HoldView]: ...


class Ledger(LedgerSetup, LedgerLimits, LedgerBooks, Protocol):
    """
    The three ports together, as the ledger's service is.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFilter:
    """
    Which calls a list is about; ``None`` means any.
    """

    within_party_id: UUID | None = None  # calls made by this party or one below it
    team_id: UUID | None = None
    key_id: UUID | None = None
    model: str | None = None
    tier: str | None = None
    status: str | None = None
    supplier_id: UUID | None = None  # calls with an attempt at this supplier
    since: datetime | None = None  # started at or after
    until: datetime | None = None  # started before


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """
    One physical request to a supplier.
    """

    ordinal: int
    supplier_id: UUID
    supplier_name: str
    offer_id: UUID
    status: str
    http_status: int | None = None
    error_code: str | None = None
    started_at: datetime
    duration_ms: float | None = None
    payable_quanta: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedLineRow:
    """
    One axis of a call's charge.
    """

    axis: str
    count: int
    nano_per_million: int
    price_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRow:
    """
    One call as the gateway recorded it; money in quanta of ``asset``.
    """

    call_id: UUID
    status: str  # open, settled, refused, failed, expired
    is_stream: bool
    model: str
    tier: str
    party_id: UUID
    organisation_id: UUID
    team_id: UUID | None = None
    key_id: UUID
    key_prefix: str
    key_label: str = ""
    supplier_id: UUID | None = None
    supplier_name: str | None = None
    usage: Mapping[str, int] | None = None
    total_tokens: int = 0
    is_estimate: bool = False
    asset: Asset
    charge_quanta: int | None = None
    payable_quanta: int | None = None
    quoted_quanta: int | None = None
    started_at: datetime
    ended_at: datetime | None = None
    duration_ms: float | None = None
    first_token_ms: float | None = None
    attempt_count: int = 0
    error_code: str | None = None
    # Filled by get_call only.
    lines: Sequence[RatedLineRow] = ()
    attempts: Sequence[AttemptRow] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendRow:
    """
    What one group of calls consumed and cost.
    """

    group: str  # an id, a model, a tier or a day; "" where the calls have none
    calls: int
    input_tokens: int
    output_tokens: int
    total_tokens: int
    charge_quanta: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowLeg:
    """
    What one kind of leg moved to or from one party in a window.

    ``kind``: ``sale`` (buyer party, its charge), ``tax``, ``reseller``, ``rights``,
    ``platform`` (what is left of the sale before suppliers), ``supplier`` (payable before
    power) and ``power`` (out of the supplier named by ``payer_id``).
    """

    kind: str
    party_id: UUID
    payer_id: UUID | None = None
    quanta: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowView:
    """
    Settled calls of the last seconds.
    """

    asset: Asset
    calls: int
    tokens: int
    charge_quanta: int
    legs: Sequence[FlowLeg] = ()
    last_calls: Sequence[CallRow] = field(default=())


class Calls(Protocol):
    """
    The gateway's records of calls, newest first.
    """

    async def list_calls(
        self, wanted: CallFilter, cursor: str | None, limit: int, /
    ) -> tuple[Sequence[CallRow], str | None]: ...
    async def get_call(self, call_id: UUID, /) -> CallRow | None: ...
    async def spend(
        self, *, by: str, since: datetime, until: datetime, party_id: UUID | None
    ) -> Sequence[SpendRow]: ...
    async def flow(self, seconds: int, /) -> FlowView: ...


class Receipts(Protocol):
    """
    Signed records of calls.
    """

    async def receipt_document(self, call_id: UUID, view: str, /) -> dict[str, object]: ...
