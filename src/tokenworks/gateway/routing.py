"""
Choose the order in which offers are tried; pure but for the health it is given.

Order: offers whose supplier is not cooling down, then by the operator's priority, then
those that met the tier's floor lately, then the cheapest for the platform, then the
fastest to answer. Everything is deterministic: equal offers go by id.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from tokenworks.foundation.money import PPM
from tokenworks.pricing.tiers import Tier
from tokenworks.supply.model import Offer

COOL_DOWN_S: Final = 5.0
COOL_DOWN_MAX_S: Final = 60.0
SMOOTHING: Final = 0.2
"""Weight of the newest measurement in a moving average."""

_UNMEASURED_MS: Final = 0.0


@dataclass(slots=True)
class OfferHealth:
    """
    What this process has seen of one offer lately.
    """

    first_token_ms: float = _UNMEASURED_MS
    tokens_per_s: float = 0.0
    faults_in_row: int = 0
    cooling_until_s: float = 0.0


class HealthBook:
    """
    Moving averages and cool-downs by offer, in memory: a hint that only orders attempts.
    """

    def __init__(self) -> None:
        self._health: dict[UUID, OfferHealth] = {}

    def of(self, offer_id: UUID) -> OfferHealth:
        """
        Return what is known of an offer.
        """
        return self._health.setdefault(offer_id, OfferHealth())

    def forget(self) -> None:
        """
        Forget everything that was measured.
        """
        self._health.clear()

    def note_success(
        self, offer_id: UUID, *, first_token_ms: float, tokens_per_s: float | None
    ) -> None:
        """
        Learn from an attempt that answered; ``None`` speed: too short to tell.
        """
        health = self.of(offer_id)
        health.faults_in_row = 0
        health.cooling_until_s = 0.0
        health.first_token_ms = _averaged(health.first_token_ms, first_token_ms)
        if tokens_per_s is not None:
            health.tokens_per_s = _averaged(health.tokens_per_s, tokens_per_s)

    def note_fault(self, offer_id: UUID, *, now_s: float, retry_after_s: float = 0.0) -> None:
        """
        Learn from an attempt that failed: the offer cools down, longer each time in a row.
        """
        health = self.of(offer_id)
        health.faults_in_row += 1
        pause_s = max(retry_after_s, COOL_DOWN_S * 2 ** min(health.faults_in_row - 1, 4))
        # One fault alone does not take the only offer away for long.
        health.cooling_until_s = now_s + min(pause_s, COOL_DOWN_MAX_S)


def rank_offers(
    offers: Iterable[Offer], *, health: HealthBook, tier: Tier | None, now_s: float
) -> Sequence[Offer]:
    """
    Return the offers in the order in which to try them; none is left out.
    """
    known = tuple(offers)
    if len(known) < 2:
        return known
    return sorted(known, key=lambda offer: _rank(offer, health.of(offer.offer_id), tier, now_s))


def _rank(
    offer: Offer, health: OfferHealth, tier: Tier | None, now_s: float
) -> tuple[bool, int, bool, int, float, str]:
    return (
        health.cooling_until_s > now_s,
        offer.priority,
        misses_floor(
            tier, first_token_ms=health.first_token_ms, tokens_per_s=health.tokens_per_s or None
        ),
        _cost(offer),
        health.first_token_ms,
        str(offer.offer_id),
    )


def misses_floor(
    tier: Tier | None, *, first_token_ms: float | None, tokens_per_s: float | None
) -> bool:
    """
    Return whether a measurement is below what the tier promises; not measured is no miss.
    """
    if tier is None:
        return False
    slow = (
        tier.speed_floor_tokens_per_s is not None
        and tokens_per_s is not None
        and tokens_per_s < tier.speed_floor_tokens_per_s
    )
    late = (
        tier.first_token_p95_ms is not None
        and first_token_ms is not None
        and first_token_ms > tier.first_token_p95_ms
    )
    return slow or late


def _cost(offer: Offer) -> int:
    card = offer.cost_card
    if card.supplier_share_ppm is not None:
        return card.supplier_share_ppm
    assert card.costs is not None, "a card has one of two forms"
    # Comparable only among cards of one form; a card by axis comes after shares.
    return PPM + card.costs["output"]


def _averaged(old: float, new: float) -> float:
    return new if old == _UNMEASURED_MS else old + SMOOTHING * (new - old)
