"""
Who gets what of a call, by examples; the laws are in ``properties/test_settlement_laws.py``.
"""

from __future__ import annotations

import pytest

from tests.unit.offer_samples import POWER, RESELLER, RIGHTS, SPLIT, SUPPLIER, offer
from tokenworks.gateway.settlement import (
    PURPOSES,
    SALE_KINDS,
    SettlementLeg,
    payable_of,
    settlement_legs,
)
from tokenworks.identity.model import PLATFORM_ID, TAX_ID
from tokenworks.supply.costing import axis_card, share_card
from tokenworks.supply.model import Split


def amounts(legs: list[SettlementLeg]) -> dict[str, int]:
    """
    Return each leg's quanta by its kind.
    """
    return {leg.kind: leg.quanta for leg in legs}


def test_a_charge_is_divided_by_the_offers_shares() -> None:
    """
    The sale comes out of the charge; the purchase is the platform's own cost.
    """
    legs = settlement_legs(offer(split=SPLIT), charge_quanta=1_000_000, counts={})

    assert amounts(legs) == {
        "tax": 80_000,
        "reseller": 30_000,
        "rights": 20_000,
        "platform": 870_000,
        "supplier": 450_000,
        "power": 150_000,
    }
    assert {leg.kind: leg.payee for leg in legs} == {
        "tax": TAX_ID,
        "reseller": RESELLER,
        "rights": RIGHTS,
        "platform": PLATFORM_ID,
        "supplier": SUPPLIER,
        "power": POWER,
    }
    assert payable_of(legs) == 600_000
    assert [leg.kind for leg in legs if leg.is_sale] == list(SALE_KINDS)


@pytest.mark.parametrize(
    ("charge", "expected"),
    [
        (0, {}),
        (1, {"platform": 1}),
        (2, {"platform": 2, "supplier": 1}),
        (13, {"tax": 1, "reseller": 1, "platform": 11, "supplier": 6, "power": 1}),
    ],
)
def test_the_smallest_charges_leave_no_zero_legs(charge: int, expected: dict[str, int]) -> None:
    """
    Largest remainder gives the odd quantum to whom it is owed most; nobody gets a zero leg.
    """
    legs = settlement_legs(offer(split=SPLIT), charge_quanta=charge, counts={})

    assert amounts(legs) == expected


def test_without_shares_all_is_the_platforms() -> None:
    """
    A supplier that is paid nothing has no leg either.
    """
    legs = settlement_legs(offer(cost_card=share_card(0)), charge_quanta=77, counts={})

    assert amounts(legs) == {"platform": 77}


def test_a_supplier_by_axis_is_paid_whatever_the_buyer_pays() -> None:
    """
    A free answer still has its cost, and power its part of that.
    """
    card = axis_card({"input": 1_000_000, "output": 3_000_000})
    served = offer(cost_card=card, split=Split(power_ppm=500_000, power_id=POWER))

    legs = settlement_legs(served, charge_quanta=0, counts={"input": 4, "output": 5})

    assert amounts(legs) == {"supplier": 10, "power": 9}
    assert payable_of(legs) == 19


def test_all_of_a_suppliers_part_may_be_powers() -> None:
    """
    The power producer's part comes out of the supplier's, never on top.
    """
    served = offer(split=Split(power_ppm=1_000_000, power_id=POWER))

    assert amounts(settlement_legs(served, charge_quanta=100, counts={})) == {
        "platform": 100,
        "power": 60,
    }


def test_every_kind_of_leg_has_an_account() -> None:
    """
    What can be owed has a purpose in the chart of accounts.
    """
    from tokenworks.catalogue.chart_of_accounts import load_chart_of_accounts

    assert set(PURPOSES.values()) <= set(load_chart_of_accounts())
