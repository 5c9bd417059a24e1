"""
Floors of the tiers, unit economics, the revenue table, and the laws fitted to the shipped points.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from benchmarks.factory.figures import Figure, economics_figures
from tokenworks.cli.main import app
from tokenworks.factory.economics.costing import (
    Assumptions,
    capital_per_hour,
    capital_within,
    drawn_kw,
)
from tokenworks.factory.economics.errors import AssumptionInvalidError, FrontUnknownError
from tokenworks.factory.economics.evaluating import (
    choose_front,
    evaluate,
    hardware_for,
    with_output_price,
)
from tokenworks.factory.economics.fitting import fit_power
from tokenworks.factory.economics.floors import Reach, serve
from tokenworks.factory.economics.model import Boundary, OperatingPoint
from tokenworks.factory.economics.reading import read_hardware, read_points, read_systems
from tokenworks.factory.economics.revenue import revenue_by_system
from tokenworks.pricing.tiers import load_tiers

POINT = OperatingPoint(
    row=2,
    gpu="b200",
    gpu_count=1,
    model="m",
    precision="fp8",
    engine="vllm",
    layout="tp1",
    workload="chat",
    batch=8.0,
    output_tokens_per_s=1000.0,
    tokens_per_s_per_user=60.0,
    ttft_ms=None,
    itl_ms=None,
    power_w=800.0,
    boundary=Boundary.GPU,
    as_of=None,
    source="here",
)
FAST = replace(POINT, row=3, output_tokens_per_s=250.0, tokens_per_s_per_user=240.0, power_w=600.0)
B200 = read_hardware()["b200"]
PLAIN = Assumptions(
    utilisation=Fraction(1),
    pue=Fraction(12, 10),
    power_usd_per_mwh=Fraction(80),
)


def run(*arguments: str) -> Result:
    """
    Run a command.
    """
    return CliRunner().invoke(app, ["factory", *arguments])


def answer(*arguments: str) -> dict[str, Any]:
    """
    Run a command that must do; return its JSON.
    """
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    ("tier", "reach", "speed", "throughput"),
    [
        ("free", Reach.MEASURED, 60.0, 1000.0),  # promises nothing: what serves most
        ("standard", Reach.CLAMPED, 60.0, 1000.0),  # floor 50: the slowest is faster
        ("premium", Reach.INTERPOLATED, 100.0, None),
        ("high_speed", Reach.INTERPOLATED, 200.0, None),
        ("elite", Reach.UNREACHABLE, None, 0.0),  # floor 300: none is that fast
    ],
)
def test_tier_says_how_it_is_served(
    tier: str, reach: Reach, speed: float | None, throughput: float | None
) -> None:
    """
    Measured, interpolated, clamped or unreachable; never extrapolated.
    """
    served = serve([POINT, FAST], load_tiers()[tier])
    assert (served.reach, served.tokens_per_s_per_user) == (reach, speed)
    if throughput is None:
        assert 250 < served.tokens_per_s_per_gpu < 1000
    else:
        assert served.tokens_per_s_per_gpu == throughput
    assert not served.is_first_token_measured


def test_point_at_the_floor_is_measured() -> None:
    """
    A point at the very speed of a floor needs no interpolation.
    """
    at_floor = replace(POINT, tokens_per_s_per_user=100.0)
    served = serve([at_floor, FAST], load_tiers()["premium"])
    assert (served.reach, served.tokens_per_s_per_gpu) == (Reach.MEASURED, 1000.0)


def test_late_first_token_is_not_used() -> None:
    """
    A point that keeps users waiting longer than the tier promises does not serve it.
    """
    premium = load_tiers()["premium"]
    late = replace(POINT, row=4, tokens_per_s_per_user=300.0, ttft_ms=3001.0)
    good = replace(POINT, row=5, tokens_per_s_per_user=100.0, ttft_ms=3000.0)
    assert serve([late], premium).reach is Reach.UNREACHABLE
    served = serve([late, good], premium)
    assert (served.reach, served.is_first_token_measured) == (Reach.MEASURED, True)


@pytest.mark.parametrize(
    ("boundary", "kilowatts"),
    [
        (Boundary.GPU, Fraction(1812, 1000)),  # (0.8 + 1.71 - 1) x 1.2
        (Boundary.IT, Fraction(96, 100)),
        (Boundary.UTILITY, Fraction(8, 10)),
    ],
)
def test_power_is_carried_to_the_utilitys_meter(boundary: Boundary, kilowatts: Fraction) -> None:
    """
    What stands between the boundary and the utility's meter is added, once.
    """
    served = serve([POINT], load_tiers()["free"])
    assert drawn_kw(served, boundary, B200, Fraction(12, 10)) == kilowatts


def test_unit_economics_of_one_gpu_by_hand() -> None:
    """
    1,000 tokens a second at 1.812 kW and $1.5 an hour.
    """
    [_, standard, *_] = evaluate(
        (POINT,),
        B200,
        replace(PLAIN, utilisation=Fraction(1, 2), capital_usd_per_gpu_hour=Fraction(3, 2)),
        load_tiers(),
    )
    found = standard.economics
    assert found is not None
    assert found.tokens_per_hour == 1_800_000
    assert found.power_usd_per_hour == Fraction("0.14496")
    assert found.cost_usd_per_million == Fraction("1.64496") / Fraction("1.8")
    assert found.tokens_per_joule == Fraction(500) / 1812
    # 500 tokens a second at $3 per million from 1.71 x 1.2 kW.
    assert found.usd_per_s_per_megawatt == Fraction("0.0015") / Fraction("2.052") * 1000
    assert found.break_even_utilisation == Fraction("1.64496") / Fraction("10.8")
    assert (
        found.break_even_power_usd_per_mwh
        == (Fraction("5.4") - Fraction("1.5")) / Fraction("1.812") * 1000
    )


def test_registry_rate_is_taken_without_its_power() -> None:
    """
    Power is not paid twice: the all-in rate minus 1.71 kW x 1.2 at $80.
    """
    assert capital_within(B200) == Fraction("1.73") - Fraction("0.16416")


def test_capital_is_spread_over_the_hours_that_run() -> None:
    """
    $35,040 over four years without interest is a dollar an hour; two when it runs half of them.
    """
    price, half = Fraction(35_040), Fraction(1, 2)
    rate = capital_per_hour(price_usd=price, interest=Fraction(0), years=4, availability=half)
    assert rate == 2
    with pytest.raises(AssumptionInvalidError):
        capital_per_hour(price_usd=price, interest=Fraction(0), years=4, availability=Fraction(0))
    with pytest.raises(AssumptionInvalidError):
        capital_per_hour(price_usd=price, interest=Fraction(0), years=0, availability=half)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"utilisation": Fraction(0)}, "utilisation"),
        ({"utilisation": Fraction(11, 10)}, "utilisation"),
        ({"pue": Fraction(99, 100)}, "pue"),
        ({"power_usd_per_mwh": Fraction(100_001)}, "power_usd_per_mwh"),
        ({"capital_usd_per_gpu_hour": Fraction(-1)}, "capital_usd_per_gpu_hour"),
    ],
)
def test_impossible_plant_is_refused(change: dict[str, Fraction], param: str) -> None:
    """
    Each assumption has bounds.
    """
    with pytest.raises(AssumptionInvalidError) as caught:
        replace(PLAIN, **change)
    assert caught.value.param == param


def test_free_tier_never_breaks_even_and_dear_capital_shows() -> None:
    """
    No price, no break-even use; a share above 1 and a negative power price say "never".
    """
    dear = replace(PLAIN, capital_usd_per_gpu_hour=Fraction(100))
    free, standard, *_ = evaluate((POINT,), B200, dear, load_tiers())
    assert free.economics is not None
    assert free.economics.break_even_utilisation is None
    assert standard.economics is not None
    share = standard.economics.break_even_utilisation
    assert share is not None
    assert share > 1
    assert standard.economics.break_even_power_usd_per_mwh < 0


def test_points_of_two_boundaries_are_refused() -> None:
    """
    Watts of boards and of a whole site do not make one curve.
    """
    other = replace(FAST, boundary=Boundary.UTILITY)
    with pytest.raises(AssumptionInvalidError, match="row 2 gpu, row 3 utility"):
        evaluate((POINT, other), B200, PLAIN, load_tiers())


@pytest.mark.parametrize(
    ("gpu", "model", "workload", "message"),
    [
        ("h100", "Qwen3-32B", None, "Several fronts fit"),
        ("h100", "gpt-5", None, "its models are .*gpt-oss-120b"),
        ("abacus", "gpt-oss-120b", None, "the GPUs are b200, h100"),
        ("h100", "gpt-oss-120b", "poems", "are one of: .*gpqa"),
    ],
)
def test_front_that_is_not_one_is_refused(
    gpu: str, model: str, workload: str | None, message: str
) -> None:
    """
    The message names what there is.
    """
    with pytest.raises(FrontUnknownError, match=message):
        choose_front(read_points(), gpu=gpu, model=model, workload=workload)


def test_unknown_hardware_and_tier_are_refused() -> None:
    """
    As above, for what prices them.
    """
    with pytest.raises(FrontUnknownError, match="those of h100"):
        hardware_for(read_hardware(), "abacus")
    with pytest.raises(AssumptionInvalidError, match="the tiers are free"):
        with_output_price(load_tiers(), "golden", Fraction(1))
    with pytest.raises(AssumptionInvalidError, match="nine decimals"):
        with_output_price(load_tiers(), "standard", Fraction(1, 3))


def test_revenue_by_system_is_the_reports() -> None:
    """
    Every figure of the table, to its last printed digit.
    """
    table = {row.system: row for row in revenue_by_system(read_systems(), load_tiers())}
    rubin = table["Vera Rubin NVL72 (CoreWeave ES Jul 2026)"]
    assert rubin.even_split_usd_billion(4) == Fraction("190.664685")
    assert rubin.break_even_power_usd_per_mwh("standard") == 14364
    [old] = [row for name, row in table.items() if "2025" in name]
    assert [each.reach for each in old.tiers][-1] is Reach.UNREACHABLE
    assert old.break_even_power_usd_per_mwh("elite") is None


def test_figures_are_reached() -> None:
    """
    What `make bench-factory` prints is within its targets.
    """
    figures: list[Figure] = economics_figures()
    assert [figure.name for figure in figures if not figure.is_reached] == []
    assert len(figures) == 4


def test_power_law_finds_a_law_it_is_given() -> None:
    """
    Points of a logistic law give the law back.
    """
    watts = [(2.0**step, 300 + 300 / (1 + math.exp(4.2 - step))) for step in range(9)]
    law = fit_power([replace(POINT, batch=batch, power_w=power) for batch, power in watts])
    for batch, power in watts:
        assert law.at(batch) == pytest.approx(power, rel=1e-3)


def test_command_shows_the_front_and_what_is_behind() -> None:
    """
    All points of a front are shown, those behind it with the row that is better.
    """
    document = answer("frontier")
    assert len(document["front"]) + len(document["dominated"]) == 37
    rows = {point["row"] for point in document["front"]}
    assert all(point["dominated_by_row"] in rows for point in document["dominated"])
    assert [tier["reach"] for tier in document["tiers"]][-1] == "unreachable"
    assert "P6-D2-EP8DPA" in run("frontier").stdout


def test_command_shows_economics_and_systems() -> None:
    """
    Exact figures as text, rounded; a tier that no point serves has a price alone.
    """
    free, standard, *_, elite = answer("economics", "--utilisation", "0.5")["items"]
    assert free["break_even_utilisation"] is None
    assert Fraction(standard["cost_usd_per_million"]) > 0
    assert elite == {
        "tier": "elite",
        "reach": "unreachable",
        "price_usd_per_million": "150.0000",
    }
    assert [row["even_four_usd_billion"] for row in answer("systems")["items"]] == [
        *("70.51", "64.92", "43.76", "190.66"),
    ]


def test_capital_is_given_as_a_price_or_as_a_rate() -> None:
    """
    $35,040 over four years without interest is a dollar an hour; both at once is a question.
    """
    terms = ("--capex", "35040", "--interest", "0", "--years", "4")
    assert answer("economics", *terms) == answer("economics", "--capital-rate", "1")
    result = run("economics", *terms, "--capital-rate", "1")
    assert result.exit_code == 2
    assert "Give --capex or --capital-rate" in result.stderr


def test_command_compares_before_and_after() -> None:
    """
    Half the use doubles the cost; other hardware and a lower price show.
    """
    half = answer("what-if", "--to-utilisation", "0.5")["items"]
    before, after = [row for row in half if row["tier"] == "standard"]
    cost = [Fraction(row["cost_usd_per_million"]) for row in (before, after)]
    assert abs(cost[1] / cost[0] - 2) < Fraction(1, 1000)
    moved = answer(
        *("what-if", "--model", "gpt-oss-120b", "--workload", "gpqa", "--to-gpu", "h100"),
        *("--to-tier-price", "standard=2.5", "--to-pue", "1.1", "--to-power-price", "-20"),
    )["items"]
    before, after = [row for row in moved if row["tier"] == "standard"]
    assert (before["price_usd_per_million"], after["price_usd_per_million"]) == ("3.0000", "2.5000")
    assert Fraction(after["power_usd_per_million"]) < 0 < Fraction(before["power_usd_per_million"])


def test_command_refuses_in_words(tmp_path: Path) -> None:
    """
    No number, no such table: a sentence, exit code 2.
    """
    result = run("economics", "--pue", "NaN")
    assert result.exit_code == 2
    assert "'NaN' is no decimal number" in result.stderr
    result = run("frontier", "--points", str(tmp_path / "absent.csv"))
    assert result.exit_code == 2
    assert "absent.csv, at the top" in result.stderr
