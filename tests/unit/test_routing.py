"""
In which order offers are tried.
"""

from __future__ import annotations

import dataclasses

import pytest

from tests.unit.offer_samples import offer
from tokenworks.gateway.routing import (
    COOL_DOWN_MAX_S,
    COOL_DOWN_S,
    HealthBook,
    misses_floor,
    rank_offers,
)
from tokenworks.pricing.tiers import load_tiers
from tokenworks.supply.costing import axis_card, share_card
from tokenworks.supply.model import Offer

STANDARD = load_tiers()["standard"]  # 50 tokens/s, first token in 5 s


def order(*offers: Offer, health: HealthBook | None = None, now_s: float = 0.0) -> list[int]:
    """
    Return the numbers of the offers in the order in which they would be tried.
    """
    ranked = rank_offers(offers, health=health or HealthBook(), tier=STANDARD, now_s=now_s)
    return [found.offer_id.int for found in ranked]


def test_no_offer_is_left_out() -> None:
    """
    Ranking orders attempts; it refuses nobody.
    """
    health = HealthBook()
    offers = [offer(number) for number in range(1, 6)]
    for found in offers:
        health.note_fault(found.offer_id, now_s=0.0)

    assert sorted(order(*offers, health=health)) == [1, 2, 3, 4, 5]
    assert order(offers[0], health=health) == [1]
    assert order() == []


def test_the_operators_priority_comes_before_price() -> None:
    """
    The smallest priority is tried first, though it costs more.
    """
    dear = offer(1, priority=1, cost_card=share_card(900_000))
    cheap = offer(2, priority=2, cost_card=share_card(100_000))

    assert order(cheap, dear) == [1, 2]


def test_among_equals_the_cheapest_for_the_platform_comes_first() -> None:
    """
    By share of the charge; cards by axis come after shares, by their output cost.
    """
    offers = [
        offer(1, cost_card=axis_card({"input": 1, "output": 9})),
        offer(2, cost_card=axis_card({"input": 9, "output": 1})),
        offer(3, cost_card=share_card(700_000)),
        offer(4, cost_card=share_card(600_000)),
    ]

    assert order(*offers) == [4, 3, 2, 1]


def test_equal_offers_go_by_id() -> None:
    """
    The same offers always have the same order.
    """
    assert order(offer(3), offer(1), offer(2)) == [1, 2, 3]


def test_an_offer_that_failed_cools_down() -> None:
    """
    It comes last whatever its priority, and is first again when it has cooled down.
    """
    health = HealthBook()
    best, other = offer(1, priority=1), offer(2, priority=2)
    health.note_fault(best.offer_id, now_s=100.0)

    assert order(best, other, health=health, now_s=100.0) == [2, 1]
    assert order(best, other, health=health, now_s=100.0 + COOL_DOWN_S - 0.1) == [2, 1]
    assert order(best, other, health=health, now_s=100.0 + COOL_DOWN_S) == [1, 2]


@pytest.mark.parametrize(
    ("faults", "pause_s"), [(1, 5), (2, 10), (3, 20), (4, 40), (5, 60), (99, 60)]
)
def test_faults_in_a_row_cool_longer_up_to_a_cap(faults: int, pause_s: float) -> None:
    """
    Twice as long each time, never longer than the cap.
    """
    health = HealthBook()
    found = offer(1)
    for _ in range(faults):
        health.note_fault(found.offer_id, now_s=0.0)

    assert health.of(found.offer_id).cooling_until_s == pause_s <= COOL_DOWN_MAX_S


def test_a_success_ends_the_cooling() -> None:
    """
    The next fault counts as a first one again.
    """
    health = HealthBook()
    found = offer(1)
    for _ in range(3):
        health.note_fault(found.offer_id, now_s=0.0)
    health.note_success(found.offer_id, first_token_ms=10.0, tokens_per_s=None)
    assert health.of(found.offer_id).cooling_until_s == 0.0

    health.note_fault(found.offer_id, now_s=0.0)

    assert health.of(found.offer_id).cooling_until_s == COOL_DOWN_S


@pytest.mark.parametrize(("asked_s", "pause_s"), [(1.0, 5.0), (30.0, 30.0), (86_400.0, 60.0)])
def test_a_supplier_may_ask_for_a_longer_pause_within_the_cap(
    asked_s: float, pause_s: float
) -> None:
    """
    Retry-After is respected, but cannot take an offer away for long.
    """
    health = HealthBook()
    health.note_fault(offer(1).offer_id, now_s=0.0, retry_after_s=asked_s)

    assert health.of(offer(1).offer_id).cooling_until_s == pause_s


def test_an_offer_below_the_tiers_floor_comes_after_those_that_hold_it() -> None:
    """
    Measured below the promise: later, but before a worse priority. Not measured is no miss.
    """
    health = HealthBook()
    slow = offer(1, cost_card=share_card(100_000))
    unknown = offer(2)
    last = offer(3, priority=200)
    health.note_success(slow.offer_id, first_token_ms=10.0, tokens_per_s=12.0)

    assert order(slow, unknown, last, health=health) == [2, 1, 3]


def test_measurements_are_averaged() -> None:
    """
    One good answer does not make up for a bad hour, nor one bad answer for a good one.
    """
    health = HealthBook()
    found = offer(1).offer_id
    health.note_success(found, first_token_ms=100.0, tokens_per_s=50.0)
    health.note_success(found, first_token_ms=200.0, tokens_per_s=None)

    assert health.of(found).first_token_ms == pytest.approx(120.0)
    assert health.of(found).tokens_per_s == pytest.approx(50.0)


@pytest.mark.parametrize(
    ("first_token_ms", "tokens_per_s", "is_missed"),
    [
        (None, None, False),
        (5_000.0, 50.0, False),
        (5_000.1, 50.0, True),
        (10.0, 49.9, True),
        (None, 10.0, True),
        (6_000.0, None, True),
    ],
)
def test_the_floor_is_missed_only_by_what_was_measured(
    first_token_ms: float | None, tokens_per_s: float | None, is_missed: bool
) -> None:
    """
    At the floor is not below it.
    """
    missed = misses_floor(STANDARD, first_token_ms=first_token_ms, tokens_per_s=tokens_per_s)

    assert missed is is_missed


def test_a_tier_that_promises_nothing_is_never_missed() -> None:
    """
    Nor is a call without a tier.
    """
    free = dataclasses.replace(load_tiers()["free"])
    assert not misses_floor(free, first_token_ms=9e9, tokens_per_s=0.1)
    assert not misses_floor(None, first_token_ms=9e9, tokens_per_s=0.1)
