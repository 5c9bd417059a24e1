"""
Compose the snapshot that calls are routed by; pure but for opening the suppliers' keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from uuid import UUID

from tokenworks.supply.errors import SecretUnreadableError
from tokenworks.supply.model import (
    Offer,
    OfferState,
    SupplierAccess,
    SupplierState,
    SupplySnapshot,
)
from tokenworks.supply.secrets import SecretBox
from tokenworks.supply.store import StoredSupplier


def compose_snapshot(
    *,
    version: int,
    suppliers: Sequence[StoredSupplier],
    offers: Sequence[Offer],
    secrets: SecretBox,
) -> SupplySnapshot:
    """
    Return what can be used, from all that is stored. O(suppliers + offers).

    A supplier whose key cannot be opened is left out with its offers and becomes a fault;
    the others go on working.

    Args:
        version: Of the snapshot.
        suppliers: All of them.
        offers: All of them, in the order of priority.
        secrets: Opens the keys.
    """
    access: dict[UUID, SupplierAccess] = {}
    faults: dict[UUID, str] = {}
    for stored in suppliers:
        try:
            access[stored.supplier.supplier_id] = _open(stored, secrets)
        except SecretUnreadableError as error:
            faults[stored.supplier.supplier_id] = error.message
    usable: dict[tuple[str, str], list[Offer]] = {}
    for offer in offers:
        reach = access.get(offer.supplier_id)
        is_reachable = reach is not None and reach.supplier.state is SupplierState.ACTIVE
        if is_reachable and offer.state is OfferState.ACTIVE:
            usable.setdefault((offer.model, offer.tier), []).append(offer)
    return SupplySnapshot(
        version=version,
        suppliers=MappingProxyType(access),
        offers=MappingProxyType({key: tuple(found) for key, found in usable.items()}),
        all_offers=MappingProxyType({offer.offer_id: offer for offer in offers}),
        faults=MappingProxyType(faults),
    )


def _open(stored: StoredSupplier, secrets: SecretBox) -> SupplierAccess:
    sealed, supplier = stored.api_key_encrypted, stored.supplier
    if sealed is None:
        return SupplierAccess(supplier=supplier, api_key=None)
    api_key = secrets.decrypt(sealed, owner_id=supplier.supplier_id)
    return SupplierAccess(supplier=supplier, api_key=api_key)
