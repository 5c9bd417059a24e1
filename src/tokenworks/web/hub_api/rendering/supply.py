"""
Draw suppliers and offers; a supplier's key never leaves.
"""

from __future__ import annotations

from uuid import UUID

from tokenworks.supply.model import Offer, Split, Supplier
from tokenworks.web.hub_api.directory import Directory
from tokenworks.web.hub_api.rendering.prices import to_price_texts
from tokenworks.web.hub_api.shapes.supply import OfferShape, SplitShape, SupplierRef, SupplierShape


def to_supplier(supplier: Supplier, directory: Directory) -> SupplierShape:
    """
    Return a supplier without its key; its party was loaded.
    """
    return SupplierShape(
        supplier_id=supplier.supplier_id,
        name=supplier.name,
        party=directory.party(supplier.party_id),
        kind=str(supplier.kind),
        base_url=supplier.base_url,
        allow_private=supplier.allow_private,
        sends_call_id=supplier.sends_call_id,
        has_api_key=supplier.has_api_key,
        state=str(supplier.state),
        created_at=supplier.created_at,
    )


def split_parties(split: Split) -> tuple[UUID | None, ...]:
    """
    Return who owns the shares of a split.
    """
    return split.reseller_id, split.rights_id, split.power_id


def to_offer(offer: Offer, directory: Directory) -> OfferShape:
    """
    Return an offer; the parties of its split were loaded.
    """

    def name(party_id: UUID | None) -> str | None:
        return None if party_id is None else directory.name(party_id)

    card, split = offer.cost_card, offer.split
    return OfferShape(
        offer_id=offer.offer_id,
        supplier=SupplierRef(supplier_id=offer.supplier_id, name=offer.supplier_name),
        model=offer.model,
        upstream_model=offer.upstream_model,
        tier=offer.tier,
        supplier_share_ppm=card.supplier_share_ppm,
        costs=None if card.costs is None else to_price_texts(card.costs),
        split=SplitShape(
            tax_ppm=split.tax_ppm,
            reseller_ppm=split.reseller_ppm,
            reseller=name(split.reseller_id),
            rights_ppm=split.rights_ppm,
            rights=name(split.rights_id),
            power_ppm=split.power_ppm,
            power=name(split.power_id),
        ),
        context_tokens_max=offer.context_tokens_max,
        priority=offer.priority,
        state=str(offer.state),
        blocked_reason=offer.blocked_reason,
        created_at=offer.created_at,
    )
