"""
Unit economics of one GPU: what a million tokens cost, what a megawatt earns, where it breaks even.

A GPU that is switched on draws its power whether or not anybody calls: cost is by the hour, and
utilisation spreads it over fewer tokens. Two powers, two uses: the *drawn* power is billed by the
utility; the *provisioned* power is what one GPU takes of a site's megawatts. Money is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from tokenworks.factory.economics.errors import AssumptionInvalidError
from tokenworks.factory.economics.floors import Reach, Served, output_price
from tokenworks.factory.economics.model import Boundary, Hardware, exactly

INCLUDED_POWER_USD_PER_MWH: Final = Fraction(80)
"""An assumption: the price of the power that an all-in rate of the registry includes."""

INCLUDED_PUE: Final = Fraction(12, 10)
"""An assumption: the registry's utility kilowatts are about 1.2 times its IT kilowatts."""

YEARS_MAX: Final = 100

_HOURS_PER_YEAR: Final = 8760
_SECONDS_PER_HOUR: Final = 3600
_MILLION: Final = 10**6


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """
    What an operator supposes; the sliders of a what-if.
    """

    utilisation: Fraction  # share of the capacity that is sold, above 0, at most 1
    pue: Fraction  # utility power over IT power, at least 1
    power_usd_per_mwh: Fraction  # may be negative, as markets are
    capital_usd_per_gpu_hour: Fraction | None = None
    """Everything but power; ``None``: the registry's all-in rate without the power in it."""

    def __post_init__(self) -> None:
        if not 0 < self.utilisation <= 1:
            raise AssumptionInvalidError(
                "Utilisation is above 0 and at most 1.", param="utilisation"
            )
        if not 1 <= self.pue <= 10:
            raise AssumptionInvalidError("PUE is at least 1 and at most 10.", param="pue")
        if abs(self.power_usd_per_mwh) > 100_000:
            message = "The power price is within 100,000 US dollars per MWh."
            raise AssumptionInvalidError(message, param="power_usd_per_mwh")
        if self.capital_usd_per_gpu_hour is not None and self.capital_usd_per_gpu_hour < 0:
            message = "The rate of a GPU is at least 0."
            raise AssumptionInvalidError(message, param="capital_usd_per_gpu_hour")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitEconomics:
    """
    One GPU at the floor of one tier, in exact figures.
    """

    served: Served
    price_usd_per_million: Fraction
    drawn_kw: Fraction  # at the utility's meter, per GPU
    provisioned_kw: Fraction
    capital_usd_per_hour: Fraction
    power_usd_per_hour: Fraction
    tokens_per_hour: Fraction  # sold
    capacity_tokens_per_hour: Fraction

    @property
    def tokens_per_joule(self) -> Fraction:
        """
        Return sold tokens per joule at the utility's meter.
        """
        return self.tokens_per_hour / (self.drawn_kw * 1000 * _SECONDS_PER_HOUR)

    @property
    def cost_usd_per_hour(self) -> Fraction:
        """
        Return what the GPU costs.
        """
        return self.capital_usd_per_hour + self.power_usd_per_hour

    @property
    def cost_usd_per_million(self) -> Fraction:
        """
        Return what a million sold output tokens cost.
        """
        return self.cost_usd_per_hour * _MILLION / self.tokens_per_hour

    @property
    def power_usd_per_million(self) -> Fraction:
        """
        Return the part of it that is power.
        """
        return self.power_usd_per_hour * _MILLION / self.tokens_per_hour

    @property
    def usd_per_s_per_megawatt(self) -> Fraction:
        """
        Return revenue of a provisioned megawatt.
        """
        per_second = self.tokens_per_hour / _SECONDS_PER_HOUR * self.price_usd_per_million
        return per_second / _MILLION / self.provisioned_kw * 1000

    @property
    def break_even_utilisation(self) -> Fraction | None:
        """
        Return the utilisation at which the price covers the cost; above 1 it never does.

        ``None``: the tier is free.
        """
        if self.price_usd_per_million == 0:
            return None
        earned = self.capacity_tokens_per_hour * self.price_usd_per_million / _MILLION
        return self.cost_usd_per_hour / earned

    @property
    def break_even_power_usd_per_mwh(self) -> Fraction:
        """
        Return the power price at which nothing is left; below 0 capital alone costs more.
        """
        earned = self.tokens_per_hour * self.price_usd_per_million / _MILLION
        return (earned - self.capital_usd_per_hour) / self.drawn_kw * 1000


def capital_recovery(*, interest: Fraction, years: int) -> Fraction:
    """
    Return the share of a price to recover each year so that it is paid back with interest.
    """
    if not 1 <= years <= YEARS_MAX or not 0 <= interest <= 1:
        message = f"A price is recovered over 1 to {YEARS_MAX} years, at an interest of 0 to 1."
        raise AssumptionInvalidError(message, param="years")
    if interest == 0:
        return Fraction(1, years)
    growth = (1 + interest) ** years
    return interest * growth / (growth - 1)


def capital_per_hour(
    *, price_usd: Fraction, interest: Fraction, years: int, availability: Fraction
) -> Fraction:
    """
    Return the hourly rate that recovers what a GPU with its share of the plant cost to build.
    """
    if not 0 < availability <= 1 or price_usd < 0:
        message = "A price is at least 0; availability is above 0 and at most 1."
        raise AssumptionInvalidError(message, param="availability")
    yearly = price_usd * capital_recovery(interest=interest, years=years)
    return yearly / _HOURS_PER_YEAR / availability


def capital_within(hardware: Hardware) -> Fraction:
    """
    Return the registry's all-in rate without the power it is assumed to include.
    """
    included_mwh = hardware.it_kw * INCLUDED_PUE / 1000
    return hardware.usd_per_hour - included_mwh * INCLUDED_POWER_USD_PER_MWH


def unit_economics(
    served: Served, boundary: Boundary, hardware: Hardware, assumptions: Assumptions
) -> UnitEconomics | None:
    """
    Return what a tier costs and earns; ``None`` when it cannot be served.

    Args:
        served: The tier on the front.
        boundary: Of the front's power.
        hardware: What the GPU stands in.
        assumptions: The operator's.
    """
    if served.reach is Reach.UNREACHABLE:
        return None
    drawn = drawn_kw(served, boundary, hardware, assumptions.pue)
    capacity = exactly(served.tokens_per_s_per_gpu) * _SECONDS_PER_HOUR
    capital = assumptions.capital_usd_per_gpu_hour
    return UnitEconomics(
        served=served,
        price_usd_per_million=output_price(served.tier),
        drawn_kw=drawn,
        provisioned_kw=hardware.it_kw * assumptions.pue,
        capital_usd_per_hour=capital_within(hardware) if capital is None else capital,
        power_usd_per_hour=drawn * assumptions.power_usd_per_mwh / 1000,
        tokens_per_hour=capacity * assumptions.utilisation,
        capacity_tokens_per_hour=capacity,
    )


def drawn_kw(served: Served, boundary: Boundary, hardware: Hardware, pue: Fraction) -> Fraction:
    """
    Return a GPU's kilowatts at the utility's meter, from what was measured at the boundary.
    """
    measured = exactly(served.power_w_per_gpu) / 1000
    match boundary:
        case Boundary.GPU:
            return (measured + hardware.overhead_kw) * pue
        case Boundary.IT:
            return measured * pue
        case Boundary.UTILITY:
            return measured
