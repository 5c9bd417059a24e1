"""
What a gigawatt of each system earns in a year at the tiers' prices, everything sold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from tokenworks.factory.economics.floors import SystemServed, output_price, serve_system
from tokenworks.factory.economics.model import SystemPoint
from tokenworks.pricing.tiers import Tier

BASE_TIERS: Final = 4
"""The keynote's split: a quarter each for the first four tiers, free included."""

_SECONDS_PER_YEAR: Final = 365 * 24 * 3600
_MEGAWATTS_PER_GIGAWATT: Final = 1000
_BILLION: Final = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemRevenue:
    """
    One row of the revenue table.
    """

    system: str
    tiers: tuple[SystemServed, ...]  # in the order of the catalogue

    def even_split_usd_billion(self, count: int) -> Fraction:
        """
        Return revenue of a gigawatt-year, the same power for each of the first tiers.
        """
        first = self.tiers[:count]
        return _yearly(sum((tier.usd_per_s_per_megawatt for tier in first), Fraction(0)) / count)

    @property
    def best_single_usd_billion(self) -> Fraction:
        """
        Return revenue of a gigawatt-year, all power for the tier that earns most.
        """
        return _yearly(max(tier.usd_per_s_per_megawatt for tier in self.tiers))

    def break_even_power_usd_per_mwh(self, tier_id: str) -> Fraction | None:
        """
        Return the power price at which a tier's whole revenue pays for power alone.

        ``None``: it cannot be served.
        """
        rates = [each.usd_per_s_per_megawatt for each in self.tiers if each.tier.tier_id == tier_id]
        return rates[0] * 3600 if rates and rates[0] else None


def revenue_by_system(
    points: Iterable[SystemPoint], tiers: Mapping[str, Tier]
) -> tuple[SystemRevenue, ...]:
    """
    Return the revenue table, systems in the order of their first point.
    """
    groups: dict[str, list[SystemPoint]] = {}
    for point in points:
        groups.setdefault(point.system, []).append(point)
    ordered: Sequence[Tier] = sorted(tiers.values(), key=output_price)
    return tuple(
        SystemRevenue(system=system, tiers=tuple(serve_system(group, tier) for tier in ordered))
        for system, group in groups.items()
    )


def _yearly(usd_per_s_per_megawatt: Fraction) -> Fraction:
    return usd_per_s_per_megawatt * _MEGAWATTS_PER_GIGAWATT * _SECONDS_PER_YEAR / _BILLION
