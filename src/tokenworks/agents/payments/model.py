"""
What a wallet signs, and what becomes of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from tokenworks.agents.brake.model import Decision, Review

AUTHORISATION_TYPE: Final = "tokenworks-payment+jwt"
"""``typ`` of the compact JWS that a wallet signs."""

LIFETIME_S_MAX: Final = 3_600
"""The longest time between ``iat`` and ``exp`` of an authorisation."""

CLOCK_SKEW_S_MAX: Final = 60
"""How far ahead of the hub's clock ``iat`` may be."""

HOLD_LIFETIME_S_MAX: Final = 3_600
HOLD_LIFETIME_S_MIN: Final = 1

AUTHORISATION_CHARACTERS_MAX: Final = 8_192
URL_CHARACTERS_MAX: Final = 2_048
REFERENCE_CHARACTERS_MAX: Final = 255


class Scheme(StrEnum):
    """
    x402's schemes on the hub's own network.
    """

    EXACT = "exact"
    UPTO = "upto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """
    The one request that an authorisation pays for.
    """

    method: str  # upper case
    url: str
    body_sha256: str  # base64url; of nothing for a request without a body


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """
    What a seller asks for; what a wallet signed is compared with it, claim by claim.
    """

    scheme: Scheme
    network: str
    amount: int  # quanta; for ``upto`` the most before the work, the actual one after it
    asset: str
    pay_to: UUID
    binding: Binding
    timeout_s: int  # how long the hold may live, at most ``HOLD_LIFETIME_S_MAX``


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorisation:
    """
    A verified signature and what it says.
    """

    payment_id: UUID  # ``payment_id_of(payer, nonce)``
    payer: str  # wallet address; claim ``iss``
    network: str  # claim ``aud``
    nonce: UUID  # a UUIDv7 minted by the payer; claim ``jti``
    issued_at: datetime
    expires_at: datetime
    scheme: Scheme
    amount: int  # quanta; for ``upto`` the most
    asset: str
    pay_to: UUID
    binding: Binding
    mandate_id: UUID | None  # ``None``: the wallet's only one
    reference: str | None
    jws: str

    digest: bytes  # SHA-256 of everything above but times and signature


class PaymentState(StrEnum):
    """
    Where a payment stands.
    """

    HELD = "held"  # money is reserved
    IN_REVIEW = "in_review"  # money is reserved, a person decides
    CAPTURED = "captured"
    RELEASED = "released"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """
    A payment as it stands in the books.
    """

    payment_id: UUID
    state: PaymentState
    payer: str
    agent_id: UUID
    organisation_id: UUID
    mandate_id: UUID
    payee_id: UUID
    scheme: str  # a ``Scheme``, ``call`` or ``escrow``
    currency: str
    authorised_quanta: int
    captured_quanta: int
    resource: str
    decision: Decision
    recorded_at: datetime
    review: Review | None = None  # what people said; ``None``: they were not asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipted:
    """
    A capture or a release that is in the books, now or since an earlier time.
    """

    payment: Payment
    ordinal: int
    captured_quanta: int  # by this capture; 0 for a release
    recorded_at: datetime
    is_repeat: bool  # it was recorded before; this is the first answer again


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentFilter:
    """
    Which payments a list is about; ``None`` means any.
    """

    within_party_id: UUID | None = None  # paid by this party or one below it, or paid to it
    organisation_id: UUID | None = None
    agent_id: UUID | None = None
    mandate_id: UUID | None = None
    payee_id: UUID | None = None
    since: datetime | None = None
    is_held: bool = False  # those that wait for their end, instead of those that have it
