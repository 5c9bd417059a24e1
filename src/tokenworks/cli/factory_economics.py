"""
``tokenworks factory frontier | economics | what-if``: offline, from measured operating points.
"""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from tokenworks.cli.client import JsonOption
from tokenworks.cli.rendering import Column, Output, Record, column
from tokenworks.factory.economics.costing import Assumptions, capital_per_hour
from tokenworks.factory.economics.errors import AssumptionInvalidError
from tokenworks.factory.economics.evaluating import (
    TierEvaluation,
    choose_front,
    evaluate,
    hardware_for,
    with_output_price,
)
from tokenworks.factory.economics.floors import Reach, Served, output_price, serve
from tokenworks.factory.economics.frontier import find_front
from tokenworks.factory.economics.model import OperatingPoint, to_decimal
from tokenworks.factory.economics.reading import read_hardware, read_points, read_systems
from tokenworks.factory.economics.revenue import BASE_TIERS, SystemRevenue, revenue_by_system
from tokenworks.pricing.tiers import load_tiers

_NUMBER: Final = re.compile(r"-?[0-9]{1,9}([.][0-9]{1,9})?")

PointsOption = Annotated[
    Path | None, typer.Option("--points", help="A table of operating points; else those shipped.")
]
GpuOption = Annotated[str, typer.Option(help="As in the points.")]
ModelOption = Annotated[str, typer.Option(help="As in the points.")]
PrecisionOption = Annotated[str | None, typer.Option(help="Where several fronts fit.")]
WorkloadOption = Annotated[str | None, typer.Option(help="Where several fronts fit.")]
UtilisationOption = Annotated[str, typer.Option(help="Share of the capacity that is sold.")]
PueOption = Annotated[str, typer.Option(help="Utility power over IT power.")]
PowerPriceOption = Annotated[str, typer.Option(help="US dollars per MWh.")]
CapitalOption = Annotated[
    str | None, typer.Option(help="US dollars per GPU-hour without power; else the registry's.")
]

POINT_COLUMNS: Final = (
    column("Row", right=True),
    *(column(title) for title in ("Engine", "Layout")),
    column("Batch", right=True),
    column("tok/s/user", "tokens_per_s_per_user", right=True),
    column("tok/s/GPU", "tokens_per_s_per_gpu", right=True),
    column("J/tok", "joules_per_token", right=True),
    column("TTFT ms", "ttft_ms", right=True),
    *(column(title) for title in ("Boundary", "As of", "Source")),
)
TIER_COLUMNS: Final = (
    *(column(title) for title in ("Tier", "Reach")),
    column("tok/s/user", "tokens_per_s_per_user", right=True),
    column("tok/s/GPU", "tokens_per_s_per_gpu", right=True),
    column("TTFT known", "is_first_token_measured"),
)
ECONOMICS_COLUMNS: Final = (
    *(column(title) for title in ("Tier", "Reach")),
    column("$/M price", "price_usd_per_million", right=True),
    column("$/M cost", "cost_usd_per_million", right=True),
    column("of it power", "power_usd_per_million", right=True),
    column("tok/J", "tokens_per_joule", right=True),
    column("$/s/MW", "usd_per_s_per_megawatt", right=True),
    column("break-even use", "break_even_utilisation", right=True),
    column("break-even $/MWh", "break_even_power_usd_per_mwh", right=True),
)
SYSTEM_COLUMNS: Final = (
    column("System"),
    column("$/s/MW by tier", "usd_per_s_per_megawatt"),
    column("even 4, $B/GW-yr", "even_four_usd_billion", right=True),
    column("even 5", "even_five_usd_billion", right=True),
    column("best one", "best_single_usd_billion", right=True),
    column("standard, $/MWh", "break_even_power_usd_per_mwh", right=True),
)


def add_commands(app: typer.Typer) -> None:
    """
    Register the commands of this module.
    """
    app.command("frontier")(frontier)
    app.command("economics")(economics)
    app.command("systems")(systems)
    app.command("what-if")(what_if)


