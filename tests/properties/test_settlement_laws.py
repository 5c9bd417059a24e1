"""
Laws of dividing a charge, for any shares, cards and usage.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.offer_samples import POWER, RESELLER, RIGHTS, offer
from tokenworks.foundation.money import PPM
from tokenworks.gateway.settlement import SettlementLeg, payable_of, settlement_legs
from tokenworks.metering.model import Axis
from tokenworks.supply.costing import axis_card, payable_quanta, share_card
from tokenworks.supply.model import CostCard, Offer, Split

CHARGES = st.integers(0, 100) | st.integers(0, 10**15)
SHARES = st.sampled_from([0, 1, PPM]) | st.integers(0, PPM)
COUNTS = st.dictionaries(
    st.sampled_from([axis.value for axis in Axis]), st.integers(0, 10**7), max_size=6
)


@st.composite
def splits(draw: st.DrawFn) -> Split:
    """
    Return any split whose sale shares fit one charge.
    """
    tax = draw(st.integers(0, PPM))
    reseller = draw(st.integers(0, PPM - tax))
    rights = draw(st.integers(0, PPM - tax - reseller))
    return Split(
        tax_ppm=tax,
        reseller_ppm=reseller,
        reseller_id=RESELLER,
        rights_ppm=rights,
        rights_id=RIGHTS,
        power_ppm=draw(SHARES),
        power_id=POWER,
    )


def _axis_card(costs: tuple[int, int]) -> CostCard:
    return axis_card({"input": costs[0], "output": costs[1]})


CARDS = st.builds(share_card, SHARES) | st.builds(
    _axis_card, st.tuples(st.integers(0, 10**12), st.integers(0, 10**12))
)
OFFERS = st.builds(lambda split, card: offer(split=split, cost_card=card), splits(), CARDS)


def quanta_of(legs: list[SettlementLeg], kind: str) -> int:
    """
    Return what one kind of leg moves.
    """
    return sum(leg.quanta for leg in legs if leg.kind == kind)


@given(OFFERS, CHARGES, COUNTS)
def test_the_parts_of_a_sale_are_the_charge(
    served: Offer, charge: int, counts: dict[str, int]
) -> None:
    """
    Not a quantum is lost or made, whatever the shares.
    """
    legs = settlement_legs(served, charge_quanta=charge, counts=counts)

    assert sum(leg.quanta for leg in legs if leg.is_sale) == charge


@given(OFFERS, CHARGES, COUNTS)
def test_no_leg_is_zero_or_less_and_each_stands_once(
    served: Offer, charge: int, counts: dict[str, int]
) -> None:
    """
    An entry has a leg only for what moves.
    """
    legs = settlement_legs(served, charge_quanta=charge, counts=counts)

    assert all(leg.quanta > 0 for leg in legs)
    kinds = [leg.kind for leg in legs]
    assert len(kinds) == len(set(kinds))


@given(OFFERS, CHARGES, COUNTS)
def test_power_comes_out_of_the_suppliers_part(
    served: Offer, charge: int, counts: dict[str, int]
) -> None:
    """
    Supplier and power together are what the cost card says; power has its share, rounded
    down.
    """
    legs = settlement_legs(served, charge_quanta=charge, counts=counts)

    owed = payable_quanta(served.cost_card, charge_quanta=charge, counts=counts)
    assert payable_of(legs) == owed
    assert quanta_of(legs, "power") == owed * served.split.power_ppm // PPM
    assert quanta_of(legs, "supplier") == owed - quanta_of(legs, "power")


@given(OFFERS, CHARGES, COUNTS)
def test_each_share_is_within_a_quantum_of_its_exact_part(
    served: Offer, charge: int, counts: dict[str, int]
) -> None:
    """
    Largest remainder moves nobody by a whole quantum.
    """
    legs = settlement_legs(served, charge_quanta=charge, counts=counts)
    split = served.split
    shares = {"tax": split.tax_ppm, "reseller": split.reseller_ppm, "rights": split.rights_ppm}
    shares["platform"] = PPM - sum(shares.values())

    for kind, ppm in shares.items():
        assert abs(quanta_of(legs, kind) * PPM - charge * ppm) < PPM, kind


@given(OFFERS, CHARGES, COUNTS)
def test_a_share_of_nothing_gets_nothing(
    served: Offer, charge: int, counts: dict[str, int]
) -> None:
    """
    The odd quantum never goes to someone who has no share.
    """
    legs = settlement_legs(served, charge_quanta=charge, counts=counts)
    split = served.split

    if split.tax_ppm == 0:
        assert quanta_of(legs, "tax") == 0
    if split.reseller_ppm == 0:
        assert quanta_of(legs, "reseller") == 0
    if split.rights_ppm == 0:
        assert quanta_of(legs, "rights") == 0
    if split.tax_ppm + split.reseller_ppm + split.rights_ppm == PPM:
        assert quanta_of(legs, "platform") == 0


@given(OFFERS, COUNTS)
def test_nothing_charged_is_nothing_sold(served: Offer, counts: dict[str, int]) -> None:
    """
    A free call has no sale legs, and a purchase only where the card is by axis.
    """
    legs = settlement_legs(served, charge_quanta=0, counts=counts)

    assert not [leg for leg in legs if leg.is_sale]
    if served.cost_card.supplier_share_ppm is not None:
        assert legs == []
