"""
Statements of suppliers as they come in and leave through the hub API.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Final, Literal
from uuid import UUID

from pydantic import Field

from tokenworks.foundation.money import Amount, Asset
from tokenworks.reconciliation.model import (
    Tolerance,
)
from tokenworks.reconciliation.service import Import
from tokenworks.web.hub_api.bodies import Body, DecimalIn, MomentIn, NameOrId, ShortText
from tokenworks.web.hub_api.shapes.parts import Decimal, Moment, PartyRef, Shape

WINDOW_S_MAX: Final = 86_400

StatementColumn = Literal[
    "reference",
    "amount",
    "currency",
    "call_id",
    "time",
    "model",
    "input_tokens",
    "output_tokens",
]


class StatementIn(Body):
    """
    A statement's file, and how to read and to match it.
    """

    supplier: NameOrId
    file_name: Annotated[str, Field(min_length=1, max_length=200)]
    content: str
    columns: Annotated[dict[StatementColumn, ShortText], Field(default_factory=dict)]
    currency: Annotated[str, Field(max_length=10)] | None = None
    time_zone: ShortText | None = None
    since: MomentIn | None = None
    until: MomentIn | None = None
    tolerance: DecimalIn = "0"
    tolerance_ppm: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    window_s: Annotated[int, Field(ge=0, le=WINDOW_S_MAX)] = 60

    def to_import(self, asset: Asset) -> Import:
        """
        Return the import that was asked for, in the hub's currency.
        """
        return Import(
            file_name=self.file_name,
            content=self.content.encode(),
            columns={str(ours): theirs for ours, theirs in self.columns.items()},
            has_currency=self.currency is not None,
            time_zone=self.time_zone,
            since=self.since,
            until=self.until,
            tolerance=Tolerance(
                quanta=Amount.from_text(self.tolerance, asset).quanta,
                ppm=self.tolerance_ppm,
                window_s=self.window_s,
            ),
        )


class ActorIn(Body):
    """
    Who decides something; the key is recorded in any case.
    """

    actor: ShortText | None = None


class PayoutIn(Body):
    """
    Money that was paid to a supplier.
    """

    amount: DecimalIn
    rail: Annotated[str, Field(min_length=1, max_length=63)] = "manual"
    reference: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    actor: ShortText | None = None


class StatementShape(Shape):
    """
    A statement as it was imported.
    """

    statement_id: UUID
    supplier: str
    supplier_id: UUID
    file_name: str
    file_sha256: str
    columns: dict[str, str]
    currency: str
    since: Moment
    until: Moment
    tolerance: Decimal
    tolerance_ppm: int
    window_s: int
    lines: int
    total: Decimal
    imported_at: Moment
    actor: str


class VerdictTotalShape(Shape):
    """
    What one verdict sums up to; ``day`` is null over all days and for lines without a time.
    """

    verdict: str
    day: date | None
    lines: int
    billed: Decimal
    attempts: int
    owed: Decimal


class ProposalShape(Shape):
    """
    A correcting entry, posted once somebody accepts it; above zero the supplier gets more.
    """

    fact_id: UUID
    difference: Decimal
    accepted_at: Moment | None
    accepted_by: str | None
    is_posted: bool


class StatementReportShape(Shape):
    """
    A statement with its differences summed up.
    """

    statement: StatementShape
    totals: list[VerdictTotalShape]
    days: list[VerdictTotalShape]
    proposal: ProposalShape | None
    replayed: bool


class PayableShape(Shape):
    """
    What a supplier is owed; ``payable`` may be paid out now.
    """

    party: PartyRef
    currency: str
    owed: Decimal
    on_hold: Decimal
    kept_back: Decimal
    payable: Decimal


class PayoutShape(Shape):
    """
    A payout as it is booked; ``replayed`` when its reference was booked before.
    """

    fact_id: UUID
    party: PartyRef
    amount: Decimal
    currency: str
    rail: str
    reference: str
    recorded_at: Moment
    replayed: bool
