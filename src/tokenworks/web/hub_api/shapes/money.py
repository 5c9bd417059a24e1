"""
Deposits, corrections, refunds and balances as they leave the hub API.
"""

from __future__ import annotations

from uuid import UUID

from tokenworks.web.hub_api.shapes.books import AccountShape
from tokenworks.web.hub_api.shapes.limits import LimitShape
from tokenworks.web.hub_api.shapes.parts import Decimal, Moment, PartyRef, Shape


class DepositShape(Shape):
    """
    Money that came in; ``replayed`` when its reference was booked before.
    """

    fact_id: UUID
    party: PartyRef
    amount: Decimal
    currency: str
    rail: str
    reference: str
    recorded_at: Moment
    replayed: bool


class CorrectionShape(Shape):
    """
    A correction as it is booked; ``owed`` is what the party could not give and owes now.
    """

    fact_id: UUID
    recorded_at: Moment
    replayed: bool
    owed: Decimal
    currency: str


class RefundShape(Shape):
    """
    A refund as it is booked; ``refunded`` is all that the call got back so far.
    """

    refund_id: UUID
    call_id: UUID
    amount: Decimal
    refunded: Decimal
    currency: str
    borne_by: str
    reference: str
    recorded_at: Moment
    replayed: bool


class Cash(Shape):
    """
    Prepaid money of one currency: ``available`` = ``posted`` - ``held``.
    """

    currency: str
    available: Decimal
    held: Decimal
    posted: Decimal


class BalanceShape(Shape):
    """
    What an organisation has and how much of it a key may still take.
    """

    party: PartyRef
    cash: list[Cash]
    limits: list[LimitShape]
    tightest: LimitShape | None
    accounts: list[AccountShape] | None
