"""
Measured operating points: fronts, unit economics, the revenue table.

Public facts and arithmetic, nothing of this hub but its tiers: any key may ask. The functions
are those of ``tokenworks factory frontier | economics | what-if | systems``. They are no
coroutines on purpose: reading a table takes a while, and calls must not wait for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from typing import Annotated, Final

from fastapi import APIRouter, Query

from tokenworks.factory.economics.costing import Assumptions
from tokenworks.factory.economics.evaluating import choose_front, evaluate, hardware_for
from tokenworks.factory.economics.floors import serve
from tokenworks.factory.economics.frontier import find_front, group_by_front
from tokenworks.factory.economics.model import Hardware, OperatingPoint, SystemPoint
from tokenworks.factory.economics.reading import (
    read_hardware,
    read_points,
    read_sources,
    read_systems,
)
from tokenworks.factory.economics.revenue import revenue_by_system
from tokenworks.web.hub_api.access import Services
from tokenworks.web.hub_api.rendering.economics import (
    to_economics,
    to_front_name,
    to_frontier,
    to_system,
)
from tokenworks.web.hub_api.shapes.economics import (
    EconomicsQuery,
    EconomicsShape,
    FrontierShape,
    FrontNameShape,
    FrontQuery,
    SystemShape,
)
from tokenworks.web.hub_api.shapes.parts import Items

router: Final = APIRouter(prefix="/factory", tags=["factory"])


@router.get("/fronts")
def list_fronts() -> Items[FrontNameShape]:
    """
    List the fronts there are points for.
    """
    machines = _hardware()
    return Items(
        items=[
            to_front_name(key, points=len(points), is_priced=key.gpu in machines)
            for key, points in group_by_front(_points()).items()
        ]
    )


@router.get("/frontier")
def show_frontier(query: Annotated[FrontQuery, Query()], services: Services) -> FrontierShape:
    """
    Show the Pareto front, what it leaves behind, and what it serves at each tier's floor.
    """
    key, points = choose_front(
        _points(),
        gpu=query.gpu,
        model=query.model,
        precision=query.precision,
        workload=query.workload,
    )
    served = [serve(points, tier) for tier in services.prices.tiers.values()]
    return to_frontier(key, find_front(points), served, _sources())


@router.get("/economics")
def show_economics(query: Annotated[EconomicsQuery, Query()], services: Services) -> EconomicsShape:
    """
    Show what a million output tokens cost and a megawatt earns, tier by tier.
    """
    capital = query.capital_usd_per_gpu_hour
    assumptions = Assumptions(
        utilisation=Fraction(query.utilisation),
        pue=Fraction(query.pue),
        power_usd_per_mwh=Fraction(query.power_usd_per_mwh),
        capital_usd_per_gpu_hour=None if capital is None else Fraction(capital),
    )
    key, points = choose_front(
        _points(),
        gpu=query.gpu,
        model=query.model,
        precision=query.precision,
        workload=query.workload,
    )
    hardware = hardware_for(_hardware(), query.gpu)
    evaluations = evaluate(points, hardware, assumptions, services.prices.tiers)
    return to_economics(key, hardware, assumptions, evaluations)


@router.get("/systems")
def list_systems(services: Services) -> Items[SystemShape]:
    """
    List what a gigawatt of each system earns in a year at the tiers' prices, all of it sold.
    """
    points = _systems()
    rows = revenue_by_system(points, services.prices.tiers)
    return Items(items=[to_system(row, points) for row in rows])


@cache
def _points() -> tuple[OperatingPoint, ...]:
    return read_points()


@cache
def _hardware() -> Mapping[str, Hardware]:
    return read_hardware()


@cache
def _systems() -> tuple[SystemPoint, ...]:
    return read_systems()


@cache
def _sources() -> dict[str, str]:
    return read_sources()
