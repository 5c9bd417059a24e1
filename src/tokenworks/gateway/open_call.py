"""
One call while it is open: what was asked, quoted, held and tried so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from tokenworks.agents.payments.held import HeldPayment
from tokenworks.gateway.model import Attempt
from tokenworks.gateway.request import ChatRequest
from tokenworks.identity.model import Principal
from tokenworks.ledger.model import ASSET_IDS, Part
from tokenworks.pricing.model import RateCard
from tokenworks.pricing.tiers import Tier
from tokenworks.supply.model import Offer

LIMIT_TOKENS = ASSET_IDS["LIMIT.TOK"]
LIMIT_PAYMENTS = ASSET_IDS["LIMIT.PAYMENTS"]


@dataclass(slots=True, kw_only=True)
class Quote:
    """
    The most a call may use, as it is held; grows with extensions.
    """

    input_tokens: int
    output_tokens: int
    """Of all choices together."""
    quanta: int

    @property
    def tokens(self) -> int:
        """
        Return input and output together.
        """
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Quoted:
    """
    What a body asks for, with its price and who may serve it.
    """

    request: ChatRequest
    raw_body: bytes = field(repr=False)
    tier: Tier
    card: RateCard
    offers: Sequence[Offer]
    quote: Quote
    granted_output: int | None
    quoted_at: datetime


@dataclass(slots=True, kw_only=True)
class OpenCall:
    """
    The state of one call between its hold and its settle.
    """

    call_id: UUID
    principal: Principal
    request: ChatRequest
    raw_body: bytes = field(repr=False)
    tier: Tier
    card: RateCard
    offers: Sequence[Offer]
    quote: Quote
    granted_output: int | None
    """The cap per choice sent upstream; ``None``: a stream that grows as it goes."""
    started_at: datetime
    started_s: float
    expires_at: datetime
    path_version: int
    parts: tuple[Part, ...] = ()
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    extensions: int = 0
    first_token_s: float | None = None
    payment: HeldPayment | None = None
    """What a wallet signed for this call; its hold is this call's, and never grows."""

    @property
    def money_asset(self) -> int:
        """
        Return the ledger's number of the card's currency.
        """
        return ASSET_IDS[self.card.currency]

    @property
    def money_limit_asset(self) -> int:
        """
        Return the ledger's number of the limits that count this currency.
        """
        return ASSET_IDS[f"LIMIT.{self.card.currency}"]

    @property
    def is_token_limited(self) -> bool:
        """
        Return whether any limit on the path counts tokens.
        """
        return any(part.asset_id == LIMIT_TOKENS for part in self.parts)
