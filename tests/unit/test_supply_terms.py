"""
Cost cards, splits and the rules of offers.
"""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.foundation.money import PPM
from tokenworks.metering.model import INPUT_AXES, OUTPUT_AXES, Axis
from tokenworks.supply import vetting
from tokenworks.supply.costing import (
    AXIS_FALLBACKS,
    COST_NANO_MAX,
    axis_card,
    check_cost_card,
    check_split,
    payable_quanta,
    platform_share_ppm,
    share_card,
)
from tokenworks.supply.errors import InvalidOfferError, InvalidSupplierError
from tokenworks.supply.model import CostCard, OfferTerms, Split, Timeouts

OWNER = UUID(int=5)


def test_cost_cards_know_exactly_the_axes_of_usage() -> None:
    """
    The two lists live in folders that do not know each other; this keeps them equal.
    """
    assert set(AXIS_FALLBACKS) == set(Axis)
    for axis in INPUT_AXES:
        assert axis == Axis.INPUT or AXIS_FALLBACKS[axis] == Axis.INPUT
    for axis in OUTPUT_AXES:
        assert axis == Axis.OUTPUT or AXIS_FALLBACKS[axis] == Axis.OUTPUT


def test_card_by_axis_has_a_cost_for_every_axis() -> None:
    """
    Unnamed token axes cost what input or output does; the rest costs nothing.
    """
    card = axis_card({"input": 100, "output": 300, "cache_read": 10})
    assert card.costs is not None
    assert card.costs == {
        "input": 100,
        "cache_read": 10,
        "cache_write_5m": 100,
        "cache_write_1h": 100,
        "audio_input": 100,
        "output": 300,
        "reasoning": 300,
        "audio_output": 300,
        "image": 0,
        "tool_call": 0,
        "request": 0,
    }
    assert (
        axis_card({Axis.INPUT: 1, Axis.OUTPUT: 2}).costs
        == axis_card({"input": 1, "output": 2}).costs
    )


@pytest.mark.parametrize(
    "costs",
    [
        {},
        {"input": 1},
        {"output": 1},
        {"input": 1, "output": -1},
        {"input": 1, "output": COST_NANO_MAX + 1},
        {"input": True, "output": 1},
        {"input": 1, "output": 1, "inptu": 1},
    ],
)
def test_incomplete_or_misspelt_costs_are_refused(costs: dict[str, int]) -> None:
    """
    A supplier is not underpaid because of a typing error.
    """
    with pytest.raises(InvalidOfferError):
        axis_card(costs)


def test_cost_card_has_exactly_one_form() -> None:
    """
    Neither both nor none.
    """
    for card in (CostCard(), CostCard(supplier_share_ppm=1, costs={"input": 1, "output": 1})):
        with pytest.raises(InvalidOfferError, match="either"):
            check_cost_card(card)
    assert check_cost_card(CostCard(supplier_share_ppm=0)) == share_card(0)


@pytest.mark.parametrize("share_ppm", [-1, PPM + 1, True])
def test_share_is_between_nothing_and_the_whole(share_ppm: int) -> None:
    """
    The message names the share at fault.
    """
    with pytest.raises(InvalidOfferError, match="supplier_share"):
        share_card(share_ppm)
    with pytest.raises(InvalidOfferError, match="tax"):
        check_split(Split(tax_ppm=share_ppm))
    with pytest.raises(InvalidOfferError, match="power"):
        check_split(Split(power_ppm=share_ppm, power_id=OWNER))


def test_legs_of_a_sale_fit_one_charge_and_power_is_apart() -> None:
    """
    Tax, reseller and rights share the charge; power shares what the supplier is paid.
    """
    whole = Split(
        tax_ppm=100_000,
        reseller_ppm=400_000,
        reseller_id=OWNER,
        rights_ppm=500_000,
        rights_id=OWNER,
        power_ppm=PPM,
        power_id=OWNER,
    )
    check_split(whole)
    with pytest.raises(InvalidOfferError, match="together"):
        check_split(
            Split(tax_ppm=1, reseller_ppm=PPM, reseller_id=OWNER),
        )


@pytest.mark.parametrize("name", ["reseller", "rights", "power"])
def test_share_without_an_owner_is_refused(name: str) -> None:
    """
    A share that nobody owns would be lost.
    """
    shares = {f"{name}_ppm": 1}
    with pytest.raises(InvalidOfferError) as refused:
        check_split(Split(**shares))  # pyright: ignore[reportArgumentType] # A table of fields.
    assert refused.value.param == f"split.{name}_id"


