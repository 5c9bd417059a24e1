"""
Suppliers and offers as they leave the hub API.
"""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from tokenworks.web.hub_api.shapes.parts import Moment, PartyRef, Shape


class SupplierRef(Shape):
    """
    A supplier by id and name.
    """

    supplier_id: UUID
    name: str


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
