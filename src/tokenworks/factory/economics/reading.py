"""
From rows of text to measured points; what contradicts itself is refused with row and column.
"""

from __future__ import annotations

from fractions import Fraction
from importlib.resources.abc import Traversable
from typing import Final

from tokenworks.catalogue.table import (
    Row,
    read_shipped_sources,
    read_shipped_table,
    read_table,
)
from tokenworks.factory.economics.model import (
    Boundary,
    Hardware,
    OperatingPoint,
    PhaseEnergy,
    SystemPoint,
)

AGREEMENT: Final = 0.01
"""How far a stated figure may be from what the rest of its row makes of it: rounding, no more."""


def read_points(file: Traversable | None = None) -> tuple[OperatingPoint, ...]:
    """
    Return the operating points of a file, by default those shipped.

    Raises:
        CatalogueError: A cell does not fit, a row contradicts itself or another row.
    """
    if file is None:
        rows = read_shipped_table("operating_points")
    else:
        rows = read_table(file, schema="operating_points")
    points: dict[tuple[object, ...], OperatingPoint] = {}
    for row in rows:
        point = _point(row)
        twin = points.setdefault((*point.curve_key, point.batch), point)
        if twin is not point:
            raise _contradiction(row, point, twin)
    return tuple(points.values())


def read_sources() -> dict[str, str]:
    """
    Return what the shipped operating points say about each of their sources.
    """
    return read_shipped_sources("operating_points")


def read_systems() -> tuple[SystemPoint, ...]:
    """
    Return the shipped frontiers of whole systems.
    """
    seen: dict[tuple[str, float], int] = {}
    systems: list[SystemPoint] = []
    for row in read_shipped_table("system_frontiers"):
        cells = row.cells
        point = SystemPoint(
            system=cells["system"],
            tokens_per_s_per_user=float(cells["tokens_per_s_per_user"]),
            output_tokens_per_s_per_megawatt=Fraction(cells["output_tokens_per_s_per_megawatt"]),
            usd_per_million_output_tokens=Fraction(cells["usd_per_million_output_tokens"]),
            boundary=Boundary(cells["boundary"]),
        )
        first = seen.setdefault((point.system, point.tokens_per_s_per_user), row.line)
        if first != row.line:
            raise row.error("tokens_per_s_per_user", f"row {first} has this speed already.")
        systems.append(point)
    return tuple(systems)


def read_phase_energy() -> tuple[PhaseEnergy, ...]:
    """
    Return the shipped measurements of prefill and decode.
    """
    return tuple(
        PhaseEnergy(
            row=row.line,
            input_tokens=int(row.cells["input_tokens"]),
            output_tokens=int(row.cells["output_tokens"]),
            prefill_joules_per_input_token=float(row.cells["prefill_joules_per_input_token"]),
            decode_joules_per_output_token=float(row.cells["decode_joules_per_output_token"]),
            joules_per_output_token=float(row.cells["joules_per_output_token"]),
        )
        for row in read_shipped_table("phase_energy")
    )


def read_hardware() -> dict[str, Hardware]:
    """
    Return the shipped hardware by its name in the operating points.
    """
    machines: dict[str, Hardware] = {}
    for row in read_shipped_table("hardware"):
        cells = row.cells
        machine = Hardware(
            gpu=cells["gpu"],
            label=cells["label"],
            tdp_kw=Fraction(cells["tdp_w"]) / 1000,
            it_kw=Fraction(cells["it_kw"]),
            usd_per_hour=Fraction(cells["hyperscaler_usd_per_hour"]),
        )
        if machine.overhead_kw < 0:
            raise row.error("it_kw", "all of it draws less than its GPU may.")
        if machines.setdefault(machine.gpu, machine) is not machine:
            raise row.error("gpu", f"{machine.gpu!r} stands twice.")
    return machines


def _point(row: Row) -> OperatingPoint:
    cells = row.cells
    point = OperatingPoint(
        row=row.line,
        gpu=cells["gpu"],
        gpu_count=int(cells["gpu_count"]),
        model=cells["model"],
        precision=cells["precision"],
        engine=cells["engine"],
        layout=cells["layout"],
        workload=cells["workload"],
        batch=float(cells["batch"]),
        output_tokens_per_s=float(cells["output_tokens_per_s"]),
        tokens_per_s_per_user=float(cells["tokens_per_s_per_user"]),
        ttft_ms=_optional(cells.get("ttft_ms")),
        itl_ms=_optional(cells.get("itl_ms")),
        power_w=float(cells["power_w"]),
        boundary=Boundary(cells["boundary"]),
        as_of=cells.get("as_of") or None,
        source=cells["source"],
    )
    stated = _optional(cells.get("joules_per_output_token"))
    _agree(row, "joules_per_output_token", stated, point.joules_per_token, "power_w says")
    between_ms = 1000 / point.tokens_per_s_per_user
    _agree(row, "itl_ms", point.itl_ms, between_ms, "tokens_per_s_per_user says")
    return point


def _optional(text: str | None) -> float | None:
    return float(text) if text else None


def _agree(row: Row, column: str, stated: float | None, derived: float, says: str) -> None:
    if stated is not None and abs(stated - derived) > AGREEMENT * derived:
        raise row.error(column, f"{stated:g} contradicts the row: {says} {derived:g}.")


def _contradiction(row: Row, point: OperatingPoint, twin: OperatingPoint) -> Exception:
    for column in ("output_tokens_per_s", "tokens_per_s_per_user", "ttft_ms", "itl_ms", "power_w"):
        here, there = getattr(point, column), getattr(twin, column)
        if here != there:
            return row.error(
                column, f"{here} contradicts row {twin.row}, the same point with {there}."
            )
    return row.error("batch", f"row {twin.row} is the same point.")