@pytest.mark.parametrize(
    ("counts", "owed"),
    [
        ({}, 0),
        ({"input": 1_000_000}, 3),
        ({"input": 500_000}, 2),  # 1.5 rounds to even
        ({"input": 833_333}, 2),  # 2.499999
        ({"output": 500_000}, 2),  # 2.5 rounds to even
        ({"output": 500_001}, 3),
        ({"input": 1_000_000, "output": 1_000_000}, 8),
    ],
)
def test_card_by_axis_is_rounded_once_half_to_even(counts: dict[str, int], owed: int) -> None:
    """
    The sum over all axes is rounded, not each axis.
    """
    card = axis_card({"input": 3, "output": 5})
    assert payable_quanta(card, charge_quanta=99, counts=counts) == owed


@given(charge=st.integers(0, 2**62), share_ppm=st.integers(0, PPM))
def test_share_rounds_down_and_never_exceeds_the_charge(charge: int, share_ppm: int) -> None:
    """
    The remainder below one quantum stays with the platform.
    """
    owed = payable_quanta(share_card(share_ppm), charge_quanta=charge, counts={})
    assert 0 <= owed <= charge
    assert owed * PPM <= charge * share_ppm < (owed + 1) * PPM


def test_platforms_own_share_may_be_negative() -> None:
    """
    An operator may pay to sell; it can be seen before it happens.
    """
    split = Split(tax_ppm=200_000, rights_ppm=200_000, rights_id=OWNER)
    assert platform_share_ppm(share_card(700_000), split) == -100_000
    assert platform_share_ppm(axis_card({"input": 1, "output": 1}), split) is None


@pytest.mark.parametrize(
    ("model", "tier"),
    [("", "free"), ("smol@free", "free"), ("-smol", "free"), ("a b", "free"), ("smol", "Free")],
)
def test_public_name_has_no_tier_in_it(model: str, tier: str) -> None:
    """
    An ``@`` would be read as the tier.
    """
    with pytest.raises(InvalidOfferError):
        vetting.check_model_and_tier(model, tier)


def test_public_name_may_be_a_path() -> None:
    """
    Names of models in the wild have slashes, dots and colons.
    """
    vetting.check_model_and_tier("meta-llama/Llama-3.1:8b", "high_speed")


@pytest.mark.parametrize(
    "terms",
    [
        OfferTerms(upstream_model="", cost_card=share_card(1)),
        OfferTerms(upstream_model="a b", cost_card=share_card(1)),
        OfferTerms(upstream_model="m", cost_card=share_card(1), context_tokens_max=0),
        OfferTerms(upstream_model="m", cost_card=share_card(1), priority=-1),
        OfferTerms(upstream_model="m", cost_card=CostCard()),
        OfferTerms(upstream_model="m", cost_card=share_card(1), split=Split(rights_ppm=1)),
    ],
)
def test_terms_out_of_bounds_are_refused(terms: OfferTerms) -> None:
    """
    Nothing half right is stored.
    """
    with pytest.raises(InvalidOfferError):
        vetting.complete_terms(terms)


@pytest.mark.parametrize("api_key", ["", "with space", "line\nbreak", "ключ", "x" * 4_097])
def test_key_that_cannot_stand_in_a_header_is_refused_unseen(api_key: str) -> None:
    """
    The error does not repeat the key.
    """
    with pytest.raises(InvalidSupplierError) as refused:
        vetting.check_api_key(api_key)
    assert not api_key or api_key not in refused.value.message


@pytest.mark.parametrize("name", ["", "Fast", "0190a1b2-0000-7000-8000-000000000000"])
def test_supplier_name_is_a_short_lower_case_word(name: str) -> None:
    """
    A supplier is found by name or id, so a name is never like an id.
    """
    with pytest.raises(InvalidSupplierError):
        vetting.check_supplier_name(name)


def test_timeouts_have_bounds() -> None:
    """
    Neither at once nor for ever.
    """
    vetting.check_timeouts(Timeouts())
    for timeouts in (Timeouts(connect_timeout_ms=0), Timeouts(idle_timeout_ms=3_600_001)):
        with pytest.raises(InvalidSupplierError, match="milliseconds"):
            vetting.check_timeouts(timeouts)


def test_reason_is_one_bounded_line() -> None:
    """
    A supplier's words cannot break a log or a console.
    """
    assert vetting.clean_reason(" two\n lines\x1b[0m ") == "two lines [0m"
    assert vetting.clean_reason("\n") == "no reason given"
    assert len(vetting.clean_reason("x" * 10_000)) == 500
