"""
Read and write suppliers and offers; every function takes part in the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

from psycopg.types.json import Jsonb

from tokenworks.postgres.pool import Connection, Row
from tokenworks.postgres.queries import load
from tokenworks.supply.model import (
    CostCard,
    Offer,
    OfferState,
    OfferTerms,
    Split,
    Supplier,
    SupplierKind,
    SupplierState,
    Timeouts,
)

_queries: Final = load("tokenworks.supply")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSupplier:
    """
    A supplier's row: what may be seen, and the key as it is stored.
    """

    supplier: Supplier
    api_key_encrypted: bytes | None = field(repr=False)  # None: the supplier wants none


async def insert_supplier(
    connection: Connection,
    supplier: Supplier,
    *,
    api_key_encrypted: bytes | None,
) -> StoredSupplier | None:
    """
    Add a supplier; return ``None`` when the name is taken.
    """
    values = _reach_values(supplier, api_key_encrypted=api_key_encrypted)
    cursor = await connection.execute(
        _queries["insert_supplier"],
        {
            **values,
            "party_id": supplier.party_id,
            "name": supplier.name,
            "kind": supplier.kind.value,
            "now": supplier.created_at,
        },
    )
    row = await cursor.fetchone()
    return None if row is None else _supplier(row)


async def find_supplier(connection: Connection, reference: UUID | str) -> StoredSupplier | None:
    """
    Return the supplier of an id or a name.
    """
    is_id = isinstance(reference, UUID)
    cursor = await connection.execute(
        _queries["select_suppliers"],
        {"supplier_id": reference if is_id else None, "name": None if is_id else reference},
    )
    row = await cursor.fetchone()
    return None if row is None else _supplier(row)


async def list_suppliers(connection: Connection) -> list[StoredSupplier]:
    """
    Return every supplier by name; an operator has few.
    """
    cursor = await connection.execute(
        _queries["select_suppliers"], {"supplier_id": None, "name": None}
    )
    return [_supplier(row) for row in await cursor.fetchall()]


async def lock_supplier(connection: Connection, supplier_id: UUID) -> None:
    """
    Make other editors of a supplier wait until the transaction ends.
    """
    await connection.execute(_queries["lock_supplier"], {"supplier_id": supplier_id})


async def update_supplier(
    connection: Connection,
    supplier: Supplier,
    *,
    api_key_encrypted: bytes | None,
    now: datetime,
) -> None:
    """
    Store how a supplier is reached from now on.
    """
    values = _reach_values(supplier, api_key_encrypted=api_key_encrypted)
    await connection.execute(_queries["update_supplier"], {**values, "now": now})


async def update_supplier_state(
    connection: Connection, *, supplier_id: UUID, state: SupplierState, now: datetime
) -> bool:
    """
    Change a supplier's state; return whether it was another one.
    """
    cursor = await connection.execute(
        _queries["update_supplier_state"],
        {"supplier_id": supplier_id, "state": state.value, "now": now},
    )
    return cursor.rowcount == 1


async def insert_offer(
    connection: Connection,
    *,
    offer_id: UUID,
    supplier_id: UUID,
    model: str,
    tier: str,
    terms: OfferTerms,
    now: datetime,
) -> bool:
    """
    Add an offer with its first terms; return ``False`` when there is one already.
    """
    cursor = await connection.execute(
        _queries["insert_offer"],
        {
            "offer_id": offer_id,
            "supplier_id": supplier_id,
            "model": model,
            "tier": tier,
            "now": now,
        },
    )
    if await cursor.fetchone() is None:
        return False
    await _insert_terms(connection, offer_id=offer_id, version=1, terms=terms, now=now)
    return True


async def replace_terms(
    connection: Connection, *, offer_id: UUID, terms: OfferTerms, now: datetime
) -> bool:
    """
    Put new terms in force, keeping the old; return ``False`` when there is no such offer.
    """
    cursor = await connection.execute(
        _queries["next_terms_version"], {"offer_id": offer_id, "now": now}
    )
    row = await cursor.fetchone()
    if row is None:
        return False
    await _insert_terms(connection, offer_id=offer_id, version=row[0], terms=terms, now=now)
    return True


async def update_offer_state(
    connection: Connection,
    *,
    offer_id: UUID,
    state: OfferState,
    blocked_reason: str | None,
    now: datetime,
) -> bool:
    """
    Change an offer's state; return whether it was another one.
    """
    cursor = await connection.execute(
        _queries["update_offer_state"],
        {
            "offer_id": offer_id,
            "state": state.value,
            "blocked_reason": blocked_reason,
            "now": now,
        },
    )
    return cursor.rowcount == 1


async def find_offer(connection: Connection, offer_id: UUID) -> Offer | None:
    """
    Return an offer with its terms in force.
    """
    cursor = await connection.execute(
        _queries["select_offers"], {"offer_id": offer_id, "supplier_id": None, "model": None}
    )
    row = await cursor.fetchone()
    return None if row is None else _offer(row)


async def list_offers(
    connection: Connection, *, supplier_id: UUID | None = None, model: str | None = None
) -> list[Offer]:
    """
    Return offers by model, tier and priority.
    """
    cursor = await connection.execute(
        _queries["select_offers"],
        {"offer_id": None, "supplier_id": supplier_id, "model": model},
    )
    return [_offer(row) for row in await cursor.fetchall()]


async def find_terms(connection: Connection, *, offer_id: UUID, version: int) -> OfferTerms | None:
    """
    Return one version of an offer's terms, in force or not.
    """
    cursor = await connection.execute(
        _queries["select_terms"], {"offer_id": offer_id, "version": version}
    )
    row = await cursor.fetchone()
    if row is None:
        return None
    upstream_model, share_ppm, costs, *split, context_tokens_max, priority = row
    return OfferTerms(
        upstream_model=upstream_model,
        cost_card=_cost_card(share_ppm, costs),
        split=_split(split),
        context_tokens_max=context_tokens_max,
        priority=priority,
    )


async def read_one_state(connection: Connection) -> None:
    """
    Let every statement of this new transaction see the same state.
    """
    await connection.execute(_queries["read_one_state"])


async def notify(connection: Connection) -> None:
    """
    Tell every process, when the transaction commits, to load again.
    """
    await connection.execute(_queries["notify"])


async def listen(connection: Connection) -> None:
    """
    Subscribe a connection to what ``notify`` says.
    """
    await connection.execute(_queries["listen"])


async def _insert_terms(
    connection: Connection, *, offer_id: UUID, version: int, terms: OfferTerms, now: datetime
) -> None:
    card, split = terms.cost_card, terms.split
    await connection.execute(
        _queries["insert_terms"],
        {
            "offer_id": offer_id,
            "version": version,
            "upstream_model": terms.upstream_model,
            "priority": terms.priority,
            "context_tokens_max": terms.context_tokens_max,
            "supplier_share_ppm": card.supplier_share_ppm,
            "costs": None if card.costs is None else Jsonb(dict(card.costs)),
            "tax_ppm": split.tax_ppm,
            "reseller_ppm": split.reseller_ppm,
            "reseller_id": split.reseller_id,
            "rights_ppm": split.rights_ppm,
            "rights_id": split.rights_id,
            "power_ppm": split.power_ppm,
            "power_id": split.power_id,
            "now": now,
        },
    )


def _reach_values(supplier: Supplier, *, api_key_encrypted: bytes | None) -> dict[str, object]:
    return {
        "supplier_id": supplier.supplier_id,
        "base_url": supplier.base_url,
        "api_key_encrypted": api_key_encrypted,
        "allow_private": supplier.allow_private,
        "sends_call_id": supplier.sends_call_id,
        "connect_timeout_ms": supplier.timeouts.connect_timeout_ms,
        "first_byte_timeout_ms": supplier.timeouts.first_byte_timeout_ms,
        "idle_timeout_ms": supplier.timeouts.idle_timeout_ms,
    }


def _supplier(row: Row) -> StoredSupplier:
    (supplier_id, party_id, name, kind, base_url, sealed, allow_private, *rest) = row
    (
        sends_call_id,
        connect_timeout_ms,
        first_byte_timeout_ms,
        idle_timeout_ms,
        state,
        created_at,
    ) = rest
    supplier = Supplier(
        supplier_id=supplier_id,
        party_id=party_id,
        name=name,
        kind=SupplierKind(kind),
        base_url=base_url,
        has_api_key=sealed is not None,
        allow_private=allow_private,
        sends_call_id=sends_call_id,
        timeouts=Timeouts(
            connect_timeout_ms=connect_timeout_ms,
            first_byte_timeout_ms=first_byte_timeout_ms,
            idle_timeout_ms=idle_timeout_ms,
        ),
        state=SupplierState(state),
        created_at=created_at,
    )
    return StoredSupplier(supplier=supplier, api_key_encrypted=sealed)


def _offer(row: Row) -> Offer:
    (offer_id, supplier_id, supplier_name, supplier_party_id, model, upstream_model) = row[:6]
    (tier, share_ppm, costs) = row[6:9]
    (context_tokens_max, priority, state, blocked_reason, terms_version, created_at) = row[16:]
    return Offer(
        offer_id=offer_id,
        supplier_id=supplier_id,
        supplier_name=supplier_name,
        supplier_party_id=supplier_party_id,
        model=model,
        upstream_model=upstream_model,
        tier=tier,
        cost_card=_cost_card(share_ppm, costs),
        split=_split(row[9:16]),
        context_tokens_max=context_tokens_max,
        priority=priority,
        state=OfferState(state),
        blocked_reason=blocked_reason,
        terms_version=terms_version,
        created_at=created_at,
    )


def _cost_card(share_ppm: int | None, costs: Mapping[str, int] | None) -> CostCard:
    frozen = None if costs is None else MappingProxyType(dict(costs))
    return CostCard(supplier_share_ppm=share_ppm, costs=frozen)


def _split(values: Sequence[Any]) -> Split:
    tax_ppm, reseller_ppm, reseller_id, rights_ppm, rights_id, power_ppm, power_id = values
    return Split(
        tax_ppm=tax_ppm,
        reseller_ppm=reseller_ppm,
        reseller_id=reseller_id,
        rights_ppm=rights_ppm,
        rights_id=rights_id,
        power_ppm=power_ppm,
        power_id=power_id,
    )
