"""
Open the demo's business, or find it open.

Owns: the parties, limits, supplier and prices that ``tokenworks up --demo`` starts with. Does not
own: ``demo.json`` (``cli``), the model that answers.

Invariant: repeated at each start, it adds what is missing and changes only the supplier's address.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final, cast

import msgspec

from tokenworks.bootstrap.hub import Hub, open_hub
from tokenworks.foundation.errors import TokenworksError
from tokenworks.foundation.money import LIMIT_TOKENS, LIMIT_USD, USD, Amount
from tokenworks.identity.model import PLATFORM_ID, Party, PartyKind, Role
from tokenworks.pricing.tiers import load_tiers
from tokenworks.settings import Settings
from tokenworks.supply.costing import share_card
from tokenworks.supply.model import OfferTerms, Split, SupplierKind

DEMO_MODEL: Final = "smollm2"
DEMO_TIERS: Final = ("free", "standard", "premium")
DEMO_DEPOSIT: Final = Amount(quanta=100 * 10**9, asset=USD)


async def prepare_demo(
    settings: Settings, dsn_owner: str, supplier_base_url: str
) -> Mapping[str, object]:
    """
    Open the demo's business, or find it open; return the fields of ``demo.json``.

    One organisation with a team and a user, limits on each and on the key; one supplier
    (the local model) with a power producer, a rights holder and a reseller; three tiers.
    Keys of an earlier ``demo.json`` that still work are kept.
    """
    async with open_hub(settings, dsn_owner, name="demo") as hub:
        keys = await _demo_keys(hub, _read_demo(settings.data_dir))
        await _demo_supply(hub, supplier_base_url)
        root = await hub.keys.ensure_root()
        return {
            "base_url": f"{settings.hub_url}/v1",
            "console_url": settings.console_url,
            "admin_key": keys["admin_key"],
            "buyer_key": keys["buyer_key"],
            "model": f"{DEMO_MODEL}@standard",
            "receipt_public_key": msgspec.to_builtins(root),
        }


async def _demo_keys(hub: Hub, earlier: Mapping[str, object]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in ("admin_key", "buyer_key"):
        secret = earlier.get(name)
        if isinstance(secret, str):
            with contextlib.suppress(TokenworksError):
                await hub.identity.authenticate(secret)
                found[name] = secret
    if "admin_key" not in found:
        _, found["admin_key"] = await hub.identity.add_key(
            PLATFORM_ID, role=Role.ADMIN, label="demo admin"
        )
    if "buyer_key" not in found:
        found["buyer_key"] = await _demo_buyer(hub)
    return found


async def _demo_buyer(hub: Hub) -> str:
    organisation = await _demo_party(hub, "acme", PartyKind.BUYER, None)
    team = await _demo_party(hub, "acme-research", PartyKind.BUYER, "acme")
    user = await _demo_party(hub, "alice", PartyKind.BUYER, "acme-research")
    await hub.ledger.deposit(
        party_id=organisation.party_id,
        amount=DEMO_DEPOSIT,
        rail="demo",
        reference="opening balance",
        actor="demo",
    )
    key, secret = await hub.opening.add_key(user.party_id, role=Role.BUYER, label="demo")
    limits = (
        (organisation.party_id, LIMIT_USD, 1000 * 10**9, "year"),
        (team.party_id, LIMIT_USD, 200 * 10**9, "month"),
        (user.party_id, LIMIT_TOKENS, 20_000_000, "day"),
        (key.key_id, LIMIT_USD, 50 * 10**9, "ever"),
    )
    for scope_id, asset, quanta, window in limits:
        await hub.ledger.set_limit(
            scope_id=scope_id, asset=asset, quanta=quanta, window=window, actor="demo"
        )
    return secret


async def _demo_party(hub: Hub, name: str, kind: PartyKind, parent: str | None) -> Party:
    try:
        return await hub.identity.get_party(name)
    except TokenworksError:
        return await hub.opening.add_party(name, kind=kind, parent=parent)


async def _demo_supply(hub: Hub, supplier_base_url: str) -> None:
    supplier_party = await _demo_party(hub, "demo-factory", PartyKind.SUPPLIER, None)
    power = await _demo_party(hub, "river-power", PartyKind.POWER_PRODUCER, None)
    rights = await _demo_party(hub, "open-library", PartyKind.RIGHTS_HOLDER, None)
    reseller = await _demo_party(hub, "corner-shop", PartyKind.RESELLER, None)
    try:
        supplier = await hub.supply.get_supplier("demo-factory")
        if supplier.base_url != supplier_base_url:
            await hub.supply.edit_supplier("demo-factory", base_url=supplier_base_url)
    except TokenworksError:
        supplier = await hub.supply.add_supplier(
            "demo-factory",
            party_id=supplier_party.party_id,
            base_url=supplier_base_url,
            kind=SupplierKind.LLAMA_CPP,
            allow_private=True,
        )
    split = Split(
        tax_ppm=80_000,
        reseller_ppm=30_000,
        reseller_id=reseller.party_id,
        rights_ppm=20_000,
        rights_id=rights.party_id,
        power_ppm=250_000,
        power_id=power.party_id,
    )
    terms = OfferTerms(
        upstream_model=DEMO_MODEL,
        cost_card=share_card(600_000),
        split=split,
        context_tokens_max=8_192,
    )
    known = {offer.tier for offer in await hub.supply.list_offers(supplier=supplier.supplier_id)}
    for tier in DEMO_TIERS:
        if tier not in known:
            await hub.supply.add_offer(
                supplier.supplier_id, model=DEMO_MODEL, tier=tier, terms=terms
            )
            await hub.prices.set_prices(DEMO_MODEL, tier, load_tiers()[tier].prices)


def _read_demo(data_dir: Path) -> Mapping[str, object]:
    try:
        content = json.loads((data_dir / "demo.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return cast("dict[str, object]", content) if isinstance(content, dict) else {}
