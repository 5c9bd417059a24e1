"""
Laws of rating, for any card and any usage.
"""

from __future__ import annotations

from datetime import UTC, datetime
from fractions import Fraction
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from tokenworks.metering.fields import USAGE_COUNT_MAX
from tokenworks.metering.model import INPUT_AXES, NOTHING_USED, OUTPUT_AXES, Axis, Usage, used
from tokenworks.pricing.model import NANO_PER_MILLION_MAX, Price, RateCard, Rounding
from tokenworks.pricing.rating import ceiling, divide_half_even, rate

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
COUNTS = st.integers(0, USAGE_COUNT_MAX) | st.integers(0, 10)
NANOS = st.integers(0, NANO_PER_MILLION_MAX) | st.integers(0, 2_000_000)


def card_of(prices: dict[Axis, int]) -> RateCard:
    """
    Return a card with these prices.
    """
    return RateCard(
        card_id=UUID(int=1),
        model="m",
        tier="standard",
        currency="USD",
        prices={
            axis: Price(
                price_id=UUID(int=2 + index),
                model="m",
                tier="standard",
                axis=axis,
                nano_per_million=nano,
                effective_at=NOON,
                created_at=NOON,
            )
            for index, (axis, nano) in enumerate(prices.items())
        },
        rounding=Rounding.HALF_EVEN,
        effective_at=NOON,
        created_at=NOON,
    )


def usage_of(counts: dict[Axis, int]) -> Usage:
    """
    Return usage of these counts, zeros dropped.
    """
    return Usage(counts=used(counts))


full_cards = st.fixed_dictionaries(dict.fromkeys(Axis, NANOS)).map(card_of)
some_cards = st.dictionaries(st.sampled_from(Axis), NANOS).map(card_of)
counts = st.dictionaries(st.sampled_from(Axis), COUNTS)


@given(card=some_cards)
def test_rating_nothing_costs_nothing(card: RateCard) -> None:
    """
    No usage, no charge, whatever the card.
    """
    assert rate(NOTHING_USED, card).charge_quanta == 0


@given(card=some_cards, counts=counts)
def test_a_charge_is_the_exact_cost_rounded_once(card: RateCard, counts: dict[Axis, int]) -> None:
    """
    The charge is the exact fraction rounded half to even; integers all the way.
    """
    rated = rate(usage_of(counts), card)
    exact = sum(
        (
            Fraction(count * card.prices[axis].nano_per_million, 1_000_000)
            for axis, count in counts.items()
            if axis in card.prices
        ),
        Fraction(0),
    )
    assert rated.charge_quanta == round(exact)  # Python rounds a Fraction half to even
    assert Fraction(rated.numerator, 1_000_000) == exact
    assert type(rated.charge_quanta) is int
    assert type(rated.numerator) is int
    assert sum(line.count * line.nano_per_million for line in rated.lines) == rated.numerator


@given(card=some_cards, counts=counts)
def test_every_used_axis_is_a_line_or_unpriced(card: RateCard, counts: dict[Axis, int]) -> None:
    """
    Nothing that was used is lost between the lines and what has no price.
    """
    rated = rate(usage_of(counts), card)
    lines = {line.axis for line in rated.lines}
    assert lines | {Axis(axis) for axis in rated.unpriced} == set(used(counts))
    assert lines.isdisjoint(rated.unpriced)


@given(card=full_cards, left=counts, right=counts)
def test_cutting_a_usage_changes_the_charge_by_no_more_than_rounding(
    card: RateCard, left: dict[Axis, int], right: dict[Axis, int]
) -> None:
    """
    Two parts cost what the whole costs, give or take one quantum of rounding.
    """
    whole = {axis: left.get(axis, 0) + right.get(axis, 0) for axis in Axis}
    together = rate(usage_of(whole), card)
    parts = [rate(usage_of(left), card), rate(usage_of(right), card)]
    assert together.numerator == sum(part.numerator for part in parts)
    # Three roundings of at most a half each; the difference is an integer.
    assert abs(together.charge_quanta - sum(part.charge_quanta for part in parts)) <= 1


@given(card=some_cards, less=counts, more=counts)
def test_more_usage_never_costs_less(
    card: RateCard, less: dict[Axis, int], more: dict[Axis, int]
) -> None:
    """
    The charge is monotone in every count.
    """
    sum_of_both = {axis: less.get(axis, 0) + more.get(axis, 0) for axis in Axis}
    cheaper = rate(usage_of(less), card).charge_quanta
    assert cheaper <= rate(usage_of(sum_of_both), card).charge_quanta


@given(card=full_cards, counts=counts, spare_input=COUNTS, spare_output=COUNTS)
def test_no_usage_within_a_quote_costs_more_than_its_ceiling(
    card: RateCard, counts: dict[Axis, int], spare_input: int, spare_output: int
) -> None:
    """
    However the quoted tokens fall on the axes, the ceiling covers them.
    """
    token_axes = {*INPUT_AXES, *OUTPUT_AXES}
    usage = usage_of(counts)
    pieces = {axis: count for axis, count in usage.counts.items() if axis not in token_axes}
    quoted = ceiling(
        card,
        usage.total_input + spare_input,
        usage.total_output + spare_output,
        pieces=pieces,
    )
    assert rate(usage, card).charge_quanta <= quoted


@given(numerator=st.integers(0, 10**30), denominator=st.integers(1, 10**12))
def test_division_rounds_to_the_nearest(numerator: int, denominator: int) -> None:
    """
    The same as Python's exact rounding of a fraction.
    """
    assert divide_half_even(numerator, denominator) == round(Fraction(numerator, denominator))
