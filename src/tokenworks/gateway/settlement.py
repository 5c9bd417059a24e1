"""
Divide a charge into legs; pure.

A call settles as one *sale* (the buyer's cash to tax, reseller, rights and platform, by the
offer's shares, largest remainder, parts sum to the charge) and one *purchase* per attempt
that delivered (the platform's cost to the supplier, out of which the power producer).
Zero legs are left out. The platform's margin is what is left and may be negative.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from uuid import UUID

import msgspec

from tokenworks.foundation.money import PPM, split_by_shares
from tokenworks.identity.model import PLATFORM_ID, TAX_ID
from tokenworks.supply.costing import payable_quanta
from tokenworks.supply.model import Offer

SALE_KINDS: Final = ("tax", "reseller", "rights", "platform")

PURPOSES: Final[Mapping[str, str]] = {
    "tax": "tax_payable",
    "reseller": "reseller_payable",
    "rights": "rights_payable",
    "platform": "platform_revenue",
    "supplier": "supplier_payable",
    "power": "power_payable",
}


class SettlementLeg(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    One party's part of a call. A Struct because six are made on every call.
    """

    kind: str
    """One of ``PURPOSES``; sale legs are paid by the buyer, the others by the platform."""
    payee: UUID
    quanta: int

    @property
    def is_sale(self) -> bool:
        """
        Return whether the buyer pays it.
        """
        return self.kind in SALE_KINDS


def settlement_legs(
    offer: Offer, *, charge_quanta: int, counts: Mapping[str, int]
) -> list[SettlementLeg]:
    """
    Return the legs of a call that one offer served, sale first.

    Args:
        offer: Whose cost card and split apply.
        charge_quanta: What the buyer pays; 0 for an answer that is not billed.
        counts: Usage by axis; what an axis card is paid for.
    """
    legs = _sale(offer, charge_quanta)
    owed = payable_quanta(offer.cost_card, charge_quanta=charge_quanta, counts=counts)
    # The power producer's part rounds down; the supplier keeps the remainder.
    power = owed * offer.split.power_ppm // PPM
    if owed - power:
        legs.append(
            SettlementLeg(kind="supplier", payee=offer.supplier_party_id, quanta=owed - power)
        )
    if power and offer.split.power_id is not None:
        legs.append(SettlementLeg(kind="power", payee=offer.split.power_id, quanta=power))
    assert sum(leg.quanta for leg in legs if leg.is_sale) == charge_quanta, "parts sum up"
    return legs


def payable_of(legs: list[SettlementLeg]) -> int:
    """
    Return what the platform owes for the attempt, power included.
    """
    return sum(leg.quanta for leg in legs if not leg.is_sale)


def _sale(offer: Offer, charge_quanta: int) -> list[SettlementLeg]:
    if charge_quanta == 0:
        return []
    split = offer.split
    shares = [split.tax_ppm, split.reseller_ppm, split.rights_ppm]
    parts = split_by_shares(charge_quanta, [*shares, PPM - sum(shares)])
    payees = (TAX_ID, split.reseller_id, split.rights_id, PLATFORM_ID)
    legs: list[SettlementLeg] = []
    for kind, payee, quanta in zip(SALE_KINDS, payees, parts, strict=True):
        if quanta:
            assert payee is not None, "a share above zero has an owner"
            legs.append(SettlementLeg(kind=kind, payee=payee, quanta=quanta))
    return legs
