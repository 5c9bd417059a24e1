"""
Calls, their attempts and what they cost as they leave the hub API.
"""

from __future__ import annotations

from uuid import UUID

from tokenworks.web.hub_api.shapes.parts import Decimal, Moment, PartyRef, Shape


class CallKey(Shape):
    """
    The key a call was made with.
    """

    key_id: UUID
    prefix: str
    label: str


class CallShape(Shape):
    """
    One call, in the reader's view.
    """

    call_id: UUID
    status: str
    outcome: str
    is_stream: bool
    model: str
    tier: str
    party: PartyRef | None
    organisation: PartyRef | None
    team: PartyRef | None
    key: CallKey | None
    supplier: str | None
    usage: dict[str, int] | None
    total_tokens: int
    is_estimate: bool
    charge: Decimal | None
    currency: str
    payable: Decimal | None
    started_at: Moment
    ended_at: Moment | None
    duration_ms: float | None
    first_token_ms: float | None
    attempt_count: int
    error_code: str | None


class RatedLineShape(Shape):
    """
    One axis of a charge.
    """

    axis: str
    count: int
    usd_per_million: Decimal
    price_id: UUID


class AttemptShape(Shape):
    """
    One physical request to a supplier.
    """

    ordinal: int
    supplier: str | None
    offer_id: UUID | None
    status: str
    http_status: int | None
    error_code: str | None
    started_at: Moment
    duration_ms: float | None
    payable: Decimal | None


class CallDetailShape(CallShape):
    """
    One call with its rated lines and attempts.
    """

    lines: list[RatedLineShape]
    attempts: list[AttemptShape]
    quoted: Decimal | None
    refunded: Decimal | None


class SpendRowShape(Shape):
    """
    What one group of calls consumed and cost.
    """

    group: str
    label: str
    calls: int
    input_tokens: int
    output_tokens: int
    total_tokens: int
    charge: Decimal


class SpendShape(Shape):
    """
    Spend of a span of time, grouped.
    """

    by: str
    since: Moment
    until: Moment
    currency: str
    items: list[SpendRowShape]
    total: SpendRowShape
