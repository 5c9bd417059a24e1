"""
The shapes that leave through the hub API; ``docs/internals/hub-api.md`` describes them.

Amounts are decimal text in whole units; a field a role may not see is ``None``.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer


def to_moment_text(moment: datetime) -> str:
    """
    Return a time as ISO 8601 in UTC with microseconds and a ``Z``.
    """
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


Moment = Annotated[datetime, PlainSerializer(to_moment_text, return_type=str)]
Decimal = Annotated[str, Field(pattern=r"^-?\d+(\.\d+)?$", examples=["12.5"])]


class Shape(BaseModel):
    """
    Anything this API answers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")


_Item = TypeVar("_Item", bound=Shape)


class Page(Shape, Generic[_Item]):
    """
    One page of a list; ``next_cursor`` is null on the last one.
    """

    items: list[_Item]
    next_cursor: str | None = None


class Items(Shape, Generic[_Item]):
    """
    A list that is always given whole.
    """

    items: list[_Item]


class PartyRef(Shape):
    """
    A party by id and name.
    """

    party_id: UUID
    name: str


class Whoami(Shape):
    """
    What the caller's key is and may do.
    """

    key_id: UUID
    prefix: str
    role: str
    party: PartyRef
    organisation: PartyRef
    chain: list[PartyRef]
    models: list[str] | None
    requests_per_minute: int | None
    expires_at: Moment | None
    default_tier: str


class PartyShape(Shape):
    """
    An organisation, team, user or agent that owns accounts or limits.
    """

    party_id: UUID
    name: str
    kind: str
    level: str
    parent: PartyRef | None
    default_tier: str
    state: str
    created_at: Moment


class KeyShape(Shape):
    """
    An API key; ``secret`` is set in the one answer that made it.
    """

    key_id: UUID
    party: PartyRef
    role: str
    prefix: str
    label: str
    models: list[str] | None
    requests_per_minute: int | None
    expires_at: Moment | None
    revoked_at: Moment | None
    created_at: Moment
    state: Literal["active", "expired", "revoked"]
    mandate_id: UUID | None = None
    secret: str | None = None


class LimitScope(Shape):
    """
    The party, key or mandate a limit is set on.
    """

    kind: Literal["party", "key", "mandate"]
    id: UUID
    name: str


class LimitShape(Shape):
    """
    A limit and what a new call may still take now.
    """

    limit_id: str
    scope: LimitScope
    amount: Decimal
    unit: str
    per: str
    time_zone: str
    remaining: Decimal
    resets_at: Moment | None


class LimitRemoved(Shape):
    """
    The limit that is no more.
    """

    limit_id: str
    removed: bool = True


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


class Cash(Shape):
    """
    Prepaid money of one currency: ``available`` = ``posted`` - ``held``.
    """

    currency: str
    available: Decimal
    held: Decimal
    posted: Decimal


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


class BalanceShape(Shape):
    """
    What an organisation has and how much of it a key may still take.
    """

    party: PartyRef
    cash: list[Cash]
    limits: list[LimitShape]
    tightest: LimitShape | None
    accounts: list[AccountShape] | None


class SupplierShape(Shape):
    """
    A supplier; its API key never leaves.
    """

    supplier_id: UUID
    name: str
    party: PartyRef
    kind: str
    base_url: str
    allow_private: bool
    sends_call_id: bool
    has_api_key: bool
    state: str
    created_at: Moment


class SupplierTestStep(Shape):
    """
    One request of a supplier's test.
    """

    step: Literal["models", "chat"]
    ok: bool
    status: int | None
    duration_ms: float
    detail: str


class SupplierTestShape(Shape):
    """
    Whether a supplier answers as its protocol promises.
    """

    ok: bool
    supplier: str
    models: list[str]
    model: str | None
    steps: list[SupplierTestStep]
    usage: dict[str, int] | None


class SplitShape(Shape):
    """
    Shares in parts per million; power comes out of the supplier's payable.
    """

    tax_ppm: int
    reseller_ppm: int
    reseller: str | None
    rights_ppm: int
    rights: str | None
    power_ppm: int
    power: str | None


class SupplierRef(Shape):
    """
    A supplier by id and name.
    """

    supplier_id: UUID
    name: str


class OfferShape(Shape):
    """
    A supplier's promise to serve a model at a tier.
    """

    offer_id: UUID
    supplier: SupplierRef
    model: str
    upstream_model: str
    tier: str
    supplier_share_ppm: int | None
    costs: dict[str, str] | None
    split: SplitShape
    context_tokens_max: int | None
    priority: int
    state: str
    blocked_reason: str | None
    created_at: Moment


class PriceShape(Shape):
    """
    One immutable row of the price book.
    """

    price_id: UUID
    model: str
    tier: str
    axis: str
    usd_per_million: Decimal
    nano_per_million: int
    effective_at: Moment
    created_at: Moment


class TierShape(Shape):
    """
    A class of service: default prices and the floor it promises.
    """

    tier: str
    default_prices: dict[str, str]
    speed_floor_tokens_per_s: int | None
    first_token_p95_ms: int | None


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


class FlowNode(Shape):
    """
    One box of the flow picture.
    """

    id: str
    label: str
    kind: Literal["buyer", "sale", "tax", "reseller", "rights", "platform", "supplier", "power"]


class FlowLink(Shape):
    """
    Money that went from one box to another, more than zero.
    """

    source: str
    target: str
    amount: Decimal


class FlowShape(Shape):
    """
    What flowed through the value chain in the last seconds.
    """

    window_s: int
    as_of: Moment
    currency: str
    calls: int
    tokens: int
    charge: Decimal
    calls_per_s: float
    tokens_per_s: float
    charge_per_s: Decimal
    nodes: list[FlowNode]
    links: list[FlowLink]
    last_calls: list[CallShape]
