"""
What comes in through the hub API: request bodies and query parameters.

Parsed once here and trusted inside. Unknown fields are refused, so that a typing mistake in
a limit or a share is never silently ignored.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated, Final, Literal
from uuid import UUID

from fastapi import Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from tokenworks.foundation.limits import PAGE_ROWS_DEFAULT, PAGE_ROWS_MAX
from tokenworks.gateway.refunding import Bearer
from tokenworks.identity.model import Level, PartyKind, PartyState, Role
from tokenworks.metering.model import Axis
from tokenworks.supply.model import PRIORITY_DEFAULT, SupplierKind

NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9._-]{0,62}$"


FIRST_YEAR: Final = 1970
"""No books are older, and ids of times before it do not exist."""


def _in_utc(moment: datetime) -> datetime:
    try:
        in_utc = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError as error:
        message = "a time of the calendar in UTC, too"
        raise ValueError(message) from error
    _from_first_year(in_utc)
    return in_utc


def _from_first_year(day: date) -> date:
    if day.year < FIRST_YEAR:
        message = f"{FIRST_YEAR} or later"
        raise ValueError(message)
    return day


def _one_line(text: str) -> str:
    if text and not text.isprintable():
        message = "one line of printable characters"
        raise ValueError(message)
    return text


MomentIn = Annotated[datetime, AfterValidator(_in_utc)]
DayIn = Annotated[date, AfterValidator(_from_first_year)]
NewName = Annotated[str, Field(pattern=NAME_PATTERN)]
NameOrId = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[!-~]+$")]
DecimalIn = Annotated[str, Field(pattern=r"^\d{1,30}(\.\d{1,30})?$", examples=["12.5"])]
AxisPrices = Annotated[dict[Axis, DecimalIn], Field(min_length=1)]
Ppm = Annotated[int, Field(ge=0, le=1_000_000)]
ModelName = Annotated[str, Field(min_length=1, max_length=200)]
TierName = Annotated[str, Field(min_length=1, max_length=63)]
ShortText = Annotated[str, Field(max_length=200), AfterValidator(_one_line)]
ActorName = Annotated[ShortText, Field(pattern=r"^[^()]*$")]
"""Whom a key says it acts for; the books add the key in brackets, which nobody else may write."""


class Body(BaseModel):
    """
    Any request body.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class PartyIn(Body):
    """
    A new party.
    """

    name: NewName
    kind: PartyKind
    level: Level | None = None
    parent: NameOrId | None = None
    default_tier: TierName | None = None


class PartyPatch(Body):
    """
    What may change about a party.
    """

    state: PartyState | None = None
    default_tier: TierName | None = None


class KeyIn(Body):
    """
    A new API key.
    """

    party: NameOrId
    role: Role | None = None
    label: ShortText = ""
    models: Annotated[list[ModelName], Field(min_length=1, max_length=500)] | None = None
    requests_per_minute: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    expires_at: MomentIn | None = None
    mandate: UUID | None = None


class LimitIn(Body):
    """
    A limit on a party or a key.
    """

    party: NameOrId | None = None
    key: UUID | None = None
    amount: DecimalIn
    unit: Literal["USD", "tokens"] = "USD"
    per: Literal["ever", "minute", "hour", "day", "week", "month", "quarter", "year"]
    time_zone: Annotated[str, Field(min_length=1, max_length=64)] = "UTC"

    @model_validator(mode="after")
    def _has_one_scope(self) -> LimitIn:
        if (self.party is None) == (self.key is None):
            message = "name either a party or a key"
            raise ValueError(message)
        return self


class DepositIn(Body):
    """
    Money that came in.
    """

    party: NameOrId
    amount: DecimalIn
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"
    rail: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9:_-]{0,62}$")] = "manual"
    reference: Annotated[str, Field(min_length=1, max_length=255)] | None = None


class SupplierIn(Body):
    """
    A new supplier; its key is stored encrypted and never answered.
    """

    name: NewName
    kind: SupplierKind = SupplierKind.OPENAI
    base_url: Annotated[str, Field(max_length=2_000)]
    api_key: SecretStr | None = None
    allow_private: bool = False
    sends_call_id: bool = False


