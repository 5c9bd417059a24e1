"""
Rate cards, rating and the ceiling of a quote.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from uuid import UUID

import pytest

from tokenworks.foundation.errors import ErrorKind, InvalidError
from tokenworks.metering.model import NOTHING_USED, Axis, Usage
from tokenworks.pricing.errors import PriceInvalidError, PriceMissingError, TierUnknownError
from tokenworks.pricing.model import (
    NANO_PER_MILLION_MAX,
    Price,
    RateCard,
    Rounding,
    complete_prices,
    nano_per_million_from_text,
    nano_per_million_to_text,
)
from tokenworks.pricing.rating import ceiling, divide_half_even, rate
from tokenworks.pricing.service import PriceSnapshot
from tokenworks.pricing.tiers import DEFAULT_TIER, check_tier, load_tiers

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


def rate_card(prices: Mapping[Axis, int], *, effective_at: datetime = NOON) -> RateCard:
    """
    Return a card with these prices.
    """
    rows = {
        axis: Price(
            price_id=UUID(int=100 + index),
            model="smollm2",
            tier="standard",
            axis=axis,
            nano_per_million=nano,
            effective_at=effective_at,
            created_at=effective_at,
        )
        for index, (axis, nano) in enumerate(prices.items())
    }
    return RateCard(
        card_id=UUID(int=7),
        model="smollm2",
        tier="standard",
        currency="USD",
        prices=rows,
        rounding=Rounding.HALF_EVEN,
        effective_at=effective_at,
        created_at=effective_at,
    )


STANDARD = rate_card(load_tiers()["standard"].prices)


def test_a_charge_is_the_sum_of_its_lines() -> None:
    """
    Each axis is counted times its price; the lines name the price that was used.
    """
    usage = Usage(counts={Axis.INPUT: 1, Axis.CACHE_READ: 36, Axis.OUTPUT: 8})
    rated = rate(usage, STANDARD)
    # 1 x 0.75 + 36 x 0.075 + 8 x 3 USD per million = 27.45 micro-USD
    assert rated.charge_quanta == 27_450
    assert rated.numerator == 27_450_000_000
    assert [(line.axis, line.count, line.nano_per_million) for line in rated.lines] == [
        (Axis.INPUT, 1, 750_000_000),
        (Axis.CACHE_READ, 36, 75_000_000),
        (Axis.OUTPUT, 8, 3_000_000_000),
    ]
    assert all(STANDARD.prices[line.axis].price_id == line.price_id for line in rated.lines)
    assert (rated.card_id, rated.currency, rated.unpriced) == (STANDARD.card_id, "USD", ())


@pytest.mark.parametrize(
    ("count", "charge"),
    [(1, 0), (2, 1), (3, 2), (4, 2), (5, 2), (6, 3), (7, 4)],
)
def test_a_charge_is_rounded_half_to_even_once(count: int, charge: int) -> None:
    """
    Half a quantum goes to the even neighbour: 0.5 to 0, 1.5 to 2, 2.5 to 2.
    """
    card = rate_card({Axis.INPUT: 500_000, Axis.OUTPUT: 0})
    assert rate(Usage(counts={Axis.INPUT: count}), card).charge_quanta == charge


def test_lines_are_not_rounded_by_themselves() -> None:
    """
    Two halves make one: only the sum is rounded.
    """
    card = rate_card({Axis.INPUT: 500_000, Axis.OUTPUT: 500_000})
    usage = Usage(counts={Axis.INPUT: 1, Axis.OUTPUT: 1})
    assert rate(usage, card).charge_quanta == 1


def test_an_axis_without_a_price_is_named_and_charged_nothing() -> None:
    """
    A missing price is never a silent zero: the caller sees the axis.
    """
    usage = Usage(
        counts={Axis.INPUT: 1_000_000, Axis.IMAGE: 2}, unknown_axes={"usage.smell_tokens": 9}
    )
    rated = rate(usage, STANDARD)
    assert rated.charge_quanta == 750_000_000
    assert rated.unpriced == ("usage.smell_tokens", "image")
    assert [line.axis for line in rated.lines] == [Axis.INPUT]


def test_free_is_an_explicit_zero() -> None:
    """
    A free tier has prices of zero, so nothing is unpriced and the lines are on record.
    """
    free = rate_card(load_tiers()["free"].prices)
    rated = rate(Usage(counts={Axis.INPUT: 5, Axis.REASONING: 5}), free)
    assert (rated.charge_quanta, rated.unpriced, len(rated.lines)) == (0, (), 2)
    assert free.is_free
    assert not STANDARD.is_free


def test_nothing_used_costs_nothing() -> None:
    """
    An empty usage has no lines and no charge.
    """
    rated = rate(NOTHING_USED, STANDARD)
    assert (rated.charge_quanta, rated.lines, rated.unpriced) == (0, (), ())


def test_a_ceiling_takes_the_dearest_axis_of_each_side() -> None:
    """
    A quote covers every way the same tokens can turn out.
    """
    card = rate_card(
        {
            Axis.INPUT: 750_000_000,
            Axis.CACHE_WRITE_1H: 1_500_000_000,
            Axis.OUTPUT: 3_000_000_000,
            Axis.REASONING: 4_000_000_000,
        }
    )
    assert ceiling(card, 10, 0) == 15_000
    assert ceiling(card, 0, 10) == 40_000
    assert ceiling(card, 0, 0) == 0


def test_a_ceiling_is_rounded_up() -> None:
    """
    A quote is never below the charge it covers.
    """
    card = rate_card({Axis.INPUT: 1, Axis.OUTPUT: 0})
    assert ceiling(card, 1, 0) == 1


def test_a_ceiling_includes_requests_and_pieces() -> None:
    """
    A price per request is part of every quote; other pieces are when they are granted.
    """
    prices = {Axis.INPUT: 0, Axis.OUTPUT: 0, Axis.REQUEST: 2_000_000, Axis.TOOL_CALL: 3_000_000}
    card = rate_card(prices)
    assert ceiling(card, 1, 1) == 2
    assert ceiling(card, 1, 1, pieces={Axis.TOOL_CALL: 2, Axis.REQUEST: 2}) == 10


@pytest.mark.parametrize(
    ("prices", "pieces", "axes"),
    [
        ({Axis.OUTPUT: 1}, {}, "input"),
        ({Axis.INPUT: 1}, {}, "output"),
        ({Axis.INPUT: 1, Axis.OUTPUT: 1}, {Axis.IMAGE: 1}, "image"),
        ({Axis.INPUT: 1, Axis.OUTPUT: 1}, {Axis.REQUEST: 1}, "request"),
    ],
)
def test_a_quote_without_a_price_is_refused(
    prices: dict[Axis, int], pieces: dict[Axis, int], axes: str
) -> None:
    """
    What has no price cannot be quoted; the axis, the tier and what exists are named.
    """
    with pytest.raises(PriceMissingError) as caught:
        ceiling(rate_card(prices), 1, 1, pieces=pieces)
    assert axes in caught.value.message
    assert "standard" in caught.value.message
    assert caught.value.code == "price_missing"


@pytest.mark.parametrize(
    ("numerator", "quotient"),
    [(0, 0), (4, 0), (5, 0), (6, 1), (15, 2), (25, 2), (26, 3), (35, 4)],
)
def test_divide_half_even(numerator: int, quotient: int) -> None:
    """
    The nearest integer, a tie to the even one.
    """
    assert divide_half_even(numerator, 10) == quotient


@pytest.mark.parametrize(
    ("text", "nano"),
    [
        ("0", 0),
        ("0.75", 750_000_000),
        ("3", 3_000_000_000),
        ("0.000000001", 1),
        ("1000000", NANO_PER_MILLION_MAX),
    ],
)
def test_prices_are_parsed_exactly(text: str, nano: int) -> None:
    """
    Decimal text becomes an integer and back without loss.
    """
    assert nano_per_million_from_text(text) == nano
    assert nano_per_million_to_text(nano) == text


@pytest.mark.parametrize("text", ["-1", "0.0000000001", "1e3", "", "1000000.1", "NaN", "1,5"])
def test_prices_that_cannot_be_are_refused(text: str) -> None:
    """
    Nothing is rounded, negative or absurd.
    """
    with pytest.raises(InvalidError) as caught:
        nano_per_million_from_text(text)
    assert caught.value.kind is ErrorKind.INVALID


def test_a_card_has_an_explicit_row_for_every_common_axis() -> None:
    """
    Cache and reasoning take the price of input and output when none is given.
    """
    complete = complete_prices({Axis.OUTPUT: 30, Axis.INPUT: 10, Axis.CACHE_READ: 1})
    assert complete == {
        Axis.INPUT: 10,
        Axis.CACHE_READ: 1,
        Axis.CACHE_WRITE_5M: 10,
        Axis.CACHE_WRITE_1H: 10,
        Axis.OUTPUT: 30,
        Axis.REASONING: 30,
    }
    assert complete_prices({Axis.INPUT: 10, Axis.OUTPUT: 30})[Axis.CACHE_READ] == 10


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({}, "input"),
        ({Axis.INPUT: 1}, "output"),
        ({Axis.INPUT: -1, Axis.OUTPUT: 1}, "input"),
        ({Axis.INPUT: 1, Axis.OUTPUT: NANO_PER_MILLION_MAX + 1}, "output"),
        ({Axis.INPUT: True, Axis.OUTPUT: 1}, "input"),
    ],
)
def test_a_set_of_prices_names_what_is_wrong_with_it(given: dict[Axis, int], param: str) -> None:
    """
    A missing or impossible price is refused by the name of its axis.
    """
    with pytest.raises(PriceInvalidError) as caught:
        complete_prices(given)
    assert caught.value.param == param


def test_the_card_in_effect_is_the_newest_begun() -> None:
    """
    A later card takes over at its moment, not before.
    """
    later = datetime(2026, 8, 1, tzinfo=UTC)
    next_card = rate_card({Axis.INPUT: 2, Axis.OUTPUT: 2}, effective_at=later)
    snapshot = PriceSnapshot(read_at=NOON, cards={("smollm2", "standard"): (next_card, STANDARD)})
    assert snapshot.card("smollm2", "standard", NOON) is STANDARD
    assert snapshot.card("smollm2", "standard", later) is next_card
    assert snapshot.tiers("smollm2", NOON) == ["standard"]


def test_a_missing_card_says_what_exists() -> None:
    """
    The refusal names the axes, the tier, and the tiers or times that have prices.
    """
    snapshot = PriceSnapshot(read_at=NOON, cards={("smollm2", "standard"): (STANDARD,)})
    early = datetime(2026, 6, 1, tzinfo=UTC)
    for model, tier, at, words in (
        (
            "smollm2",
            "elite",
            NOON,
            "input and output price at tier elite; it is priced at standard",
        ),
        ("smollm2", "standard", early, "before 2026-07-01"),
        ("other", "standard", NOON, "nor at any other tier"),
    ):
        with pytest.raises(PriceMissingError, match=words):
            snapshot.card(model, tier, at)


def test_the_shipped_tiers_are_the_published_ones() -> None:
    """
    Prices and floors of the five tiers, in nano-USD per million.
    """
    tiers = load_tiers()
    table = {
        tier.tier_id: (
            nano_per_million_to_text(tier.prices[Axis.OUTPUT]),
            nano_per_million_to_text(tier.prices[Axis.INPUT]),
            nano_per_million_to_text(tier.prices[Axis.CACHE_READ]),
            tier.speed_floor_tokens_per_s,
            tier.first_token_p95_ms,
        )
        for tier in tiers.values()
    }
    assert table == {
        "free": ("0", "0", "0", None, None),
        "standard": ("3", "0.75", "0.075", 50, 5000),
        "premium": ("6", "1.5", "0.15", 100, 3000),
        "high_speed": ("45", "11.25", "1.125", 200, 1000),
        "elite": ("150", "37.5", "3.75", 300, 500),
    }
    assert DEFAULT_TIER in tiers


def test_an_unknown_tier_is_refused_with_the_known_ones() -> None:
    """
    The message says which tiers there are.
    """
    with pytest.raises(TierUnknownError, match="free, standard, premium"):
        check_tier("gold", load_tiers())
