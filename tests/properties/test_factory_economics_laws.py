"""
Laws of the factory's economics: the front, interpolation, units, money.
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tokenworks.factory.economics.costing import (
    Assumptions,
    capital_recovery,
    unit_economics,
)
from tokenworks.factory.economics.floors import Reach, serve
from tokenworks.factory.economics.frontier import dominates, find_front
from tokenworks.factory.economics.interpolating import LogarithmicCurve, MonotoneCurve
from tokenworks.factory.economics.model import (
    Boundary,
    Hardware,
    OperatingPoint,
    exactly,
    to_decimal,
)
from tokenworks.pricing.tiers import load_tiers

POINT = OperatingPoint(
    row=1,
    gpu="g",
    gpu_count=2,
    model="m",
    precision="p",
    engine="e",
    layout="l",
    workload="w",
    batch=8.0,
    output_tokens_per_s=100.0,
    tokens_per_s_per_user=50.0,
    ttft_ms=None,
    itl_ms=None,
    power_w=1000.0,
    boundary=Boundary.GPU,
    as_of=None,
    source="s",
)
HARDWARE = Hardware(
    gpu="g",
    label="G",
    tdp_kw=Fraction(1),
    it_kw=Fraction(171, 100),
    usd_per_hour=Fraction(173, 100),
)

measured = st.floats(min_value=0.01, max_value=1e6)
few = st.sampled_from([1.0, 2.0, 3.0, 5.0])  # so that points meet
fractions = st.fractions(min_value=0, max_value=1000, max_denominator=10_000)


@st.composite
def clouds(draw: st.DrawFn) -> list[OperatingPoint]:
    """
    Some points of one front.
    """
    pairs = draw(st.lists(st.tuples(few | measured, few | measured), min_size=1, max_size=30))
    return [
        replace(POINT, row=row, tokens_per_s_per_user=speed, output_tokens_per_s=rate)
        for row, (speed, rate) in enumerate(pairs, start=2)
    ]


@st.composite
def functions(draw: st.DrawFn) -> tuple[list[float], list[float]]:
    """
    Ascending xs that floats can tell apart, with any ys.
    """
    xs = sorted(draw(st.sets(st.integers(-1000, 1000), min_size=1, max_size=12)))
    size = len(xs)
    ys = draw(st.lists(st.floats(-1e6, 1e6), min_size=size, max_size=size))
    return [float(x) for x in xs], ys


@given(clouds())
def test_front_is_not_dominated_and_complete(points: list[OperatingPoint]) -> None:
    """
    A point is on the front exactly when none dominates it; the others name one on the front
    that does; none is lost.
    """
    front = find_front(points)
    expected = [point for point in points if not any(dominates(other, point) for other in points)]
    assert sorted(point.row for point in front.points) == sorted(point.row for point in expected)
    for entry in front.dominated:
        assert dominates(entry.by, entry.point)
        assert entry.by in front.points
    rows = [point.row for point in front.points] + [each.point.row for each in front.dominated]
    assert sorted(rows) == [point.row for point in points]
    for slow, fast in pairwise(front.points):
        assert slow.tokens_per_s_per_user <= fast.tokens_per_s_per_user
        assert slow.tokens_per_s_per_gpu >= fast.tokens_per_s_per_gpu


@given(functions())
def test_curve_goes_through_its_points(function: tuple[list[float], list[float]]) -> None:
    """
    At a measured x it says what was measured, exactly.
    """
    xs, ys = function
    curve = MonotoneCurve(xs, ys)
    assert [curve.at(x) for x in xs] == ys


@given(functions(), st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_curve_is_monotone_between_neighbours(
    function: tuple[list[float], list[float]], shares: list[float]
) -> None:
    """
    Between two points it goes one way only, and never beyond them.
    """
    xs, ys = function
    curve = MonotoneCurve(xs, ys)
    for (left, low), (right, high) in pairwise(zip(xs, ys, strict=True)):
        places = sorted(min(left + share * (right - left), right) for share in shares)
        values = [low, *(curve.at(place) for place in places), high]
        assert min(values) >= min(low, high)
        assert max(values) <= max(low, high)
        # Floats of a cubic round by some units in the last place of its largest term.
        slack = 1e-12 * max(abs(low), abs(high), abs(high - low), 1e-300)
        turn = 1.0 if high >= low else -1.0
        assert all((b - a) * turn >= -slack for a, b in pairwise(values))


@given(st.lists(st.tuples(st.integers(1, 4096), measured), min_size=1, unique_by=lambda p: p[0]))
def test_logarithmic_curve_keeps_what_was_measured(pairs: list[tuple[int, float]]) -> None:
    """
    Logarithms and back lose nothing at the points themselves.
    """
    xs, ys = zip(*sorted((float(x), y) for x, y in pairs), strict=True)
    curve = LogarithmicCurve(xs, ys)
    assert tuple(curve.at(x) for x in xs) == ys


@given(clouds())
def test_tier_is_served_by_no_more_than_a_point_as_fast(points: list[OperatingPoint]) -> None:
    """
    At a floor never more is served than by the best point that may be slower; where a point is as
    fast, something is served; where none is, nothing.
    """
    for tier in load_tiers().values():
        served = serve(points, tier)
        floor = tier.speed_floor_tokens_per_s or 0
        fast = [point for point in points if point.tokens_per_s_per_user >= floor]
        assert (served.reach is Reach.UNREACHABLE) == (not fast)
        if fast:
            best = max(point.tokens_per_s_per_gpu for point in fast)
            assert served.tokens_per_s_per_gpu >= best * (1 - 1e-9)
            most = max(point.tokens_per_s_per_gpu for point in points)
            assert served.tokens_per_s_per_gpu <= most
        else:
            assert served.tokens_per_s_per_gpu == 0


@given(measured, measured, st.integers(1, 64))
def test_units_come_back(rate: float, watts: float, count: int) -> None:
    """
    Joules per token and tokens per joule are inverse; watts per token are the same per GPU.
    """
    point = replace(POINT, output_tokens_per_s=rate, power_w=watts, gpu_count=count)
    per_gpu = point.power_w_per_gpu / point.tokens_per_s_per_gpu
    assert math.isclose(per_gpu, point.joules_per_token, rel_tol=1e-12)
    assert float(exactly(rate)) == rate
    # 1 token per joule is a million tokens per second and megawatt, and 1/3.6 kWh per million.
    per_joule = 1 / exactly(point.joules_per_token)
    kwh_per_million = exactly(point.joules_per_token) / Fraction(36, 10)
    assert per_joule * kwh_per_million * Fraction(36, 10) == 1


@given(
    st.fractions(min_value=Fraction(1, 100), max_value=1, max_denominator=1000),
    st.fractions(min_value=1, max_value=2, max_denominator=1000),
    st.fractions(min_value=-50, max_value=5000, max_denominator=100),
    fractions,
)
def test_money_is_exact(
    utilisation: Fraction, pue: Fraction, power: Fraction, capital: Fraction
) -> None:
    """
    What a million costs, times what is sold, is what an hour costs; at both break-evens revenue
    is cost, to the last digit.
    """
    assumptions = Assumptions(
        utilisation=utilisation,
        pue=pue,
        power_usd_per_mwh=power,
        capital_usd_per_gpu_hour=capital,
    )
    served = serve([POINT], load_tiers()["standard"])
    found = unit_economics(served, Boundary.GPU, HARDWARE, assumptions)
    assert found is not None
    sold_millions = found.tokens_per_hour / 10**6
    assert found.cost_usd_per_million * sold_millions == found.cost_usd_per_hour
    share = found.break_even_utilisation
    assert share is not None
    capacity_millions = found.capacity_tokens_per_hour / 10**6
    revenue = share * capacity_millions * found.price_usd_per_million
    assert revenue == found.cost_usd_per_hour
    at_limit = replace(assumptions, power_usd_per_mwh=Fraction(0))
    free_power = unit_economics(served, Boundary.GPU, HARDWARE, at_limit)
    assert free_power is not None
    limit = found.break_even_power_usd_per_mwh
    spent = free_power.cost_usd_per_hour + found.drawn_kw * limit / 1000
    assert spent == sold_millions * found.price_usd_per_million


@given(st.fractions(0, 1, max_denominator=1000), st.integers(1, 30))
def test_capital_is_recovered_to_the_last_digit(interest: Fraction, years: int) -> None:
    """
    After the years of equal payments nothing is owed.
    """
    payment = capital_recovery(interest=interest, years=years)
    owed = Fraction(1)
    for _ in range(years):
        owed = owed * (1 + interest) - payment
    assert owed == 0


@given(st.fractions(max_denominator=10**9), st.integers(0, 9))
def test_rounding_is_at_most_half_a_digit(value: Fraction, places: int) -> None:
    """
    A figure that is shown is the nearest of its digits.
    """
    assert abs(Fraction(to_decimal(value, places)) - value) <= Fraction(1, 2 * 10**places)