class SupplierPatch(Body):
    """
    What may change about a supplier.
    """

    base_url: Annotated[str, Field(max_length=2_000)] | None = None
    api_key: SecretStr | None = None
    drop_api_key: bool = False
    allow_private: bool | None = None
    sends_call_id: bool | None = None


class SupplierTestIn(Body):
    """
    How to test a supplier.
    """

    model: ModelName | None = None
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 15


class ReversalIn(Body):
    """
    Why an entry is reversed, and by whom; the key is recorded in any case.
    """

    reason: Annotated[str, Field(min_length=1, max_length=500)]
    actor: ActorName | None = None
    accounting_date: DayIn | None = None


class RefundIn(Body):
    """
    What of a call's charge goes back, why, and who bears it.
    """

    amount: DecimalIn
    reason: Annotated[str, Field(min_length=1, max_length=500)]
    borne_by: Bearer = Bearer.PLATFORM
    reference: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    actor: ActorName | None = None


class ClosingIn(Body):
    """
    The accounting date (UTC) to close.
    """

    date: DayIn
    actor: ActorName | None = None


class SplitIn(Body):
    """
    How a charge is shared; names may be left out where only one party can be meant.
    """

    tax_ppm: Ppm = 0
    reseller_ppm: Ppm = 0
    reseller: NameOrId | None = None
    rights_ppm: Ppm = 0
    rights: NameOrId | None = None
    power_ppm: Ppm = 0
    power: NameOrId | None = None


class OfferIn(Body):
    """
    A new offer.
    """

    supplier: NameOrId
    model: ModelName
    tier: TierName
    upstream_model: ModelName | None = None
    supplier_share_ppm: Ppm | None = None
    costs: AxisPrices | None = None
    split: SplitIn = SplitIn()
    context_tokens_max: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    priority: Annotated[int, Field(ge=0, le=1_000_000)] = PRIORITY_DEFAULT  # smallest first

    @model_validator(mode="after")
    def _has_one_cost_card(self) -> OfferIn:
        if (self.supplier_share_ppm is None) == (self.costs is None):
            message = "give either supplier_share_ppm or costs"
            raise ValueError(message)
        return self


class OfferPatch(Body):
    """
    What may change about an offer.
    """

    upstream_model: ModelName | None = None
    supplier_share_ppm: Ppm | None = None
    costs: AxisPrices | None = None
    split: SplitIn | None = None
    context_tokens_max: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    priority: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    state: Literal["active", "paused"] | None = None

    @model_validator(mode="after")
    def _has_at_most_one_cost_card(self) -> OfferPatch:
        if self.supplier_share_ppm is not None and self.costs is not None:
            message = "give either supplier_share_ppm or costs"
            raise ValueError(message)
        return self


class PricesIn(Body):
    """
    New rows of the price book; USD per million.
    """

    model: ModelName
    tier: TierName
    prices: AxisPrices
    effective_at: MomentIn | None = None


class PageQuery(BaseModel):
    """
    Where a page begins and how long it is.
    """

    model_config = ConfigDict(frozen=True)

    cursor: Annotated[str, Field(min_length=1, max_length=1_000)] | None = None
    limit: Annotated[int, Field(ge=1, le=PAGE_ROWS_MAX)] = PAGE_ROWS_DEFAULT


class CallQuery(PageQuery):
    """
    Which calls, and how.
    """

    party: NameOrId | None = None
    team: NameOrId | None = None
    key: UUID | None = None
    model: ModelName | None = None
    tier: TierName | None = None
    status: Literal["settled", "failed"] | None = None
    supplier: NameOrId | None = None
    since: MomentIn | None = None
    until: MomentIn | None = None
    format: Literal["json", "csv"] = "json"


PageParameters = Annotated[PageQuery, Query()]
CallParameters = Annotated[CallQuery, Query()]
SpendBy = Literal["team", "user", "key", "model", "tier", "day", "supplier"]
