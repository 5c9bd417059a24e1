"""
Payments of agents as they leave the hub API, in the reader's view.
"""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from tokenworks.web.hub_api.bodies import MomentIn, NameOrId, PageQuery
from tokenworks.web.hub_api.shapes.parts import Decimal, Moment, PartyRef, Shape


class PaymentQuery(PageQuery):
    """
    Which payments; those that are held (or wait for people) are asked for apart.
    """

    party: NameOrId | None = None  # paid by it or one below it, or paid to it
    agent: NameOrId | None = None
    payee: NameOrId | None = None
    mandate: UUID | None = None
    since: MomentIn | None = None
    held: bool = False


class PaymentReview(Shape):
    """
    What people said about a payment that was held for them.
    """

    state: str
    by: Annotated[list[str], Field(description="Who approved it so far, or who denied it.")]
    decided_at: Moment | None
    expires_at: Moment
    note: str


class PaymentShape(Shape):
    """
    One payment; what only its payer may see is null for its payee.
    """

    payment_id: UUID
    state: str
    scheme: str
    payer: str
    payee: PartyRef
    amount: Annotated[Decimal, Field(description="What was captured.")]
    currency: str
    resource: str
    recorded_at: Moment
    authorised: Decimal | None
    agent: PartyRef | None
    organisation: PartyRef | None
    mandate_id: UUID | None
    brake: dict[str, Any] | None
    review: PaymentReview | None
