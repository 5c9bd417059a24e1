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
from tokenworks.ledger.model import (
    AccountBalance,
    EntryView,
    HoldView,
    LimitView,
    TrialBalance,
)


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


class LedgerSetup(Protocol):
    """
    Open what a new party or key needs in the books.
    """

    async def open_party(self, party_id: UUID, kind: str) -> None: ...
    async def open_scope(self, scope_id: UUID, *, expires_at: datetime | None = None) -> None: ...
    async def set_scope_state(self, scope_id: UUID, state: str) -> None: ...
    async def publish_path(
        self, *, path_id: UUID, scope_ids: Sequence[UUID], funding_party_id: UUID
    ) -> int: ...


class LedgerLimits(Protocol):
    """
    Limits of scopes.
    """

    async def set_limit(
        self,
        *,
        scope_id: UUID,
        asset: Asset,
        quanta: int,
        window: str,
        time_zone: str = "UTC",
        actor: str,
    ) -> LimitView: ...
    async def limits(self, scope_ids: Sequence[UUID]) -> Sequence[LimitView]: ...
    async def remove_limit(self, limit_id: int, *, actor: str) -> None: ...


class LedgerBooks(Protocol):
    """
    Money in, and the books as they stand.
    """

    async def deposit(
        self, *, party_id: UUID, amount: Amount, rail: str, reference: str, actor: str
    ) -> PostedView: ...
    async def balances(self, party_id: UUID) -> Sequence[AccountBalance]: ...
    async def trial_balance(self) -> TrialBalance: ...
    async def entries_of(self, fact_id: UUID) -> Sequence[EntryView]: ...
    async def open_holds(self, limit: int = 100) -> Sequence[HoldView]: ...


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
    supplier_party_id: UUID | None = None  # calls with an attempt owed to this party
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
    supplier_party_id: UUID
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
    # Who answered; of several attempts the last.
    supplier_id: UUID | None = None
    supplier_name: str | None = None
    supplier_party_id: UUID | None = None
    usage: Mapping[str, int] | None = None
    total_tokens: int = 0
    is_estimate: bool = False
    asset: Asset
    charge_quanta: int | None = None
    # Owed for all attempts; with ``supplier_party_id`` in the filter only to that party.
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

    ``kind``: ``sale`` (the charge of a buyer's organisation), ``tax``, ``reseller``,
    ``rights``, ``platform`` (what is left of the sale before suppliers are paid), ``supplier``
    (its payable, the power producer's part included) and ``power`` (out of the supplier
    whose party is ``payer_id``).
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