def frontier(
    gpu: GpuOption = "b200",
    model: ModelOption = "DeepSeek-V4-Pro",
    precision: PrecisionOption = None,
    workload: WorkloadOption = None,
    points: PointsOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Show the Pareto front, what it leaves behind, and what it serves at each tier's floor.
    """
    output = Output(as_json=as_json)
    key, group = choose_front(
        read_points(points), gpu=gpu, model=model, precision=precision, workload=workload
    )
    front = find_front(group)
    on_it = [_point(point) for point in front.points]
    behind = [_point(entry.point) | {"dominated_by_row": entry.by.row} for entry in front.dominated]
    tiers = [_served(serve(group, tier)) for tier in load_tiers().values()]
    if as_json:
        document = {"front": on_it, "dominated": behind, "tiers": tiers}
        output.document({"gpu": key.gpu, "model": key.model} | document)
        return
    output.note(f"{key.model} {key.precision} on {key.gpu}, {key.workload}: the front.")
    output.records(on_it, POINT_COLUMNS, empty="There is none.")
    output.note("Dominated: another point is at least as fast and serves at least as much.")
    by = column("By row", "dominated_by_row", right=True)
    output.records(behind, (*POINT_COLUMNS, by), empty="No point is dominated.")
    output.note("What one GPU serves at each tier's floor.")
    output.records(tiers, TIER_COLUMNS, empty="There is no tier.")


def economics(
    gpu: GpuOption = "b200",
    model: ModelOption = "DeepSeek-V4-Pro",
    precision: PrecisionOption = None,
    workload: WorkloadOption = None,
    points: PointsOption = None,
    utilisation: UtilisationOption = "1",
    pue: PueOption = "1.2",
    power_price: PowerPriceOption = "80",
    capital_rate: CapitalOption = None,
    capex: Annotated[
        str | None, typer.Option(help="US dollars to build a GPU with its share of the plant.")
    ] = None,
    interest: Annotated[str, typer.Option(help="With --capex: a year's, as a share.")] = "0.08",
    years: Annotated[int, typer.Option(help="With --capex: until it is paid back.")] = 4,
    availability: Annotated[str, typer.Option(help="With --capex: hours that it runs.")] = "1",
    as_json: JsonOption = False,
) -> None:
    """
    Show what a million output tokens cost and a megawatt earns, tier by tier.
    """
    assumptions = _assumptions(utilisation, pue, power_price, capital_rate)
    if capex is not None:
        if capital_rate is not None:
            message = "Give --capex or --capital-rate: each is all there is but power."
            raise AssumptionInvalidError(message, param="capex")
        rate = capital_per_hour(
            price_usd=_number(capex, "capex"),
            interest=_number(interest, "interest"),
            years=years,
            availability=_number(availability, "availability"),
        )
        assumptions = replace(assumptions, capital_usd_per_gpu_hour=rate)
    _, group = choose_front(
        read_points(points), gpu=gpu, model=model, precision=precision, workload=workload
    )
    hardware = hardware_for(read_hardware(), gpu)
    rows = [_economics(each) for each in evaluate(group, hardware, assumptions, load_tiers())]
    Output(as_json=as_json).records(rows, ECONOMICS_COLUMNS, empty="There is no tier.")


def systems(as_json: JsonOption = False) -> None:
    """
    Show what a gigawatt of each system earns in a year at the tiers' prices, all of it sold.
    """
    rows = [_system(row) for row in revenue_by_system(read_systems(), load_tiers())]
    Output(as_json=as_json).records(rows, SYSTEM_COLUMNS, empty="There is no system.")


def what_if(
    gpu: GpuOption = "b200",
    model: ModelOption = "DeepSeek-V4-Pro",
    precision: PrecisionOption = None,
    workload: WorkloadOption = None,
    points: PointsOption = None,
    utilisation: UtilisationOption = "1",
    pue: PueOption = "1.2",
    power_price: PowerPriceOption = "80",
    capital_rate: CapitalOption = None,
    to_gpu: Annotated[str | None, typer.Option(help="The same model on other hardware.")] = None,
    to_utilisation: Annotated[str | None, typer.Option(help="Another share.")] = None,
    to_pue: Annotated[str | None, typer.Option(help="Another PUE.")] = None,
    to_power_price: Annotated[str | None, typer.Option(help="Another power price.")] = None,
    to_capital_rate: Annotated[str | None, typer.Option(help="Another hourly rate.")] = None,
    to_tier_price: Annotated[
        str | None, typer.Option(help="TIER=USD: another price per million output tokens.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """
    Compare the economics before and after a change of hardware, PUE, price or utilisation.
    """
    before = _assumptions(utilisation, pue, power_price, capital_rate)
    after = _assumptions(
        to_utilisation or utilisation,
        to_pue or pue,
        to_power_price or power_price,
        to_capital_rate or capital_rate,
    )
    if to_gpu is not None and capital_rate is not None and to_capital_rate is None:
        after = replace(after, capital_usd_per_gpu_hour=None)  # the rate was the other GPU's
    tiers = load_tiers()
    changed = tiers
    if to_tier_price is not None:
        name, _, text = to_tier_price.partition("=")
        changed = with_output_price(tiers, name, _number(text, "to_tier_price"))
    known, machines = read_points(points), read_hardware()
    _, first = choose_front(known, gpu=gpu, model=model, precision=precision, workload=workload)
    target = to_gpu or gpu
    _, second = choose_front(known, gpu=target, model=model, precision=precision, workload=workload)
    old = evaluate(first, hardware_for(machines, gpu), before, tiers)
    new = evaluate(second, hardware_for(machines, target), after, changed)
    rows = [
        _economics(each) | {"case": case}
        for pair in zip(old, new, strict=True)
        for case, each in zip(("before", "after"), pair, strict=True)
    ]
    columns: tuple[Column, ...] = (column("Case"), *ECONOMICS_COLUMNS)
    Output(as_json=as_json).records(rows, columns, empty="There is no tier.")


def _assumptions(utilisation: str, pue: str, power: str, capital: str | None) -> Assumptions:
    return Assumptions(
        utilisation=_number(utilisation, "utilisation"),
        pue=_number(pue, "pue"),
        power_usd_per_mwh=_number(power, "power_price"),
        capital_usd_per_gpu_hour=None if capital is None else _number(capital, "capital_rate"),
    )


def _number(text: str, param: str) -> Fraction:
    if _NUMBER.fullmatch(text) is None:
        raise AssumptionInvalidError(f"{text!r} is no decimal number.", param=param)
    return Fraction(text)


def _point(point: OperatingPoint) -> dict[str, Any]:
    return {
        "row": point.row,
        "engine": point.engine,
        "layout": point.layout,
        "batch": point.batch,
        "tokens_per_s_per_user": point.tokens_per_s_per_user,
        "tokens_per_s_per_gpu": round(point.tokens_per_s_per_gpu, 3),
        "joules_per_token": round(point.joules_per_token, 6),
        "ttft_ms": point.ttft_ms,
        "boundary": point.boundary.value,
        "as_of": point.as_of,
        "source": point.source,
    }


def _served(served: Served) -> Record:
    return {
        "tier": served.tier.tier_id,
        "reach": served.reach.value,
        "tokens_per_s_per_user": served.tokens_per_s_per_user,
        "tokens_per_s_per_gpu": round(served.tokens_per_s_per_gpu, 3),
        "is_first_token_measured": served.is_first_token_measured,
    }


def _economics(evaluation: TierEvaluation) -> dict[str, Any]:
    served, found = evaluation.served, evaluation.economics
    row: dict[str, Any] = {
        "tier": served.tier.tier_id,
        "reach": served.reach.value,
        "price_usd_per_million": _text(output_price(served.tier), 4),
    }
    if found is None:
        return row
    share = found.break_even_utilisation
    return row | {
        "cost_usd_per_million": _text(found.cost_usd_per_million, 4),
        "power_usd_per_million": _text(found.power_usd_per_million, 4),
        "tokens_per_joule": _text(found.tokens_per_joule, 4),
        "usd_per_s_per_megawatt": _text(found.usd_per_s_per_megawatt, 4),
        "break_even_utilisation": None if share is None else _text(share, 4),
        "break_even_power_usd_per_mwh": _text(found.break_even_power_usd_per_mwh, 2),
    }


def _system(row: SystemRevenue) -> Record:
    power = row.break_even_power_usd_per_mwh("standard")
    return {
        "system": row.system,
        "usd_per_s_per_megawatt": {
            each.tier.tier_id: _text(each.usd_per_s_per_megawatt, 4)
            if each.reach is not Reach.UNREACHABLE
            else each.reach.value
            for each in row.tiers
        },
        "even_four_usd_billion": _text(row.even_split_usd_billion(BASE_TIERS), 2),
        "even_five_usd_billion": _text(row.even_split_usd_billion(len(row.tiers)), 2),
        "best_single_usd_billion": _text(row.best_single_usd_billion, 2),
        "break_even_power_usd_per_mwh": None if power is None else _text(power, 2),
    }


def _text(value: Fraction, places: int) -> str:
    return f"{to_decimal(value, places):f}"
