"""
Suppliers, offers and the snapshot of both that calls are routed by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final
from uuid import UUID

from tokenworks.foundation.limits import (
    SUPPLIER_CONNECT_TIMEOUT_S,
    SUPPLIER_FIRST_BYTE_TIMEOUT_S,
    SUPPLIER_IDLE_TIMEOUT_S,
)

PRIORITY_DEFAULT: Final = 100


class SupplierKind(StrEnum):
    """
    The protocol a supplier speaks.
    """

    OPENAI = "openai"
    LLAMA_CPP = "llama_cpp"


class SupplierState(StrEnum):
    """
    Whether any of a supplier's offers may be used.
    """

    ACTIVE = "active"
    PAUSED = "paused"


class OfferState(StrEnum):
    """
    Whether an offer may be used.

    ``PAUSED`` is the operator's wish, ``BLOCKED`` the hub's refusal, which has a reason.
    """

    ACTIVE = "active"
    PAUSED = "paused"
    BLOCKED = "blocked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """
    How long to wait for a supplier, in milliseconds.
    """

    connect_timeout_ms: int = int(SUPPLIER_CONNECT_TIMEOUT_S * 1000)
    first_byte_timeout_ms: int = int(SUPPLIER_FIRST_BYTE_TIMEOUT_S * 1000)
    idle_timeout_ms: int = int(SUPPLIER_IDLE_TIMEOUT_S * 1000)  # between two reads


@dataclass(frozen=True, slots=True, kw_only=True)
class Supplier:
    """
    An endpoint that answers calls, as operators may see it.
    """

    supplier_id: UUID
    party_id: UUID  # who is owed
    name: str
    kind: SupplierKind
    base_url: str  # without a slash at the end
    has_api_key: bool
    allow_private: bool  # the address may be private, and the scheme may be http
    sends_call_id: bool  # each request carries the hub's call id, for the supplier's statements
    timeouts: Timeouts
    state: SupplierState
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SupplierAccess:
    """
    A supplier with what it takes to call it; for adapters only.
    """

    supplier: Supplier
    api_key: str | None = field(repr=False)  # None: the supplier wants none


@dataclass(frozen=True, slots=True, kw_only=True)
class CostCard:
    """
    What a supplier is paid: a share of the charge, or a cost of each axis.

    Exactly one of the two is set; ``costing.share_card`` and ``costing.axis_card`` see to
    that.
    """

    supplier_share_ppm: int | None = None  # of the charge, 0 to 1,000,000
    costs: Mapping[str, int] | None = None  # axis -> nano-USD per 1,000,000 of it; every axis


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """
    Who else has a share, in parts per million.

    Tax, reseller and rights come out of the charge; power comes out of what the supplier is
    paid. A share above zero has an owner; tax is owed to the hub's tax authority.
    """

    tax_ppm: int = 0
    reseller_ppm: int = 0
    reseller_id: UUID | None = None
    rights_ppm: int = 0
    rights_id: UUID | None = None
    power_ppm: int = 0
    power_id: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferTerms:
    """
    The part of an offer that an edit replaces as a whole.
    """

    upstream_model: str  # the supplier's own name of the model
    cost_card: CostCard
    split: Split = field(default_factory=Split)
    context_tokens_max: int | None = None  # None: not known
    priority: int = PRIORITY_DEFAULT  # the smallest is tried first


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """
    A supplier's promise to serve a model at a tier.
    """

    offer_id: UUID
    supplier_id: UUID
    supplier_name: str
    supplier_party_id: UUID
    model: str  # the public name
    upstream_model: str
    tier: str
    cost_card: CostCard
    split: Split
    context_tokens_max: int | None  # None: not known
    priority: int  # the smallest is tried first
    state: OfferState
    blocked_reason: str | None
    terms_version: int  # counts edits; (offer_id, terms_version) explains a call for ever
    created_at: datetime

    @property
    def terms(self) -> OfferTerms:
        """
        Return what an edit would replace; change it with ``dataclasses.replace``.
        """
        return OfferTerms(
            upstream_model=self.upstream_model,
            cost_card=self.cost_card,
            split=self.split,
            context_tokens_max=self.context_tokens_max,
            priority=self.priority,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SupplySnapshot:
    """
    All suppliers and offers at one moment, in memory.
    """

    version: int  # rises with every reload of this process
    suppliers: Mapping[UUID, SupplierAccess]  # paused ones too; not those whose key is unreadable
    offers: Mapping[tuple[str, str], tuple[Offer, ...]]  # (model, tier) -> usable, best first
    all_offers: Mapping[UUID, Offer]  # paused and blocked ones too
    faults: Mapping[UUID, str]  # supplier id -> why it cannot be used; never a secret

    def offers_of(self, model: str, tier: str) -> tuple[Offer, ...]:
        """
        Return the usable offers of a model at a tier, by priority; empty when there is none.
        """
        return self.offers.get((model, tier), ())

    def tiers_of(self, model: str) -> tuple[str, ...]:
        """
        Return the tiers at which a model can be had now, sorted. O(offers).
        """
        return tuple(sorted(tier for name, tier in self.offers if name == model))


def empty_snapshot() -> SupplySnapshot:
    """
    Return the snapshot of a hub without suppliers; its version is zero.
    """
    return SupplySnapshot(
        version=0,
        suppliers=MappingProxyType({}),
        offers=MappingProxyType({}),
        all_offers=MappingProxyType({}),
        faults=MappingProxyType({}),
    )
