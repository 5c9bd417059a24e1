"""
The business that calls are measured in, opened through the product's own services.

Organisations with a team, users and keys, a limit on each of the four levels; suppliers that
each serve a model of their own, so that a call chooses its supplier by its model; all six legs
of a sale and its purchase have an owner.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

import msgspec

from tokenworks.bootstrap.hub import Hub, open_hub
from tokenworks.foundation.money import LIMIT_USD, USD, Amount
from tokenworks.identity.model import PartyKind, Role
from tokenworks.metering.model import Axis
from tokenworks.pricing.model import complete_prices
from tokenworks.settings import Settings
from tokenworks.supply.costing import share_card
from tokenworks.supply.model import OfferTerms, Split

TIER: Final = "standard"
KEYS_OF_ONE_ORGANISATION: Final = 32
ORGANISATIONS: Final = 100
SUPPLIERS: Final = 100

_DOLLAR: Final = 10**USD.scale
_DEPOSIT_QUANTA: Final = 1_000_000 * _DOLLAR
_LIMIT_QUANTA: Final = 900_000 * _DOLLAR
_WINDOWS: Final = ("ever", "year", "month", "day")
"""Of the limits of organisation, team, user and key."""
_PRICES: Final = {Axis.INPUT: 750_000_000, Axis.OUTPUT: 3_000_000_000}
_SUPPLIER_PPM: Final = 600_000

Progress = Callable[[str], None]


class Business(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the callers need to know of it; written to a file that only the owner can read.
    """

    keys_one: tuple[str, ...]
    """Secrets of keys of one organisation with one team."""
    keys_many: tuple[str, ...]
    """Secrets of one key each of many organisations."""
    key_refused: str
    """Of the one organisation, with a limit of its own that no call fits in."""
    key_empty: str
    """Of an organisation without money."""
    models: tuple[str, ...]
    """One a supplier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """
    Scopes from the organisation down.
    """

    organisation: UUID
    team: UUID


def settings_of(data_dir: Path) -> Settings:
    """
    Return a hub's settings; only its keys are kept in ``data_dir``.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Settings(data_dir=data_dir, log_level="error")


async def open_business(
    dsn: str,
    data_dir: Path,
    progress: Progress,
    *,
    suppliers: int = SUPPLIERS,
    organisations: int = ORGANISATIONS,
) -> Business:
    """
    Open everything in one database.
    """
    async with open_hub(settings_of(data_dir), dsn, name="bench setup") as hub:
        progress(f"opening {suppliers} suppliers")
        models = await _open_suppliers(hub, suppliers)
        progress(f"opening {organisations + 2} organisations")
        one = await _open_organisation(hub, "one", deposit_quanta=_DEPOSIT_QUANTA)
        keys_one = [
            await _open_key(hub, one, f"one-user-{number}", limit_quanta=_LIMIT_QUANTA)
            for number in range(KEYS_OF_ONE_ORGANISATION)
        ]
        key_refused = await _open_key(hub, one, "one-user-refused", limit_quanta=1)
        empty = await _open_organisation(hub, "empty", deposit_quanta=0)
        key_empty = await _open_key(hub, empty, "empty-user", limit_quanta=_LIMIT_QUANTA)
        keys_many: list[str] = []
        for number in range(organisations):
            levels = await _open_organisation(hub, f"many-{number}", deposit_quanta=_DEPOSIT_QUANTA)
            user = f"many-{number}-user"
            keys_many.append(await _open_key(hub, levels, user, limit_quanta=_LIMIT_QUANTA))
        return Business(
            keys_one=tuple(keys_one),
            keys_many=tuple(keys_many),
            key_refused=key_refused,
            key_empty=key_empty,
            models=tuple(models),
        )


async def _open_suppliers(hub: Hub, count: int) -> list[str]:
    owners = {
        "reseller": PartyKind.RESELLER,
        "rights": PartyKind.RIGHTS_HOLDER,
        "power": PartyKind.POWER_PRODUCER,
    }
    ids = {
        name: (await hub.opening.add_party(name, kind=kind)).party_id
        for name, kind in owners.items()
    }
    split = Split(
        tax_ppm=80_000,
        reseller_ppm=50_000,
        reseller_id=ids["reseller"],
        rights_ppm=30_000,
        rights_id=ids["rights"],
        power_ppm=200_000,
        power_id=ids["power"],
    )
    terms = OfferTerms(upstream_model="m", cost_card=share_card(_SUPPLIER_PPM), split=split)
    models: list[str] = []
    for number in range(count):
        party = await hub.opening.add_party(f"supplier-{number}", kind=PartyKind.SUPPLIER)
        supplier = await hub.supply.add_supplier(
            f"supplier-{number}",
            party_id=party.party_id,
            base_url="http://127.0.0.1:9/v1",  # is never asked
            allow_private=True,
        )
        models.append(f"model-{number}")
        await hub.prices.set_prices(models[-1], TIER, complete_prices(_PRICES))
        await hub.supply.add_offer(supplier.supplier_id, model=models[-1], tier=TIER, terms=terms)
    return models


async def _open_organisation(hub: Hub, name: str, *, deposit_quanta: int) -> Levels:
    organisation = await hub.opening.add_party(name, kind=PartyKind.BUYER)
    team = await hub.opening.add_party(f"{name}-team", kind=PartyKind.BUYER, parent=name)
    await _limit(hub, organisation.party_id, _WINDOWS[0], _LIMIT_QUANTA)
    await _limit(hub, team.party_id, _WINDOWS[1], _LIMIT_QUANTA)
    if deposit_quanta:
        await hub.ledger.deposit(
            party_id=organisation.party_id,
            amount=Amount(quanta=deposit_quanta, asset=USD),
            rail="benchmark",
            reference=name,
            actor="benchmark",
        )
    return Levels(organisation=organisation.party_id, team=team.party_id)


async def _open_key(hub: Hub, levels: Levels, user_name: str, *, limit_quanta: int) -> str:
    """
    Add a user with a key; the key's limit is ``limit_quanta``, the user's is ample.
    """
    user = await hub.opening.add_party(user_name, kind=PartyKind.BUYER, parent=levels.team)
    key, secret = await hub.opening.add_key(user.party_id, role=Role.BUYER, label="benchmark")
    await _limit(hub, user.party_id, _WINDOWS[2], _LIMIT_QUANTA)
    await _limit(hub, key.key_id, _WINDOWS[3], limit_quanta)
    return secret


async def _limit(hub: Hub, scope_id: UUID, window: str, quanta: int) -> None:
    await hub.ledger.set_limit(
        scope_id=scope_id, asset=LIMIT_USD, quanta=quanta, window=window, actor="benchmark"
    )
