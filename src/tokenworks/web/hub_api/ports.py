"""
What the hub API needs from the ledger, the gateway's records and the receipts.

Each port is small and structural: the services satisfy it without knowing it.
"""
# ruff: noqa: D102 - the properties of a view are the fields of a record, named by themselves.

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

from tokenworks.foundation.money import Amount, Asset
from tokenworks.gateway.ended_calls import CallFilter, CallRow, FlowView, SpendRow
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
